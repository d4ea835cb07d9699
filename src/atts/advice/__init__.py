"""What a pair is worth on these servers, before a long run: measured, modelled, recommended."""
