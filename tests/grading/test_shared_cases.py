"""Cases that people met: a line each of a file that is not part of the project."""

import json
from pathlib import Path

import pytest

from atts.errors import ProblemError
from atts.grading.extract import extract_answer
from atts.grading.grader import Grader
from atts.problems import read_problems

CASES = Path(__file__).parents[2].parent / "shared" / "cases" / "answers.jsonl"
ROWS = CASES.read_text(encoding="utf-8").splitlines() if CASES.is_file() else []


@pytest.mark.skipif(not ROWS, reason=f"{CASES} is not beside this checkout")
def test_every_case_is_right(tmp_path: Path) -> None:
    wrong = []
    with Grader(seconds=60.0) as grader:
        for row in map(json.loads, ROWS):
            found = _found(row, grader, tmp_path / "problems.jsonl")
            if found != row["want"]:
                wrong.append((row, found))
    assert wrong == []


def _found(row: dict[str, object], grader: Grader, path: Path) -> object:
    if row["what"] == "problem-line":
        path.write_text(f"{row['line']}\n", encoding="utf-8")
        try:
            return f"answer equal to {read_problems(path)[0].answer}"
        except ProblemError as error:
            assert "line 1: " in str(error)  # noqa: PT017
            return "refused"
    if row["what"] == "same":
        answer: str | None = str(row["answer"])
    else:
        choices = row["choices"]
        assert isinstance(choices, list)
        answer = extract_answer(str(row["text"]), choices, finished=row["what"] != "goes-on")
    if row["what"] in ("same", "graded") and answer is not None:
        return grader.compare([(str(row["gold"]), answer)])[str(row["gold"]), answer]
    return answer
