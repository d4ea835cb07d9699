"""Solves questions as they come, with engines and deciders that stay."""
