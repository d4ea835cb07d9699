"""Fixtures that many tests share."""

import pytest
from hypothesis import settings

from atts.config import Config, parse_config
from atts.types import Problem

# No test is timed: on a busy machine any example may take long.
settings.register_profile("atts", deadline=None)
settings.load_profile("atts")


@pytest.fixture
def problems() -> list[Problem]:
    return [
        Problem(id=f"p{i}", question=f"What is {i} + {i}?", answer=str(2 * i)) for i in range(5)
    ]


@pytest.fixture
def config() -> Config:
    """Small turns, no calibration problems needed."""
    return parse_config(
        {
            "samples": 2,
            "turns": {"max_turns": 4, "draft_tokens": 8, "target_tokens": 8},
            "prompt": {"system": ""},
        },
        "a test",
    )
