"""``atts profile``: tables, JSON and the trace file."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from atts.config import parse_config
from atts.store.run_directory import RunStore
from atts.types import Chain, Decision, Problem, Segment, Timings, Turn

Invoke = Callable[..., Result]


def make_run(directory: Path, samples: int, waited: float = 0.0, timed: bool = True) -> None:
    moments = Timings(queued=10.0, started=10.5, first_token=11.0, done=13.0)
    scored = Timings(queued=13.0, started=13.0, first_token=14.0, done=14.0)
    nothing = Timings(queued=0.0, started=0.0, first_token=0.0, done=0.0)
    segment = Segment(
        author="draft",
        text="text",
        tokens=5,
        finish_reason="stop",
        cached_tokens=0,
        timings=moments if timed else nothing,
    )
    decision = Decision(
        score=1.0,
        p_value=0.7,
        take_over=False,
        scored_tokens=5,
        cached_tokens=0,
        timings=scored if timed else nothing,
    )
    config = parse_config({"samples": samples}, "the test")
    with RunStore.open(directory, config, [Problem(id="p", question="?", answer="2")], None) as run:
        for sample in range(samples):
            turn = Turn(segments=(segment,), decision=decision, waited_seconds=waited)
            run.append(
                Chain(
                    problem_id="p",
                    sample=sample,
                    end="answer",
                    answer="2",
                    turns=(turn,),
                    started=0.0,
                    done=4.0 + waited,
                )
            )


@pytest.fixture
def runs(tmp_path: Path) -> None:
    make_run(tmp_path / "few", 2)
    make_run(tmp_path / "many", 4, waited=2.0)


@pytest.mark.usefixtures("runs")
def test_runs_stand_side_by_side(invoke: Invoke) -> None:
    result = invoke("profile", "few", "many")
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "draft decode 4.0 50.0 8.0 33.3" in lines
    assert "waiting - 8.0 33.3" in lines
    # 2 x 3.5 seconds of computing over 2 x 0.5 in a queue; then 4 x 3.5 over 4 x 2.5.
    assert "r = T_c / (T_m + T_s) 7.00 1.40" in lines
    assert "2 7.00 (-)" in lines
    assert "4 1.40 (1.75)" in lines
    assert "few: the take-over rate over time, nominal 40 %." in " ".join(lines)


@pytest.mark.usefixtures("runs")
def test_json_has_everything(invoke: Invoke) -> None:
    result = invoke("profile", "many", "--json", "--stragglers", 1)
    (found,) = json.loads(result.stdout)
    assert found["run"] == "many"
    assert found["intensity"]["r"] == 1.4
    assert len(found["late_chains"]) == 1
    assert found["budget"]["per_turn"] == {"allowed": None, "most": 0}


@pytest.mark.usefixtures("runs")
def test_the_trace_is_written(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("profile", "few", "many", "--trace", "trace.json")
    assert "ui.perfetto.dev" in result.stderr
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert sum(event.get("cat") == "chain" for event in events) == 6


def test_what_is_missing_is_said(invoke: Invoke, tmp_path: Path) -> None:
    make_run(tmp_path / "imported", 2, timed=False)
    result = invoke("profile", "imported")
    assert result.exit_code == 0, result.output
    assert "2 of 2 chains have no times of their requests" in result.stderr


def test_a_folder_without_a_run_is_refused(invoke: Invoke, tmp_path: Path) -> None:
    assert invoke("profile", tmp_path).exit_code == 1
