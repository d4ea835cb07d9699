"""``atts report --html`` and ``--figures``: what is written, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
from recorded import write_run
from typer.testing import Result

from atts.cli import report
from atts.reports import figures

Invoke = Callable[..., Result]


@pytest.fixture(autouse=True)
def few_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing all of them takes seconds."""
    make = figures.make_figures
    monkeypatch.setattr(report, "make_figures", lambda runs: make(runs)[:1])


def test_the_page_and_the_figures_are_written(invoke: Invoke, tmp_path: Path) -> None:
    write_run(tmp_path / "run", problems=2, samples=2, preset="paper")
    result = invoke("report", "run", "--html", "out/report.html", "--figures", "figures")
    assert result.exit_code == 0, result.output
    assert "accuracy per chain" in result.stdout  # the table, as without them
    assert "Wrote out/report.html" in result.stderr
    assert "Wrote 1 figures to figures" in result.stderr
    html = (tmp_path / "out/report.html").read_text()
    assert html.startswith("<!doctype html>")
    assert "<title>atts report: run</title>" in html
    assert "Python 3." in html  # the environment
    assert "draft_tokens: 500" in html  # the configuration
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "accuracy.csv",
        "accuracy.png",
        "accuracy.svg",
    ]


REWIND = {"mode": "rewind", "score": {"kind": "largest-surprise"}, "record_surprises": "on"}


def test_a_run_with_cuts_is_told_by_every_command(invoke: Invoke, tmp_path: Path) -> None:
    write_run(tmp_path / "rewind", problems=6, cut="so 3.", take_over=REWIND)
    write_run(tmp_path / "replace", problems=6, take_over={"mode": "replace"})

    def cells(label: str, *arguments: object) -> list[str]:
        result = invoke(*arguments)
        assert result.exit_code == (1 if arguments[0] == "compare" else 0), result.output
        found = [line for line in result.stdout.splitlines() if line.strip().startswith(label)]
        return found[0].strip().removeprefix(label).split() if found else []

    assert cells("draft tokens written", "report", "rewind", "replace") == ["480", "480"]
    assert cells("cut off", "report", "rewind", "replace") == ["96", "-"]
    assert cells("cut off", "report", "replace") == []
    # With all of the chain that failed, for which compare exits with 1.
    assert cells("thrown away", "compare", "rewind", "replace") == ["112", "250"]
    assert cells("cut off", "compare", "rewind", "replace") == ["96", "-"]
    assert invoke("profile", "rewind").exit_code == 0
    replayed = ["replay", "rewind", "--recorded", "--control", "adaptive"]
    assert cells("A  as recorded", *replayed)[:2] == ["0.4", "0.500"]


def test_only_figures_for_papers_need_matplotlib(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "run", problems=1, samples=1)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    result = invoke("report", "run", "--html", "report.html")
    assert result.exit_code == 0, result.output
    assert "accuracy per chain" in (tmp_path / "report.html").read_text()
    result = invoke("report", "run", "--figures", "figures")
    assert result.exit_code == 2
    assert "pip install 'atts-lm[plots]'" in result.stderr
    assert not (tmp_path / "figures").exists()


def test_a_folder_is_no_file(invoke: Invoke, tmp_path: Path) -> None:
    write_run(tmp_path / "run", problems=1, samples=1)
    result = invoke("report", "run", "--html", "run")
    assert result.exit_code == 1
    assert "it is not a plain file" in result.stderr


def test_folders_are_taken_and_the_rest_is_skipped_with_a_word(
    invoke: Invoke, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        write_run(tmp_path / "runs" / name, problems=2, samples=1)
    (tmp_path / "runs/notes").mkdir()
    for command in ("report", "profile", "compare"):
        result = invoke(command, *sorted((tmp_path / "runs").iterdir()))
        assert "runs/notes (no run directory)" in result.stderr.replace("\n", "")
        table = result.stdout.split("\n\n", 1)[1] if command == "report" else result.stdout
        assert table.split()[:2] == ["one", "two"]
        assert invoke(command, "runs").stdout == result.stdout


@pytest.mark.parametrize("command", ["report", "profile", "compare"])
def test_tables_for_papers(invoke: Invoke, tmp_path: Path, command: str) -> None:
    write_run(tmp_path / "one", problems=2, samples=1)
    write_run(tmp_path / "two", problems=2, samples=1)
    markdown = invoke(command, "one", "two", "--format", "md").stdout.splitlines()
    assert markdown[0] == "|  | one | two |"
    rows = invoke(command, "one", "two", "--format", "csv").stdout.splitlines()
    assert rows[0].startswith("name,")
    assert [row.split(",")[0] for row in rows[1:3]] == ["one", "two"]
