"""A run as a log of inspect_ai; ``make test-clients`` has inspect_ai itself read one."""

import json
from pathlib import Path
from typing import Any

import pytest
from fake_hub import a_run

from atts.analysis.graded_run import grade_run
from atts.exchange.inspect_log import inspect_log
from atts.store.run_directory import read_run


@pytest.fixture
def log(tmp_path: Path) -> dict[str, Any]:
    a_run(tmp_path / "run")
    found = inspect_log(grade_run(read_run(tmp_path / "run")), tmp_path / "run")
    parsed: dict[str, Any] = json.loads(json.dumps(found, allow_nan=False))
    return parsed


def test_every_chain_is_a_sample_and_every_segment_a_message_of_its_author(
    log: dict[str, Any],
) -> None:
    assert (log["version"], log["status"], log["eval"]["task"]) == (2, "success", "run")
    assert [(s["id"], s["epoch"]) for s in log["samples"]] == [("p", 1), ("p", 2)]
    right, wrong = log["samples"]
    assert right["scores"]["atts"] == {"value": "C", "answer": "4", "explanation": None}
    assert wrong["scores"]["atts"]["value"] == "I"
    asked, *written = right["messages"]
    assert (asked["role"], asked["content"]) == ("user", "2 + 2?")
    assert [(m["model"], m["content"]) for m in written] == [
        ("bundled/draft", "it is "),
        ("bundled/target", "\\boxed{4}"),
    ]
    assert written[0]["metadata"] == {
        "author": "draft", "turn": 0, "score": 2.5, "p_value": 0.1, "threshold": 0.4,
        "take_over": True,
    }  # fmt: skip
    assert (
        "".join(m["content"] for m in written)
        == right["output"]["choices"][0]["message"]["content"]
    )


def test_figures_are_where_inspect_looks_for_them(log: dict[str, Any]) -> None:
    (score,) = log["results"]["scores"]
    assert score["metrics"]["accuracy"]["value"] == 0.5
    assert log["stats"]["model_usage"] == {
        "bundled/draft": {"input_tokens": 0, "output_tokens": 6, "total_tokens": 6},
        "bundled/target": {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
    }
