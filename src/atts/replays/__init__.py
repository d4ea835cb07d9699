"""Replays: what another control would have decided on scores that were recorded."""
