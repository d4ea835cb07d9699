"""Grading the chains of a run."""

import pytest

from atts.grading.chains import Grade, grade_chains, majority_vote
from atts.grading.grader import Grader
from atts.types import Chain, ChainEnd, ChainKey, Problem

OPEN = Problem(id="open", question="?", answer="x+1")
SILENT = "the language model gave no verdict"
CHOICE = Problem(id="choice", question="?", answer="B", choices=("one", "two", "3 m"))


def chain(problem: Problem, sample: int, answer: str | None, end: ChainEnd = "answer") -> Chain:
    return Chain(
        problem_id=problem.id,
        sample=sample,
        end=end,
        answer=answer,
        turns=(),
        started=0.0,
        done=1.0,
    )


def chains(problem: Problem, *answers: str | None) -> list[Chain]:
    return [chain(problem, sample, answer) for sample, answer in enumerate(answers)]


def test_open_answers_are_compared_by_algebra() -> None:
    made = chains(OPEN, "1+x", None, "x+2", "(" * 2000)
    made.append(chain(OPEN, 4, "x+1", end="failed"))
    with Grader(seconds=20.0) as grader:
        grades = grade_chains([OPEN], made[::-1], grader).grades
    assert grades == {
        "open": [
            Grade("1+x", correct=True),
            Grade(None, correct=False),
            Grade("x+2", correct=False),
            Grade("(" * 2000, False, False, "longer than 1,000 characters"),
            Grade(None, correct=False),
        ]
    }


@pytest.mark.parametrize(
    ("answer", "correct"),
    [("B", True), (r"\text{(B)}", True), ("two", True), ("A", False), ("3 m", False), ("D", False)],
)
def test_choices_are_compared_as_letters(answer: str, correct: bool) -> None:
    with Grader() as grader:
        grades = grade_chains([CHOICE], chains(CHOICE, answer), grader).grades
        assert grader._pool is None
    assert grades["choice"] == [Grade(answer, correct)]


def test_a_gold_answer_may_be_the_text_of_its_choice() -> None:
    problem = CHOICE.model_copy(update={"answer": "two"})
    with Grader() as grader:
        assert grade_chains([problem], chains(problem, "B"), grader).grades["choice"][0].correct


def test_wrong_answers_that_are_the_same_vote_together() -> None:
    made = chains(OPEN, "1+x", "x+1", "x+2", "2+x", "1+x+1")
    with Grader(seconds=20.0) as grader:
        graded = grade_chains([OPEN], made, grader)
    assert graded.same("x+2", "2+x")
    assert graded.same("1+x+1", "x+2")
    assert not graded.same("x+2", "x+3")
    assert majority_vote(graded.grades, graded.same).estimate == 0.0
    assert majority_vote(graded.grades).estimate == 1.0  # by exact comparison alone


def test_wrong_answers_that_cannot_win_are_not_compared() -> None:
    with Grader(seconds=20.0) as grader:
        graded = grade_chains([OPEN], chains(OPEN, "x+1", "1+x", "x+1", "x+2", "2+x"), grader)
    assert graded.verdicts == {}


def test_a_judged_chain_is_not_compared() -> None:
    made = chains(OPEN, "1+x", "x+2")
    judged = {ChainKey("open", 0): False, ChainKey("open", 1): None}
    with Grader() as grader:
        grades = grade_chains([OPEN], made, grader, judged).grades
    assert grades["open"] == [Grade("1+x", False), Grade("x+2", False, False, SILENT)]
