"""``atts simulate``, from a trace to a table."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Invoke = Callable[..., Result]

PAIR = ("--set", "draft.model=DeepSeek-R1-Distill-Llama-8B", "--set", "target.model=QwQ-32B")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Two problems of two chains of two turns."""
    path = tmp_path / "trace.jsonl"
    turn = {"ppl": 1.5, "rejected": True, "draft_chars": 900, "target_chars": 600}
    lines = [
        {
            "question_id": f"[bold]q{problem}",
            "sample_index": sample,
            "turns": [turn | {"ppl": 1.2 + problem + sample}, turn],
            "reextracted": "42",
        }
        for problem in range(2)
        for sample in range(2)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_a_table_of_methods_and_concurrency(trace: Path, invoke: Invoke) -> None:
    result = invoke(
        *("simulate", "--workload", trace, *PAIR, "--set", "samples=2"),
        *("--chains", "2,4", "--target-gpus", 2, "--set", "target.server.tensor_parallel=2"),
        *("target-only", "sync-ranking", "atts", "atts:limits.overlap=off", "reference"),
    )
    assert result.exit_code == 0, result.output
    rows = [line for line in result.stdout.splitlines() if " s " in line and line[:1].isalpha()]
    assert len(rows) == 10
    # The target alone has the draft's GPU, too, and the others are compared with that.
    assert rows[0].split()[:4] == ["target-only", "2", "3", rows[0].split()[3]]
    assert [row.split()[-1 if ":" in row else 2] for row in rows[1:3]] == ["1+2"] * 2
    speedups = [row.split()[5] for row in rows]
    assert speedups[0] == speedups[5] == "1.00"
    assert all(float(speedup) > 0 for speedup in speedups)
    assert "4 chains of 2 problems" in result.stdout
    assert result.stderr.count("\n") <= 1  # one line of progress, not one a simulation


def test_json_has_every_figure_and_repeats(trace: Path, invoke: Invoke) -> None:
    command = ("simulate", "--workload", trace, *PAIR, "--json", "--problems", 3, "--shared")
    first, second = (invoke(*command, "--chains", "16") for _ in range(2))
    assert first.exit_code == 0, first.output
    assert first.stdout == second.stdout
    alone, ranked, atts = json.loads(first.stdout)
    assert [row["method"] for row in (alone, ranked, atts)] == [
        "target-only",
        "sync-ranking",
        "atts",
    ]
    assert atts["chains"] == 48
    assert alone["draft"] is None
    assert 0 < atts["target"]["busy"] <= 1
    assert ranked["waited_seconds"] > atts["waited_seconds"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--workload"),
        (("--workload", "missing.jsonl"), "missing.jsonl"),
        (("--workload", "trace.jsonl", "--chains", "many"), "whole numbers"),
        (("--workload", "trace.jsonl", "--chains", "0"), "whole numbers"),
        (("--workload", "trace.jsonl", "guess"), "'guess' cannot follow"),
        (("--workload", "trace.jsonl", "--gpu", "abacus"), "choose from h200"),
        (("--workload", "trace.jsonl", "--fitted", "trace.jsonl"), "holds no efficiencies"),
        (("--fit", "."), "not a run directory"),
    ],
)
@pytest.mark.usefixtures("trace")
def test_wrong_use_is_told(options: tuple[str, ...], message: str, invoke: Invoke) -> None:
    result = invoke("simulate", *PAIR, *options)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert "Traceback" not in result.output
