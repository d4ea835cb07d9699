"""Runs on many machines: Ray places the workers and tells of their ends."""
