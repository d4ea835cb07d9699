"""Metrics over graded chains, each with an interval clustered by problem."""

from collections.abc import Callable, Mapping, Sequence
from math import comb
from typing import NamedTuple

from atts.errors import GradingError
from atts.grading.equivalence import equivalent
from atts.grading.intervals import Interval, clustered_interval


class Grade(NamedTuple):
    """What a chain came to. A failed chain, or one that gave no answer, is ``(None, False)``."""

    answer: str | None
    correct: bool
    graded: bool = True
    """False if the answer could not be compared with the gold answer; then it is not correct."""


Grades = Mapping[str, Sequence[Grade]]
"""Problem id -> the grades of all its chains, failed ones included."""


def accuracy(grades: Grades) -> Interval:
    """The share of chains that are right, over all problems.

    Raises:
        GradingError: there are no chains.
    """
    results = _by_problem(grades)
    right = [sum(grade.correct for grade in chains) for chains in results]
    return clustered_interval(right, [len(chains) for chains in results])


def accuracy_by_problem(grades: Grades) -> dict[str, float]:
    """The share of each problem's chains that are right."""
    return {
        name: sum(grade.correct for grade in grades[name]) / len(grades[name])
        for name in sorted(grades)
    }


def majority_vote(grades: Grades, same: Callable[[str, str], bool] = equivalent) -> Interval:
    """The share of problems whose most frequent answer is right.

    Right answers count together, and so do wrong ones that are the ``same``; chains without an
    answer do not vote. Where answers tie
    for the lead, the problem counts for the share of the leaders that are right, which is what
    a random choice among them would score on average. A problem without any answer is wrong.

    Raises:
        GradingError: there are no problems.
    """
    return mean_over_problems(majority_by_problem(grades, same))


def majority_by_problem(
    grades: Grades, same: Callable[[str, str], bool] = equivalent
) -> dict[str, float]:
    """Each problem's part in ``majority_vote``: 1 if right, 0 if not, between where tied."""
    return {name: _vote(grades[name], same) for name in sorted(grades)}


def mean_over_problems(shares: Mapping[str, float]) -> Interval:
    """The mean of a share that each problem has, e.g. whether its answer is right.

    Raises:
        GradingError: there are no problems.
    """
    scores = [shares[name] for name in sorted(shares)]
    return clustered_interval(scores, [1] * len(scores))


def pass_at_k(grades: Grades, k: int) -> Interval:
    """The chance that at least one of k chains of a problem is right, averaged over problems.

    The unbiased estimate from n chains of which c are right is 1 - C(n - c, k) / C(n, k)
    (Chen et al. 2021, arXiv 2107.03374, equation 1). Failed chains are among the n, as wrong.

    Raises:
        GradingError: there are no problems, k is below 1, or a problem has fewer than k chains.
    """
    if k < 1:
        raise GradingError(f"pass@k needs a k of at least 1, got {k}")
    if short := next((name for name in sorted(grades) if len(grades[name]) < k), None):
        raise GradingError(
            f"pass@{k} needs {k} chains a problem; problem {short} has {len(grades[short])}: "
            "count failed chains as wrong ones, or choose a smaller k"
        )
    chances = []
    for chains in _by_problem(grades):
        wrong = sum(not grade.correct for grade in chains)
        chances.append(1.0 - comb(wrong, k) / comb(len(chains), k))
    return clustered_interval(chances, [1] * len(chances))


def _by_problem(grades: Grades) -> list[Sequence[Grade]]:
    # In the order of their ids: that in which problems ended must not show in a sum's last digit.
    return [grades[name] for name in sorted(grades)]


def _vote(chains: Sequence[Grade], same: Callable[[str, str], bool]) -> float:
    right = 0
    wrong: list[tuple[str, int]] = []  # an answer, and how many chains gave it
    for grade in chains:
        if grade.answer is None:
            continue
        if grade.correct:
            right += 1
            continue
        for index, (answer, votes) in enumerate(wrong):
            if same(answer, grade.answer):
                wrong[index] = (answer, votes + 1)
                break
        else:
            wrong.append((grade.answer, 1))
    most = max([right, *(votes for _, votes in wrong)])
    if most == 0 or right < most:
        return 0.0
    return 1.0 / (1 + sum(votes == most for _, votes in wrong))
