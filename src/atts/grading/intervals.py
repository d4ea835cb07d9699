"""Intervals for shares, means and ratios over problems.

The chains of a problem share its difficulty, so they are not independent observations; the
problems are. Every interval here is from how much whole problems vary.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atts.errors import GradingError
from atts.types import Record

_MOST_OBSERVATIONS = 1e6
"""Shares that vary so little that they count for more than this vary by rounding."""


class Interval(Record):
    """A proportion, mean or ratio with its confidence interval."""

    estimate: float
    low: float
    high: float


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

    Where all problems are alike v says nothing: an exact bound is taken (docs/statistics.md).

    Args:
        numerators: shape (problems,), each between 0 and its denominator; e.g. take-overs.
        denominators: shape (problems,); e.g. decisions.
        confidence: the nominal coverage of the interval, in (0, 1).
        expected: asks what so many other problems, drawn like these, will show, whose own variance
            comes on top: v (1 + n / expected). None: what all do.

    Raises:
        GradingError: the shapes or a share are wrong, or nothing is left to count.

    >>> round(clustered_interval([0, 0, 0], [16, 16, 16]).high, 4)
    0.7076
    """
    tops, bottoms = _counted(numerators, denominators)
    estimate = float(tops.sum() / bottoms.sum())
    variance = _ratio_variance(tops, bottoms)
    variance *= 1.0 + len(bottoms) / expected if expected else 1.0
    return _share_interval(estimate, variance, len(bottoms), confidence)


def clustered_auroc(
    scores: ArrayLike, positive: ArrayLike, problems: Sequence[str], confidence: float = 0.95
) -> Interval:
    """The area under the ROC curve: the chance that a positive chain has the higher score.

    Pairs of a positive chain with a negative one are counted, ties half, over all problems. The
    interval is that of ``clustered_interval``, with the variance of the jackknife that leaves out
    a problem at a time (Efron and Stein 1981, *Annals of Statistics* 9): (n - 1) / n times the sum
    of squares of the n estimates about their mean. Where one problem has all positive, or all
    negative chains, nothing is known of how much problems vary, and the interval is 0 to 1.

    Args:
        scores: shape (chains,).
        positive: shape (chains,), bool; not all alike.
        problems: the problem of each chain.
        confidence: the nominal coverage of the interval, in (0, 1).

    Raises:
        GradingError: all chains are positive, or none is.

    >>> clustered_auroc([0.3, 0.1, 0.2, 0.2], [True, False, True, False], list("aabb")).estimate
    0.875
    """
    wins, positives, negatives = _pairs_in_order(scores, positive, problems)
    pairs = positives.sum() * negatives.sum()
    if pairs == 0:
        raise GradingError("an AUROC needs chains of both kinds")
    estimate = float(wins.sum() / pairs)
    left = (positives.sum() - positives) * (negatives.sum() - negatives)
    if not left.all():
        return Interval(estimate=estimate, low=0.0, high=1.0)
    # wins[a, b] is gone if a or b is left out; wins[a, a] must not be taken away twice.
    without = (wins.sum() - wins.sum(axis=0) - wins.sum(axis=1) + np.diag(wins)) / left
    count = len(without)
    variance = float((count - 1) / count * ((without - without.mean()) ** 2).sum())
    return _share_interval(estimate, variance, count, confidence)


def auroc_within_problems(
    scores: ArrayLike, positive: ArrayLike, problems: Sequence[str], confidence: float = 0.95
) -> Interval | None:
    """The same over pairs of chains of one problem, so that it says nothing of hard problems.

    A share of pairs, with the interval of ``clustered_interval``. None where no problem has chains
    of both kinds.

    >>> auroc_within_problems([0.3, 0.1, 0.2, 0.2], [True, False, True, False], "aabb").estimate
    0.75
    """
    wins, positives, negatives = _pairs_in_order(scores, positive, problems)
    pairs = positives * negatives
    if not pairs.any():
        return None
    return clustered_interval(np.diag(wins), pairs, confidence)


def _pairs_in_order(
    scores: ArrayLike, positive: ArrayLike, problems: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """wins[a, b]: pairs of a positive chain of problem a and a negative one of b that are in order;
    and how many positive and negative chains each problem has.
    """
    values, kinds = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    names, index = np.unique(list(problems), return_inverse=True)
    count = len(names)
    positives, negatives = (np.bincount(index[side], minlength=count) for side in (kinds, ~kinds))
    wins = np.zeros((count, count))
    for value, problem in zip(values[kinds], index[kinds], strict=True):
        ordered = (value > values[~kinds]) + 0.5 * (value == values[~kinds])
        wins[problem] += np.bincount(index[~kinds], weights=ordered, minlength=count)
    return wins, positives, negatives


def _share_interval(estimate: float, variance: float, problems: int, confidence: float) -> Interval:
    """That of Korn and Graubard for a share whose variance over problems is known."""
    from scipy import special  # it takes longer to import than all else that a table needs

    tail = (1.0 - confidence) / 2.0
    if variance <= estimate * (1.0 - estimate) / _MOST_OBSERVATIONS:
        unseen = 1.0 - tail ** (1.0 / problems)
        low, high = estimate * (1.0 - unseen), estimate + unseen * (1.0 - estimate)
        return Interval(estimate=estimate, low=low, high=high)
    wider = special.ndtri(1.0 - tail) / special.stdtrit(problems - 1, 1.0 - tail)
    observations = estimate * (1.0 - estimate) / variance * wider**2
    of_these, others = observations * estimate, observations * (1.0 - estimate)
    return Interval(
        estimate=estimate,
        low=float(special.betaincinv(of_these, others + 1.0, tail)),
        high=float(special.betaincinv(of_these + 1.0, others, 1.0 - tail)),
    )


def ratio_interval(numerators: ArrayLike, denominators: ArrayLike) -> Interval:
    """A ratio r of sums over problems that is no share, e.g. tokens a chain; 95 %.

    The interval is that of Student for log r: r exp(-t s / r) to r exp(t s / r), with s^2 the
    variance of r over problems and n - 1 degrees of freedom. From one problem nothing is known of
    how much problems vary: 0 to infinity.

    Args:
        numerators: shape (problems,), at least 0.
        denominators: shape (problems,), at least 0 and not all 0.

    >>> ratio_interval([10, 30], [20, 60])
    Interval(estimate=0.5, low=0.5, high=0.5)
    """
    from scipy import special

    tops = np.asarray(numerators, dtype=np.float64)
    bottoms = np.asarray(denominators, dtype=np.float64)
    ratio = float(tops.sum() / bottoms.sum())
    if ratio == 0.0:
        return Interval(estimate=0.0, low=0.0, high=0.0)
    if len(tops) == 1:
        return Interval(estimate=ratio, low=0.0, high=math.inf)
    deviation = math.sqrt(_ratio_variance(tops, bottoms)) / ratio
    factor = math.exp(float(special.stdtrit(len(tops) - 1, 0.975)) * deviation)
    return Interval(estimate=ratio, low=ratio / factor, high=ratio * factor)


def _ratio_variance(tops: NDArray[np.float64], bottoms: NDArray[np.float64]) -> float:
    """Of sum(tops) / sum(bottoms) over samples of as many problems, linearised; 0 of one problem.

    Cochran, *Sampling Techniques*, 1977, equation 6.13.
    """
    problems, total = len(bottoms), bottoms.sum()
    rest = tops - tops.sum() / total * bottoms
    return float(problems / max(problems - 1, 1) * (rest**2).sum() / total**2)


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
