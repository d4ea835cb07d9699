"""``atts problems``: what is shown, and that what a problem says stays text."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from atts.config import ProblemsOptions
from atts.problems import load_problems

Invoke = Callable[..., Result]


def test_sources_are_listed(invoke: Invoke) -> None:
    result = invoke("problems", "list")
    assert result.exit_code == 0
    assert "arithmetic" in result.stdout
    assert "FILE.jsonl" in result.stdout


def test_generated_problems_are_shown(invoke: Invoke) -> None:
    result = invoke("problems", "show", "--count", "2", "--split", "calibration")
    assert result.exit_code == 0, result.output
    problems = load_problems(ProblemsOptions(split="calibration", count=2))
    for problem in problems:
        assert problem.id in result.stdout
        assert problem.question in result.stdout
    assert result.stdout.count("answer: ") == 2


def test_hostile_text_is_printed_as_it_stands(invoke: Invoke, tmp_path: Path) -> None:
    problem = {
        "id": "[bold]x",
        "question": "\x1b[2J[link=file:///]click[/link] \u202etxt\r {system}",
        "answer": "[/]\x07",
        "choices": ["[red]a", "\x9bb", "[/]\x07"],
    }
    (tmp_path / "evil.jsonl").write_text(json.dumps(problem) + "\n")
    result = invoke("problems", "show", "evil.jsonl")
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        "[bold]x\n"
        "\\x1b[2J[link=file:///]click[/link] \\u202etxt\\r {system}\n"
        "  - [red]a\n"
        "  - \\x9bb\n"
        "  - [/]\\x07\n"
        "answer: [/]\\x07\n\n"
    )


def test_exported_problems_can_be_read_again(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("problems", "export", "arithmetic", "out.jsonl", "--count", "3")
    assert result.exit_code == 0, result.output
    assert "Wrote 3 problems to out.jsonl" in result.stderr
    result = invoke("problems", "export", "out.jsonl", "again.jsonl")
    assert result.exit_code == 0, result.output
    generated = load_problems(ProblemsOptions(count=3))
    path = tmp_path / "again.jsonl"
    assert load_problems(ProblemsOptions(source=str(path), count=None)) == generated


def test_all_of_a_file_is_exported(invoke: Invoke, tmp_path: Path) -> None:
    lines = [json.dumps({"id": str(n), "question": "q", "answer": "a"}) for n in range(120)]
    (tmp_path / "many.jsonl").write_text("\n".join(lines))
    invoke("problems", "export", "many.jsonl", "out.jsonl")
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 120


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "missing.jsonl"], "missing.jsonl"),
        (["show", "broken.jsonl"], "broken.jsonl"),
        (["show", "--split", "dev"], "problems.split: "),
        (["show", "--count", "0"], "--count"),
        (["export", "arithmetic"], "OUT"),
    ],
)
def test_wrong_use_exits_with_2(
    invoke: Invoke, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "broken.jsonl").write_text("{\n")
    result = invoke("problems", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_a_failed_export_leaves_the_old_file(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("old")
    (tmp_path / "broken.jsonl").write_text("{\n")
    assert invoke("problems", "export", "broken.jsonl", "out.jsonl").exit_code == 2
    assert (tmp_path / "out.jsonl").read_text() == "old"
    assert invoke("problems", "export", "arithmetic", "out.jsonl/x").exit_code == 1
    assert (tmp_path / "out.jsonl").read_text() == "old"
