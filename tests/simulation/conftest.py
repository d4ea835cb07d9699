"""A small recorded workload."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from atts.api.jobs import OF_A_TRACE
from atts.config import Config, parse_config
from atts.simulation.workload import Workload, load_workload


@pytest.fixture(scope="session")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three problems of four chains, in the reference's format."""
    numbers = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("trace") / "trace.jsonl.gz"
    with gzip.open(path, "wt") as file:
        for problem in range(3):
            for sample in range(4):
                turns = [
                    {
                        "turn": turn,
                        "ppl": float(np.exp(numbers.gamma(2.0, 0.3))),
                        "rejected": bool(numbers.random() < 0.4),
                        "draft_chars": int(numbers.integers(100, 1_500)),
                        "target_chars": int(numbers.integers(0, 1_500)),
                    }
                    for turn in range(1 + (problem + sample) % 4)
                ]
                line = {
                    "question_id": f"q{problem}",
                    "sample_index": sample,
                    "turns": turns,
                    "reextracted": None if sample == 3 else "42",
                }
                file.write(json.dumps(line) + "\n")
    return path


@pytest.fixture
def workload(trace: Path) -> Workload:
    return load_workload(trace)


@pytest.fixture
def pair() -> Config:
    return parse_config(
        {
            "samples": 4,
            "draft": {"model": "DeepSeek-R1-Distill-Llama-8B"},
            "target": {"model": "QwQ-32B"},
        },
        "a test",
        OF_A_TRACE,
    )
