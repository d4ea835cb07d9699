"""Runs and calibrations in the formats of others."""
