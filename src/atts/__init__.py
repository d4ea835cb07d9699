"""Asynchronous test-time scaling (arXiv 2509.15148): see ``docs/architecture.md``."""
