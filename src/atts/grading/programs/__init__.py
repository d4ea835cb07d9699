"""Answers that are programs: found in a text, and run against a problem's tests in a sandbox."""
