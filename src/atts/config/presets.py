"""Settings that go together under one name: what ``preset`` stands for."""

from typing import Any

_PAPER: dict[str, Any] = {
    "method": "atts",
    "samples": 16,
    "sampling": {"temperature": 0.8, "top_p": 1.0},
    "turns": {"max_turns": 15, "draft_tokens": 500, "target_tokens": 500},
    "stop": {"when": "never", "repeating": False},
    "take_over": {
        "rate": 0.4,
        "mode": "continue",
        "control": "split",
        "coverage": "marginal",
        "by_turn": False,
        "score": {"kind": "mean"},
    },
    "calibration": {"samples": 16},
}

PRESETS: dict[str, dict[str, Any]] = {
    "paper": _PAPER,
    # Its own scripts calibrate on the problems that they evaluate, and work at one problem after
    # the other with a request or so for each of its chains.
    "reference": _PAPER
    | {
        "calibration": {"samples": 16, "allow_overlap": True},
        "limits": {
            "chains": 16,
            "chains_min": 16,
            "draft_requests": 16,
            "target_requests": 4,
            "overlap": "off",
        },
    },
}
"""``paper``: what arXiv 2509.15148 describes. ``reference``: what its own implementation does, as
far as it can be said in these keys (docs/reference.md has the rest)."""

FORMER_DEFAULTS: dict[str, Any] = {
    "turns": {"max_turns": 15, "draft_tokens": 500, "target_tokens": 500},
    "take_over": {"mode": "continue", "control": "split", "score": {"kind": "mean"}},
    "stop": {"repeating": False},
}
"""Defaults that have changed. They hold in a run whose ``config.yaml`` is so old that it lacks the
key, and where such a run is gone on with by a command that does not say otherwise."""
