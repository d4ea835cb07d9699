"""Where the time of a run went, from the moments that every chain records."""
