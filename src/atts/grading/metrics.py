"""Metrics over graded chains, each with an interval clustered by problem.

The chains of a problem share its difficulty, so they are not independent observations; the
problems are. Every interval here is from how much whole problems vary.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from math import comb
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atts.errors import GradingError
from atts.grading.equivalence import equivalent
from atts.grading.paired import sign_flip_p_value
from atts.grading.quantiles import beta_quantile, student_quantile
from atts.types import Record

_MOST_OBSERVATIONS = 1e6
"""Shares that vary so little that they count for more than this vary by rounding."""


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
    expected: int | None = None,
) -> Interval:
    """The share r = sum(numerators) / sum(denominators), with an interval clustered by problem.

    The interval of Korn and Graubard (1998, *Survey Methodology* 24) for a proportion p in a
    clustered sample. With x_i of y_i in problem i, the variance of r over problems is

        v = n / (n - 1) sum_i (x_i - r y_i)^2 / (sum_i y_i)^2

    and as many independent observations as would give the same are p (1 - p) / v, which z^2 / t^2
    corrects for v being estimated from n problems (t has n - 1 degrees of freedom). The interval is
    that of Clopper and Pearson (1934) for so many. Problems whose denominator is 0 do not count.

    Where all problems have the same share v says nothing, and an exact bound takes its place. Had
    a share q of all problems another result, n of n like these would be drawn with probability
    (1 - q)^n, which is at least (1 - confidence) / 2 up to the q that is taken here. Those unseen
    problems may be all wrong, or all right. Each problem is one observation: its chains are alike,
    and prove no more than one. At 0 and 1 it is what the formula above tends to.

    Args:
        numerators: shape (problems,), each between 0 and its denominator; e.g. take-overs.
        denominators: shape (problems,); e.g. decisions.
        confidence: the nominal coverage of the interval, in (0, 1).
        expected: asks what so many other problems, drawn like these, will show, whose own variance
            comes on top: v (1 + n / expected). None: what all do.

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
    variance = _ratio_variance(tops, bottoms) * (1.0 + problems / expected if expected else 1.0)
    if variance <= estimate * (1.0 - estimate) / _MOST_OBSERVATIONS:
        unseen = 1.0 - tail ** (1.0 / problems)
        low, high = estimate * (1.0 - unseen), estimate + unseen * (1.0 - estimate)
        return Interval(estimate=estimate, low=low, high=high)
    wider = NormalDist().inv_cdf(1.0 - tail) / student_quantile(1.0 - tail, problems - 1)
    observations = estimate * (1.0 - estimate) / variance * wider**2
    of_these, the_rest = observations * estimate, observations * (1.0 - estimate)
    return Interval(
        estimate=estimate,
        low=beta_quantile(tail, of_these, the_rest + 1.0),
        high=beta_quantile(1.0 - tail, of_these + 1.0, the_rest),
    )


def _ratio_variance(tops: NDArray[np.float64], bottoms: NDArray[np.float64]) -> float:
    """Of sum(tops) / sum(bottoms) over samples of as many problems, linearised; 0 of one problem.

    Cochran, *Sampling Techniques*, 1977, equation 6.13.
    """
    problems, total = len(bottoms), bottoms.sum()
    rest = tops - tops.sum() / total * bottoms
    return float(problems / max(problems - 1, 1) * (rest**2).sum() / total**2)


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
    """How much higher the mean of a share is, over the problems that both runs have.

    Each problem is paired with itself. The interval (95 %) is that of ``clustered_interval`` for
    (1 + difference) / 2, which lies in [0, 1]: so runs that differ nowhere, on a few problems, do
    not pass for the same. The p-value is that of the exact sign-flip test; see
    ``paired.sign_flip_p_value``.

    Args:
        ours: a share in [0, 1] for each problem, e.g. ``accuracy_by_problem``.
        theirs: the same of the other run.
        seed: fixes the flips, where they are drawn.

    Raises:
        GradingError: the runs have no problem in common.

    >>> result = paired_difference({"a": 1.0, "b": 0.5}, {"a": 0.5, "b": 0.5})
    >>> result.estimate, round(result.p_value, 1)
    (0.25, 1.0)
    """
    shared = _shared(ours, theirs)
    differences = np.array([ours[name] - theirs[name] for name in shared])
    half = clustered_interval((1.0 + differences) / 2.0, np.ones(len(shared)))
    return Difference(
        estimate=float(differences.mean()),
        low=2.0 * half.low - 1.0,
        high=2.0 * half.high - 1.0,
        p_value=sign_flip_p_value(differences, seed),
    )


def paired_ratio(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Interval | None:
    """The ratio r of two runs' sums of a figure such as tokens, over the problems that both have.

    Each problem counts with what it has in both runs, so that what makes a problem long for both
    cancels. The interval (95 %) is that of Student for log r: r exp(-t s / r) to r exp(t s / r),
    with s^2 the variance of r over problems and n - 1 degrees of freedom. None where the other
    run's sum is 0, or where one problem alone would have to tell how much problems vary.

    Args:
        ours: a figure for each problem, at least 0.
        theirs: the same of the other run.

    Raises:
        GradingError: the runs have no problem in common.

    >>> paired_ratio({"a": 10, "b": 30}, {"a": 20, "b": 60})
    Interval(estimate=0.5, low=0.5, high=0.5)
    """
    shared = _shared(ours, theirs)
    tops = np.array([ours[name] for name in shared], dtype=np.float64)
    bottoms = np.array([theirs[name] for name in shared], dtype=np.float64)
    if bottoms.sum() == 0.0 or len(shared) == 1:
        return None
    ratio = float(tops.sum() / bottoms.sum())
    if ratio == 0.0:
        return Interval(estimate=0.0, low=0.0, high=0.0)
    deviation = math.sqrt(_ratio_variance(tops, bottoms)) / ratio
    factor = math.exp(student_quantile(0.975, len(shared) - 1) * deviation)
    return Interval(estimate=ratio, low=ratio / factor, high=ratio * factor)


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
