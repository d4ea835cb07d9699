"""A model without its weights: its files, its tokenizer, its chat template."""
