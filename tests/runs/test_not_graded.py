"""Runs over problems of which no gold answer is known: solved like any others, and not graded."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from fakes import FakeEngine, byte_tokenizer
from typer.testing import CliRunner

from atts.analysis import comparison
from atts.analysis.comparison import NamedRun
from atts.analysis.report import read_report
from atts.cli.app import app
from atts.config import parse_config
from atts.errors import ConfigError, GradingError
from atts.exchange.tables import read_records
from atts.grading.grader import Grader
from atts.methods.chain import Model, Models
from atts.reports.figures import make_figures
from atts.reports.html import render_page
from atts.runs import jobs
from atts.runs.tuning import prepare_tuning
from atts.store.run_directory import read_run


def models() -> Models:
    return {
        author: Model(FakeEngine(lambda _: "So \\boxed{4}"), byte_tokenizer())
        for author in ("draft", "target")
    }


async def make_run(folder: Path, *lines: Mapping[str, object], method: str = "atts") -> Path:
    folder.mkdir(exist_ok=True)
    source = folder / "problems.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = parse_config(
        {"method": method, "problems": {"source": str(source)}, "samples": 2}, "a test"
    )
    await jobs.run(config, models(), folder / method)
    return folder / method


BARE = {"id": "bare", "question": "2 + 2?", "answer": None}
CHOICES = {"id": "choices", "question": "2 + 2?", "choices": ["3", "4"], "answer": None}
RIGHT = {"id": "right", "question": "2 + 2?", "answer": "4"}


async def test_nothing_is_called_wrong_where_nothing_is_known(tmp_path: Path) -> None:
    made = await make_run(tmp_path, BARE, CHOICES)
    with Grader() as grader:
        report = read_report("a", made, grader)
    summary = report.summary
    assert (summary.accuracy, summary.majority_vote, summary.not_graded) == (None, None, 2)
    assert (summary.accuracy_by_problem, summary.pass_at_k, summary.ungraded) == ({}, {}, 0.0)
    assert {verdict.outcome for verdict in report.graded.verdicts.values()} == {"not graded"}
    assert {record["correct"] for record in read_records(made)} == {None}
    assert {record["gold_answer"] for record in read_records(made)} == {None}
    figures = make_figures([report])
    assert {"accuracy", "frontier"}.isdisjoint(figure.name for figure in figures)
    assert "<html" in render_page([report], figures)
    shown = CliRunner().invoke(app, ["report", str(made)])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.count("not graded") == 2


@pytest.mark.parametrize("method", ["atts", "self-consistency", "best-of-n"])
async def test_only_what_has_a_gold_answer_is_counted(tmp_path: Path, method: str) -> None:
    wrong = {**RIGHT, "id": "wrong", "answer": "5"}
    made = await make_run(tmp_path, BARE, RIGHT, wrong, method=method)
    with Grader() as grader:
        summary = read_report("a", made, grader).summary
    assert summary.accuracy
    assert summary.majority_vote
    assert (summary.accuracy.estimate, summary.majority_vote.estimate) == (0.5, 0.5)
    assert (summary.not_graded, summary.problems, summary.chains) == (1, 3, 6)
    assert summary.accuracy_by_problem == {"right": 1.0, "wrong": 0.0}
    if method != "atts":
        assert summary.selected_by_problem == {"right": 1.0, "wrong": 0.0}


async def test_a_comparison_is_over_what_is_graded(tmp_path: Path) -> None:
    runs = [await make_run(tmp_path, BARE, RIGHT, method=name) for name in ("atts", "draft-only")]
    named = [NamedRun(path.name, str(path), read_run(path)) for path in runs]
    with Grader() as grader:
        found = comparison.compare(named, "draft-only", grader)
    assert (found.problems, found.left_out) == (1, 1)
    bare = [await make_run(tmp_path / "bare", BARE, method=name) for name in ("atts", "draft-only")]
    named = [NamedRun(path.name, str(path), read_run(path)) for path in bare]
    with Grader() as grader, pytest.raises(GradingError, match="no gold answers"):
        comparison.compare(named, "draft-only", grader)


def test_no_loss_is_certified_without_gold_answers(tmp_path: Path) -> None:
    source = tmp_path / "labelled.jsonl"
    source.write_text(json.dumps(BARE) + "\n")
    config = parse_config(
        {
            "calibration": {"problems": {"source": str(source)}},
            "take_over": {"control": "split"},
            "stop": {"repeating": False},
        },
        "a test",
    )
    with pytest.raises(ConfigError, match="1 of the calibration problems, such as bare, have no"):
        prepare_tuning(config, [0.5], 0.1, 0.9)
