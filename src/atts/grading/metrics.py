"""Metrics over graded chains, each with an interval clustered by problem.

The chains of a problem share its difficulty, so they are not independent observations; the
problems are. Every interval here resamples whole problems.
"""

from collections.abc import Mapping, Sequence
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atts.errors import GradingError
from atts.grading.equivalence import equivalent
from atts.types import Record


class Interval(Record):
    """A proportion with its confidence interval."""

    estimate: float
    low: float
    high: float


class Grade(NamedTuple):
    """What a chain came to. A failed chain, or one that gave no answer, is ``(None, False)``."""

    answer: str | None
    correct: bool


Grades = Mapping[str, Sequence[Grade]]
"""Problem id -> the grades of all its chains, failed ones included."""


def clustered_interval(
    numerators: ArrayLike,
    denominators: ArrayLike,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The share sum(numerators) / sum(denominators), with an interval clustered by problem.

    The interval is the percentile bootstrap over problems (Efron and Tibshirani, *An
    Introduction to the Bootstrap*, 1993, chapter 13): whole problems are drawn with replacement
    and the ratio of the sums is taken anew. It is approximate, and too narrow for few problems
    (fewer than about 20). Where all problems have the same share it has no width, and an exact
    binomial bound takes its place. Problems whose denominator is 0 do not count.

    Args:
        numerators: shape (problems,), each between 0 and its denominator; e.g. take-overs.
        denominators: shape (problems,); e.g. decisions.
        confidence: the nominal coverage of the interval, in (0, 1).
        resamples: how many times the problems are drawn.
        seed: fixes the draws: the same arguments give the same interval.

    Raises:
        GradingError: the shapes differ, a numerator does not lie between 0 and its denominator,
            or nothing is left to count.

    >>> clustered_interval([3, 0, 1], [4, 4, 8]).estimate
    0.25
    >>> round(clustered_interval([0, 0, 0], [16, 16, 16]).high, 4)
    0.7076
    """
    tops, bottoms = _counted(numerators, denominators)
    problems = len(bottoms)
    estimate = float(tops.sum() / bottoms.sum())
    tail = (1.0 - confidence) / 2.0
    if np.all(tops / bottoms == tops[0] / bottoms[0]):
        # No variation was seen, so resampling shows none either. But had a share q of all
        # problems another result, n of n like these would be drawn with probability (1 - q)^n;
        # that is at least `tail` up to q = 1 - tail^(1/n), the one-sided bound of Clopper and
        # Pearson (1934) for 0 of n. Those unseen problems may be all wrong, or all right. Each
        # problem is one observation: its chains are alike, and prove no more than one.
        unseen = 1.0 - tail ** (1.0 / problems)
        low, high = estimate * (1.0 - unseen), estimate + unseen * (1.0 - estimate)
        return Interval(estimate=estimate, low=low, high=high)
    draws = np.random.default_rng(seed).multinomial(
        problems, np.full(problems, 1.0 / problems), size=resamples
    )
    low, high = np.quantile((draws @ tops) / (draws @ bottoms), [tail, 1.0 - tail])
    return Interval(estimate=estimate, low=float(low), high=float(high))


def accuracy(grades: Grades) -> Interval:
    """The share of chains that are right, over all problems.

    Raises:
        GradingError: there are no chains.
    """
    results = _by_problem(grades)
    right = [sum(grade.correct for grade in chains) for chains in results]
    return clustered_interval(right, [len(chains) for chains in results])


def majority_vote(grades: Grades) -> Interval:
    """The share of problems whose most frequent answer is right.

    Equivalent answers count together; chains without an answer do not vote. Where answers tie
    for the lead, the problem counts for the share of the leaders that are right, which is what
    a random choice among them would score on average. A problem without any answer is wrong.

    Raises:
        GradingError: there are no problems.
    """
    scores = [_vote(chains) for chains in _by_problem(grades)]
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
    # In the order of their ids: the bootstrap draws by position, and the order in which
    # problems ended must not show in a result.
    return [grades[name] for name in sorted(grades)]


def _vote(chains: Sequence[Grade]) -> float:
    groups: list[list[Grade]] = []
    for grade in chains:
        if grade.answer is None:
            continue
        for group in groups:
            if group[0].answer is not None and equivalent(group[0].answer, grade.answer):
                group.append(grade)
                break
        else:
            groups.append([grade])
    if not groups:
        return 0.0
    most = max(len(group) for group in groups)
    # A grader may find more than `equivalent` does, so a group need not be all right or wrong.
    leaders = [sum(g.correct for g in group) / most for group in groups if len(group) == most]
    return sum(leaders) / len(leaders)


def _counted(
    numerators: ArrayLike, denominators: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    tops = np.asarray(numerators, dtype=np.float64)
    bottoms = np.asarray(denominators, dtype=np.float64)
    if tops.ndim != 1 or tops.shape != bottoms.shape:
        raise GradingError(
            "one numerator and one denominator a problem are needed, "
            f"got shapes {tops.shape} and {bottoms.shape}"
        )
    # Written so that NaN fails too.
    wrong = ~((tops >= 0) & (tops <= bottoms) & (bottoms < np.inf))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise GradingError(
            "a share needs 0 <= numerator <= denominator, "
            f"got {tops[at]:g} of {bottoms[at]:g} at position {at}"
        )
    counted = bottoms > 0
    if not counted.any():
        raise GradingError("nothing to count: no problem has a chain or decision")
    return tops[counted], bottoms[counted]
