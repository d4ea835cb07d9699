"""Fixtures that many tests share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from atts.config import Config, parse_config
from atts.types import Problem

# No test is timed: on a busy machine any example may take long.
settings.register_profile("atts", deadline=None)
settings.load_profile("atts")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the cache of the user."""
    monkeypatch.setenv("ATTS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def shared_data() -> Path:
    """The folder of real problem sets and traces; see ``ATTS_DATA``."""
    folder = Path(os.environ.get("ATTS_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set ATTS_DATA to the folder of the real data")
    return folder


@pytest.fixture
def problems() -> list[Problem]:
    return [
        Problem(id=f"p{i}", question=f"What is {i} + {i}?", answer=str(2 * i)) for i in range(5)
    ]


@pytest.fixture
def config() -> Config:
    """The paper's mode and score, small turns, no calibration problems needed."""
    return parse_config(
        {
            "take_over": {"mode": "continue", "score": {"kind": "mean"}},
            "samples": 2,
            "turns": {"max_turns": 4, "draft_tokens": 8, "target_tokens": 8},
            "prompt": {"system": ""},
        },
        "a test",
    )
