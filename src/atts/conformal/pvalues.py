"""Smoothed conformal p-values of one-dimensional scores: pure arithmetic on ranks."""

import math

import numpy as np
from numpy.typing import NDArray

from atts.errors import CalibrationError


def p_value(sorted_scores: NDArray[np.float64], score: float, u: float) -> float:
    """The smoothed conformal p-value of a score against calibration scores.

    With calibration scores c_1..c_N and U uniform on [0, 1),

        p = (#{c_i > s} + U (1 + #{c_i = s})) / (N + 1)

    which is exactly uniform on [0, 1) when s and the c_i are exchangeable (Vovk, Gammerman and
    Shafer, *Algorithmic Learning in a Random World*, 2005, chapter 2). Small = unusually
    nonconforming. Without calibration scores it is U itself.

    Args:
        sorted_scores: shape (N,), ascending, in nats per token.
        score: the score to judge, in nats per token.
        u: the tie-breaker, in [0, 1).

    Raises:
        CalibrationError: the score is not a finite number.
        ValueError: ``u`` lies outside [0, 1).

    >>> p_value(np.array([1.0, 2.0, 2.0, 3.0]), 2.0, u=0.5)
    0.5
    >>> p_value(np.array([1.0, 2.0, 2.0, 3.0]), 9.0, u=0.5)
    0.1
    """
    require_finite(score)
    count = len(sorted_scores)
    first_equal = int(np.searchsorted(sorted_scores, score, side="left"))
    first_above = int(np.searchsorted(sorted_scores, score, side="right"))
    return smoothed_rank(
        above=count - first_above, equal=first_above - first_equal, count=count, u=u
    )


def smoothed_rank(above: int, equal: int, count: int, u: float) -> float:
    """The p-value from its counts: of ``count`` scores ``above`` are larger, ``equal`` tie.

    Raises:
        ValueError: ``u`` lies outside [0, 1).
    """
    if not 0.0 <= u < 1.0:
        raise ValueError(f"the tie-breaker u must lie in [0, 1), got {u}")
    return (above + u * (1 + equal)) / (count + 1)


def two_draws(u: float) -> tuple[float, float]:
    """Two independent uniform draws from one: its first 20 binary digits, and the others.

    Exact for a draw of 53 bits, which is what tie-breakers are.

    >>> two_draws(0.5 + 2.0**-21)
    (0.5, 0.5)
    """
    rest, whole = math.modf(u * 2.0**20)
    return whole / 2.0**20, rest


def require_finite(score: float) -> None:
    """Refuse a score that cannot be ranked.

    A missing log-probability must not pass for a very good or a very bad one.

    Raises:
        CalibrationError: the score is NaN or infinite.
    """
    if not math.isfinite(score):
        raise CalibrationError(
            f"a segment's score is {score}, not a finite number: the target's engine returned "
            "missing or impossible log-probabilities for it; check that engine"
        )
