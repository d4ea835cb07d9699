"""The vote of a question's chains, where no gold answer is known."""

from collections.abc import Sequence
from typing import NamedTuple

from atts.grading.choices import choice_letter
from atts.grading.grader import Grader
from atts.grading.programs.extract import as_vote
from atts.types import Problem


class Vote(NamedTuple):
    """An answer, and which chains gave it."""

    answer: str
    """As the first of them wrote it; of a multiple-choice question, the letter."""
    chains: tuple[int, ...]
    """Their numbers, in the order of what was counted."""


def count_votes(
    problem: Problem, answers: Sequence[str | None], grader: Grader
) -> tuple[Vote, ...]:
    """Count equal answers together: the most frequent first, of equally frequent the first given.

    Args:
        problem: what was asked; its gold answer is not looked at.
        answers: of its chains; None has no vote.
        grader: says which answers are the same. Those of which it cannot tell are different, and so
            are programs of different texts.

    >>> problem = Problem(id="p", question="1 / 2?")
    >>> with Grader() as grader:
    ...     count_votes(problem, ["1", "0.5", None, "1/2"], grader)
    (Vote(answer='0.5', chains=(1, 3)), Vote(answer='1', chains=(0,)))
    """
    given: list[tuple[str, list[int]]] = []
    for number, answer in enumerate(answers):
        if answer is None:
            continue
        if problem.choices:
            answer = choice_letter(answer, problem.choices) or answer
        verdicts: dict[tuple[str, str], bool | None] = {
            (known, answer): as_vote(known) == as_vote(answer) for known, _ in given
        }
        if problem.tests is None:
            verdicts = grader.compare((known, answer) for known, _ in given)
        for known, chains in given:
            if verdicts[known, answer]:
                chains.append(number)
                break
        else:
            given.append((answer, [number]))
    given.sort(key=lambda each: -len(each[1]))
    return tuple(Vote(answer, tuple(chains)) for answer, chains in given)
