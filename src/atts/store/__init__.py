"""The run directory: what a run leaves behind, and what it resumes from."""
