"""Two runs over the same problems: differences, ratios, and tests, each paired by problem."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import lcm

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atts.errors import GradingError
from atts.grading.intervals import Interval, clustered_interval, ratio_interval
from atts.types import Record

LARGEST_DENOMINATOR = 10_000
MOST_STEPS = 200_000_000
"""Additions up to which the flips are counted rather than drawn: a second or so."""
DRAWN_PARTS, FLIPS_OF_A_PART = 9, 1_111


class Difference(Record):
    """How much higher a share is in one run than in another, over the same problems."""

    estimate: float
    low: float
    high: float
    p_value: float
    """Two-sided, of the exact sign-flip test; see ``paired_difference``."""


def paired_difference(
    ours: Mapping[str, float], theirs: Mapping[str, float], seed: int = 0
) -> Difference:
    """How much higher the mean of a share is, over the problems that both runs have.

    Each problem is paired with itself. The interval (95 %) is that of ``clustered_interval`` for
    (1 + difference) / 2, which lies in [0, 1]: so runs that differ nowhere, on a few problems, do
    not pass for the same. The p-value is that of the exact sign-flip test; see
    ``sign_flip_p_value``.

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
    cancels. The interval is that of ``ratio_interval``. None where the other run's sum is 0, or
    where one problem alone would have to tell how much problems vary.

    Args:
        ours: a figure for each problem, at least 0.
        theirs: the same of the other run.

    Raises:
        GradingError: the runs have no problem in common.

    >>> paired_ratio({"a": 10, "b": 30}, {"a": 20, "b": 60})
    Interval(estimate=0.5, low=0.5, high=0.5)
    """
    shared = _shared(ours, theirs)
    tops, bottoms = [ours[name] for name in shared], [theirs[name] for name in shared]
    if not any(bottoms) or len(shared) == 1:
        return None
    return ratio_interval(tops, bottoms)


def _shared(ours: Mapping[str, float], theirs: Mapping[str, float]) -> list[str]:
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise GradingError("the runs have no problem in common; compare runs over the same ones")
    return shared


def sign_flip_p_value(differences: ArrayLike, seed: int = 0) -> float:
    """The two-sided p-value of the sign-flip permutation test (Fisher, *The Design of Experiments*,
    1935, section 21; Good, *Permutation Tests*, 2000, section 3.2).

    If the two runs are alike, each problem's difference is as likely the other way round. The
    p-value is the share of all 2^problems flips whose sum is at least as far from 0 as the
    observed one. For differences of -1, 0 and 1 this is the exact test of McNemar (1947).

    Shares of a few chains are multiples of a common unit, so the sums are counted exactly, problem
    by problem (the shift algorithm of Pagano and Tritchler 1983, *JASA* 78). Where there is no
    such unit, or counting takes too long, 9,999 flips are drawn and the observed one counts with
    them. Either way the level holds for any number of problems.

    Args:
        differences: shape (problems,), finite.
        seed: fixes the draws, where flips are drawn.

    >>> sign_flip_p_value([1, 1, 1, 1, 1])  # 2 of 2^5
    0.0625
    >>> sign_flip_p_value([0.5, -0.5, 0.0])
    1.0
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError("one finite difference a problem is needed")
    values = values[values != 0.0]  # a flip does not change them
    units = _in_units(values)
    if units is not None and len(units) * int(np.abs(units).sum()) <= MOST_STEPS:
        return _counted(units)
    return _drawn(values, seed)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several tests, adjusted so that the chance of even one false rejection holds.

    The step-down procedure of Holm (1979, *Scandinavian Journal of Statistics* 6): the i-th
    smallest of m, from 0, is multiplied by m - i, and none becomes less than one before it. No
    assumption on how the tests depend on each other.

    >>> [round(p, 3) for p in holm([0.04, 0.01, 0.03])]
    [0.06, 0.03, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _in_units(values: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """The values as multiples of their largest common unit; None if they have none."""
    fractions = [Fraction(value).limit_denominator(LARGEST_DENOMINATOR) for value in values]
    unit = lcm(*(fraction.denominator for fraction in fractions))
    if unit > LARGEST_DENOMINATOR:
        return None
    units = [int(fraction * unit) for fraction in fractions]
    if any(abs(value - count / unit) > 1e-9 for value, count in zip(values, units, strict=True)):
        return None
    return np.array(units, dtype=np.int64)


def _counted(units: NDArray[np.int64]) -> float:
    """With S the sum of the magnitudes that stay positive, the flipped sum is 2 S - total."""
    sizes = np.abs(units)
    total, observed = int(sizes.sum()), abs(int(units.sum()))
    chances = np.zeros(total + 1)
    chances[0] = 1.0
    for size in sizes:
        shifted = np.zeros_like(chances)
        shifted[size:] = chances[: total + 1 - size]
        chances = (chances + shifted) / 2.0
    as_extreme = np.abs(2 * np.arange(total + 1) - total) >= observed
    return min(1.0, float(chances[as_extreme].sum()))


def _drawn(values: NDArray[np.float64], seed: int) -> float:
    observed = abs(float(values.sum()))
    slack = 1e-12 * len(values)  # sums that are equal but for rounding are as extreme
    generator = np.random.default_rng(seed)
    as_extreme = 1
    for _ in range(DRAWN_PARTS):  # all flips of a thousand problems would fill 100 MB
        signs = generator.choice([-1.0, 1.0], size=(FLIPS_OF_A_PART, len(values)))
        as_extreme += int((np.abs(signs @ values) >= observed - slack).sum())
    return as_extreme / (DRAWN_PARTS * FLIPS_OF_A_PART + 1)
