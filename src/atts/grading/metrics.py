"""Metrics over graded chains, each with an interval clustered by problem.

The chains of a problem share its difficulty, so they are not independent observations; the
problems are. Every interval here resamples whole problems.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atts.errors import GradingError
from atts.grading.equivalence import equivalent
from atts.grading.paired import sign_flip_p_value
from atts.types import Record


class Interval(Record):
    """A proportion, mean or ratio with its confidence interval."""

    estimate: float
    low: float
    high: float


class Difference(Record):
    """How much higher a share is in one run than in another, over the same problems."""

    estimate: float
    low: float
    high: float
    p_value: float
    """Two-sided, of the exact sign-flip test; see ``paired_difference``."""


class Grade(NamedTuple):
    """What a chain came to. A failed chain, or one that gave no answer, is ``(None, False)``."""

    answer: str | None
    correct: bool
    graded: bool = True
    """False if the answer could not be compared with the gold answer; then it is not correct."""


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
    draws = _draws(problems, resamples, seed)
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


def accuracy_by_problem(grades: Grades) -> dict[str, float]:
    """The share of each problem's chains that are right."""
    return {
        name: sum(grade.correct for grade in grades[name]) / len(grades[name])
        for name in sorted(grades)
    }


def paired_difference(
    ours: Mapping[str, float], theirs: Mapping[str, float], seed: int = 0
) -> Difference:
    """How much higher the mean of a figure is, over the problems that both runs have.

    Each problem is paired with itself. The interval (95 %) is the percentile bootstrap over
    problems. The p-value is that of the exact sign-flip test; see ``paired.sign_flip_p_value``.

    Args:
        ours: a figure for each problem, e.g. ``accuracy_by_problem``.
        theirs: the same of the other run.
        seed: fixes the draws.

    Raises:
        GradingError: the runs have no problem in common.

    >>> result = paired_difference({"a": 1.0, "b": 0.5}, {"a": 0.5, "b": 0.5})
    >>> result.estimate, round(result.p_value, 1)
    (0.25, 1.0)
    """
    shared = _shared(ours, theirs)
    differences = np.array([ours[name] - theirs[name] for name in shared])
    means = _draws(len(shared), 2000, seed) @ differences / len(shared)
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(
        estimate=float(differences.mean()),
        low=float(low),
        high=float(high),
        p_value=sign_flip_p_value(differences, seed),
    )


def paired_ratio(
    ours: Mapping[str, float], theirs: Mapping[str, float], seed: int = 0
) -> Interval | None:
    """The ratio of two runs' sums of a figure such as tokens, over the problems that both have.

    The interval (95 %) is the percentile bootstrap over problems: each is drawn with what it has
    in both runs, so that what makes a problem long for both cancels. None where the other run's
    sum is 0.

    Args:
        ours: a figure for each problem, at least 0.
        theirs: the same of the other run.
        seed: fixes the draws.

    Raises:
        GradingError: the runs have no problem in common.

    >>> paired_ratio({"a": 10, "b": 30}, {"a": 20, "b": 60})
    Interval(estimate=0.5, low=0.5, high=0.5)
    """
    shared = _shared(ours, theirs)
    tops = np.array([ours[name] for name in shared], dtype=np.float64)
    bottoms = np.array([theirs[name] for name in shared], dtype=np.float64)
    if bottoms.sum() == 0.0:
        return None
    draws = _draws(len(shared), 2000, seed)
    sums = draws @ bottoms
    low, high = np.quantile((draws @ tops)[sums > 0] / sums[sums > 0], [0.025, 0.975])
    return Interval(estimate=float(tops.sum() / bottoms.sum()), low=float(low), high=float(high))


def _shared(ours: Mapping[str, float], theirs: Mapping[str, float]) -> list[str]:
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise GradingError("the runs have no problem in common; compare runs over the same ones")
    return shared


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
    # In the order of their ids: the bootstrap draws by position, and the order in which
    # problems ended must not show in a result.
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
        for place, (answer, votes) in enumerate(wrong):
            if same(answer, grade.answer):
                wrong[place] = (answer, votes + 1)
                break
        else:
            wrong.append((grade.answer, 1))
    most = max([right, *(votes for _, votes in wrong)])
    if most == 0 or right < most:
        return 0.0
    return 1.0 / (1 + sum(votes == most for _, votes in wrong))


@lru_cache(maxsize=4)
def _draws(problems: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """How often each problem is drawn, in each resample; shape (resamples, problems)."""
    shares = np.full(problems, 1.0 / problems)
    return np.random.default_rng(seed).multinomial(problems, shares, size=resamples)


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
