"""``atts compare``: what is run, printed, written and returned."""

import csv
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from killed_run import make_models
from typer.testing import Result

from atts.analysis.comparison import Comparison
from atts.config import Config
from atts.errors import EngineError
from atts.methods.chain import Models
from atts.runs import setup

Invoke = Callable[..., Result]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> set[str]:
    """Scripted models, and problems; methods of the set have no server."""
    broken: set[str] = set()

    @asynccontextmanager
    async def open_models(config: Config, _: object) -> AsyncIterator[Models]:
        if config.method in broken:
            raise EngineError("no server\x1b there")
        yield make_models(0.0)

    monkeypatch.setattr(setup, "open_models", open_models)
    lines = [json.dumps({"id": f"p{i}", "question": f"{i}?", "answer": "4"}) for i in range(3)]
    (tmp_path / "p.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "my.yaml").write_text(
        "problems: {source: p.jsonl, count: null}\nsamples: 2\n"
        "turns: {max_turns: 4, draft_tokens: 9, target_tokens: 9}\n"
        "take_over: {control: online}\n"
    )
    return broken


@pytest.mark.usefixtures("broken")
def test_it_runs_compares_and_writes(invoke: Invoke, tmp_path: Path) -> None:
    runs = ("draft-only", "target-only", "atts")
    result = invoke("compare", *runs, "-c", "my.yaml", "--csv", "out/figures.csv")
    assert result.exit_code == 0, result.output
    assert "The reference is target-only." in result.stdout.replace("\n", " ")
    assert "accuracy per chain against target tokens written: " in result.stdout
    assert "Wrote out/figures.csv" in result.stderr
    rows = list(csv.DictReader((tmp_path / "out/figures.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == ["draft-only", "target-only", "atts"]
    assert len(list((tmp_path / "runs").iterdir())) == 3
    # What is there is not made again, and may be named by its directory.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/chains.jsonl")}
    directories = sorted(path.parent for path in before)
    again = invoke("compare", *directories, "--json", "--reference", directories[0])
    assert again.exit_code == 0, again.output
    comparison = Comparison.model_validate_json(again.stdout)
    assert comparison.reference == comparison.runs[0].name
    assert directories[0].name.startswith(comparison.reference)
    assert [run.directory for run in comparison.runs] == [str(path) for path in directories]
    assert [run.summary.method for run in comparison.runs] == ["atts", "draft-only", "target-only"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.usefixtures("broken")
def test_at_equal_budgets(invoke: Invoke) -> None:
    run = ("compare", "target-only", "draft-only", "-c", "my.yaml", "--json")
    everything = Comparison.model_validate_json(invoke(*run).stdout)
    costs = ("--draft-cost", "0.5", "--budget")
    dear = everything.runs[0].target_written
    found = Comparison.model_validate_json(invoke(*run, *costs, f"{1.5 * dear}").stdout)
    assert [run.summary.samples for run in found.runs] == [1, 2]
    refused = invoke(*run, *costs, "1")
    assert refused.exit_code == 1
    assert "a budget of 1 does not pay for one chain a problem of target-only" in refused.stderr


def test_ctrl_c_says_how_to_go_on(
    invoke: Invoke, broken: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not broken

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(setup, "open_models", stopped)
    given = ("--csv", "a b.csv", "--budget", "50")
    result = invoke("compare", "target-only", "-c", "my.yaml", *given)
    assert result.exit_code == 130
    again = "  atts compare target-only --config my.yaml --budget 50.0 --csv 'a b.csv'\n"
    assert again in result.stderr


def test_a_run_that_cannot_be_made_is_reported(invoke: Invoke, broken: set[str]) -> None:
    broken.add("draft-only")
    result = invoke("compare", "draft-only", "target-only", "-c", "my.yaml")
    assert result.exit_code == 1
    assert "draft-only: no server\\x1b there" in result.stderr
    assert "problems x chains" in result.stdout
    alone = invoke(
        "compare", "draft-only", "target-only", "--reference=draft-only", "-c", "my.yaml"
    )
    assert alone.exit_code == 1
    assert "The reference, draft-only, could not be made" in alone.stderr
    assert alone.stdout == ""


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["atts", "nonsense"], "nonsense is neither a method (atts, "),
        (["atts", "--reference", "target-only"], "the reference target-only is none of the runs"),
        (["atts:seed"], "--set takes key=value"),
        (["atts", "--plot", "frontier.docx"], "cannot draw frontier.docx"),
    ],
)
def test_wrong_use(invoke: Invoke, arguments: list[str], says: str, tmp_path: Path) -> None:
    result = invoke("compare", *arguments, "-c", "my.yaml")
    assert result.exit_code == 2
    assert says in result.stderr
    assert not (tmp_path / "runs").exists()
