"""Problems that ask for a program: our own form, HumanEval's and LiveCodeBench's."""

import base64
import json
import pickle
import zlib
from pathlib import Path

import pytest

from atts.errors import ProblemError
from atts.problems import programs
from atts.problems.jsonl import read_problems
from atts.types import Case, Problem, ProgramTests

Line = dict[str, object]

OWN: Line = {"id": "square", "question": "Square it.", "tests": [{"input": "3", "output": "9"}]}
HUMAN_EVAL: Line = {
    "task_id": "Mine/0",
    "prompt": 'def twice(x: int) -> int:\n    """Twice x.\n    >>> twice(2)\n    4\n    """\n',
    "entry_point": "twice",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(3) == 6\n",
}
PUBLIC = [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]
PRIVATE = [{"input": "5 6\n", "output": "11\n", "testtype": "stdin"}]
LIVE_CODE_BENCH: Line = {
    "question_id": "abc_1",
    "question_title": "Sum",
    "question_content": "Print the sum of two numbers.",
    "starter_code": "",
    "platform": "mine",
    "public_test_cases": json.dumps(PUBLIC),
    "private_test_cases": json.dumps(PRIVATE),
    "metadata": "{}",
}
FUNCTIONAL = LIVE_CODE_BENCH | {
    "question_content": "Sum a list.",
    "starter_code": "class Solution:\n    def total(self, numbers: List[int]) -> int:\n        ",
    "public_test_cases": json.dumps([{"input": "[1, 2]", "output": "3", "testtype": "functional"}]),
    "private_test_cases": "",
    "metadata": json.dumps({"func_name": "total"}),
}


def packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


def read(folder: Path, values: Line) -> Problem:
    path = folder / "problems.jsonl"
    path.write_text(json.dumps(values) + "\n")
    (problem,) = read_problems(path)
    return problem


def refusal(folder: Path, values: Line) -> str:
    with pytest.raises(ProblemError) as caught:
        read(folder, values)
    assert str(caught.value).startswith(f"{folder / 'problems.jsonl'}, line 1: ")
    return str(caught.value)


def test_our_own_form_has_inputs_with_outputs_or_a_check(tmp_path: Path) -> None:
    assert read(tmp_path, OWN) == Problem(
        id="square",
        question="Square it.",
        tests=ProgramTests(cases=(Case(input="3", output="9"),)),
    )
    check = {"tests": "def check(f): ...", "entry_point": "f", "answer": "def f(): ..."}
    assert read(tmp_path, OWN | check) == Problem(
        id="square",
        question="Square it.",
        answer="def f(): ...",
        tests=ProgramTests(check="def check(f): ...", entry_point="f"),
    )


def test_human_eval_is_read(tmp_path: Path) -> None:
    problem = read(tmp_path, HUMAN_EVAL)
    assert problem.id == "Mine/0"
    assert "```python\ndef twice(x: int) -> int:" in problem.question
    assert problem.answer == str(HUMAN_EVAL["prompt"]) + "    return 2 * x\n"
    assert problem.tests == ProgramTests(
        check=str(HUMAN_EVAL["test"]), entry_point="twice", before=str(HUMAN_EVAL["prompt"])
    )


def test_live_code_bench_is_read(tmp_path: Path) -> None:
    problem = read(tmp_path, LIVE_CODE_BENCH)
    assert problem.id == "abc_1"
    assert problem.answer is None
    assert "standard input" in problem.question
    assert problem.tests == ProgramTests(
        cases=(Case(input="1 2\n", output="3\n"), Case(input="5 6\n", output="11\n"))
    )


def test_live_code_bench_asks_for_methods(tmp_path: Path) -> None:
    problem = read(tmp_path, FUNCTIONAL)
    assert "class Solution:\n    def total" in problem.question
    assert problem.tests is not None
    assert problem.tests.entry_point == "total"
    assert problem.tests.cases == (Case(input="[1, 2]", output="3"),)
    assert "from typing import *" in problem.tests.before


@pytest.mark.parametrize(
    "private",
    [
        PRIVATE,
        packed(json.dumps(PRIVATE).encode()),
        *(
            packed(pickle.dumps(json.dumps(PRIVATE), protocol))
            for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
        ),
    ],
)
def test_private_tests_may_be_packed(tmp_path: Path, private: object) -> None:
    problem = read(tmp_path, LIVE_CODE_BENCH | {"private_test_cases": private})
    assert problem.tests is not None
    assert problem.tests.cases[1] == Case(input="5 6\n", output="11\n")


class Mine:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("ran"),)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("private", "reason"),
    [
        (packed(pickle.dumps(Mine())), "pickles are not loaded"),
        (packed(pickle.dumps([json.dumps(PRIVATE)])), "pickles are not loaded"),
        (packed(pickle.dumps("[]")[:-3]), "broken pickle"),
        (packed(b"\x80\x04."), "a pickle of 0 texts"),
        (packed(b"not json"), "is not JSON"),
        (packed(b"{}"), "must be a list of tests"),
        (base64.b64encode(b"no zlib").decode(), "neither JSON nor packed"),
        ("???", "neither JSON nor packed"),
        (base64.b64encode(zlib.compress(b"[]" * 999)[:-9]).decode(), "is not whole"),
        ([{"input": "1"}], "must have an 'input' and an 'output'"),
        ([{"input": 1, "output": "1"}], "input: "),
        ([{"input": "1", "output": "1", "testtype": "visual"}], "'visual'"),
        (7, "must be a list of tests"),
    ],
)
def test_private_tests_that_cannot_be_read_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private: object, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert reason in refusal(tmp_path, LIVE_CODE_BENCH | {"private_test_cases": private})
    assert not (tmp_path / "ran").exists()


def test_tests_that_would_fill_the_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "MOST_BYTES", 1 << 20)
    bomb = packed(b'["' + b" " * (1 << 21) + b'"]')
    assert "unpacks to more than 1 MiB" in refusal(
        tmp_path, LIVE_CODE_BENCH | {"private_test_cases": bomb}
    )


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (OWN | {"tests": 1}, "'tests' must be a list"),
        (OWN | {"tests": []}, "either a check or cases"),
        (OWN | {"tests": ["3"]}, "test 1 must have an 'input'"),
        (OWN | {"tests": "def check(f): ..."}, "a check needs an entry_point"),
        (OWN | {"question": " "}, "'question' must be a text"),
        (OWN | {"id": None}, "'id' must be a text"),
        (OWN | {"answer": 4}, "answer: "),
        (HUMAN_EVAL | {"test": ""}, "'test' must be a text"),
        (LIVE_CODE_BENCH | {"public_test_cases": "[]", "private_test_cases": ""}, "no tests"),
        (LIVE_CODE_BENCH | {"metadata": "{"}, "'metadata' is not JSON"),
        (FUNCTIONAL | {"metadata": "{}"}, "'functional' with metadata.func_name"),
        (FUNCTIONAL | {"private_test_cases": PRIVATE}, "'functional', 'stdin'"),
    ],
)
def test_what_cannot_be_graded_is_refused(tmp_path: Path, values: Line, reason: str) -> None:
    assert reason in refusal(tmp_path, values)
