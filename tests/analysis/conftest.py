"""Small recordings, the folder of the shared ones, and runs whose times are known to the second."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from reports.conftest import make_chain as make_chain
from timed_runs import MakeRun, make_timed_run

from atts.analysis.recording import Recording, ScoredChain, ScoredTurn

TRACE = "traces/math500_emc4_ct1.compact.jsonl.gz"


@pytest.fixture
def shared() -> Path:
    """The folder of shared data, next to the repository or in ATTS_DATA."""
    folder = Path(
        os.environ.get("ATTS_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")
    )
    if not (folder / TRACE).exists():
        pytest.skip(f"the recorded traces are not in {folder}; set ATTS_DATA to where they are")
    return folder


@pytest.fixture
def make_recording() -> Callable[..., Recording]:
    """Problems whose scores differ in level, with turns that shift them; ``order`` recorded."""

    def make(
        problems: int = 20, samples: int = 8, turns: int = 4, spread: float = 0.3
    ) -> Recording:
        rng = np.random.default_rng(1)
        chains = []
        for problem in range(problems):
            level = spread * rng.normal()
            for sample in range(samples):
                scores = 0.5 + level + 0.2 * np.arange(turns) + 0.3 * rng.normal(size=turns)
                steps = tuple(
                    ScoredTurn(
                        turn, float(s), bool(s > 0.9), 1.0 + rng.random(), None, {"mean": float(s)}
                    )
                    for turn, s in enumerate(scores)
                )
                right = bool(scores.mean() + 0.2 * rng.normal() < 0.9)
                chains.append(ScoredChain(f"p{problem}", sample, right, steps))
        return Recording("made", 0, tuple(chains))

    return make


def trace_line(sample: int, ppls: list[float | None]) -> dict[str, object]:
    return {
        "question_id": "q",
        "sample_index": sample,
        "gold_answer": "\\frac{1}{2}",
        "reextracted": "0.5" if sample else None,
        "turns": [
            {
                "turn": turn,
                "ppl": ppl,
                "rejected": turn == 0,
                "draft_chars": 10,
                "target_chars": 5 if turn == 0 else 0,
            }
            for turn, ppl in enumerate(ppls)
        ],
    }


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "small.jsonl.gz"
    lines = [trace_line(0, [2.0, None, 1.5]), trace_line(1, [3.0])]
    with gzip.open(path, "wt") as file:
        file.write("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture
def make_run() -> MakeRun:
    return make_timed_run
