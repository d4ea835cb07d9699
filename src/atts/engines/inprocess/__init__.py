"""The engine in this process: a transformers model, batched continuously."""
