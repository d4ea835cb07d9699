"""The vote of a question's chains."""

import pytest

from atts.grading.grader import Grader
from atts.grading.votes import count_votes
from atts.types import Problem


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([], []),
        ([None, None], []),
        (["1", "2", "2"], [("2", (1, 2)), ("1", (0,))]),
        (["1", "2", None, "2", "1"], [("1", (0, 4)), ("2", (1, 3))]),
        (["x+1", "y", "1+x"], [("x+1", (0, 2)), ("y", (1,))]),
    ],
)
def test_equal_answers_count_together_and_the_first_of_equals_leads(
    answers: list[str | None], expected: list[tuple[str, tuple[int, ...]]]
) -> None:
    with Grader(seconds=20.0) as grader:
        votes = count_votes(Problem(id="p", question="?"), answers, grader)
    assert [tuple(vote) for vote in votes] == expected


def test_choices_count_by_their_letter_and_the_gold_answer_by_nothing() -> None:
    problem = Problem(id="p", question="?", choices=("3", "4"), answer="A")
    with Grader() as grader:
        votes = count_votes(problem, ["B", "(B)", "4", "A"], grader)
    assert [tuple(vote) for vote in votes] == [("B", (0, 1, 2)), ("A", (3,))]
