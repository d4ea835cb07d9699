import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atts.conformal.pvalues import p_value, smoothed_rank
from atts.errors import CalibrationError

# Few distinct values, so that ties are common.
TIED_SCORES = st.lists(st.integers(0, 4).map(float), min_size=1, max_size=12)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
# Multiples of 1/1024, so that the arithmetic below is exact but for one rounding.
TIE_BREAKER = st.integers(0, 1023).map(lambda k: k / 1024)


def probability_at_most(calibration: list[float], score: float, rate: Fraction) -> Fraction:
    """P(p <= rate) over U, exactly: p is linear in U, from its value at 0 to that at 1."""
    ranks = len(calibration) + 1
    array = np.sort(np.array(calibration))
    at_zero = Fraction(round(p_value(array, score, 0.0) * ranks), ranks)
    at_half = Fraction(round(p_value(array, score, 0.5) * 2 * ranks), 2 * ranks)
    slope = 2 * (at_half - at_zero)
    return min(max((rate - at_zero) / slope, Fraction(0)), Fraction(1))


@given(TIED_SCORES, st.fractions(0, 1))
def test_p_is_exactly_uniform_when_every_score_is_equally_likely_the_new_one(
    scores: list[float], rate: Fraction
) -> None:
    # Exchangeable: given the set of N + 1 scores, each is the test score with chance 1/(N+1).
    chances = [
        probability_at_most(scores[:i] + scores[i + 1 :], scores[i], rate)
        for i in range(len(scores))
    ]
    assert sum(chances, Fraction(0)) / len(scores) == rate


@given(TIED_SCORES, st.integers(0, 4).map(float), TIE_BREAKER)
def test_p_is_the_formula(calibration: list[float], score: float, u: float) -> None:
    above = sum(c > score for c in calibration)
    equal = sum(c == score for c in calibration)
    expected = (above + u * (1 + equal)) / (len(calibration) + 1)
    assert p_value(np.sort(np.array(calibration)), score, u) == expected


@given(st.lists(FINITE, max_size=20), FINITE, FINITE, TIE_BREAKER)
def test_a_higher_score_never_has_a_higher_p(
    calibration: list[float], one: float, other: float, u: float
) -> None:
    array = np.sort(np.array(calibration, dtype=np.float64))
    low, high = sorted((one, other))
    assert 0.0 <= p_value(array, high, u) <= p_value(array, low, u) < 1.0


def test_without_calibration_scores_p_is_the_tie_breaker() -> None:
    assert p_value(np.array([]), 1.5, 0.25) == 0.25


def test_p_equals_that_of_crepes() -> None:
    oracle = pytest.importorskip("crepes.base", reason="crepes or its scikit-learn is missing")
    rng = np.random.default_rng(1)
    for case in range(20):
        # Rounded, so that some scores tie with each other and with calibration scores.
        calibration = rng.gamma(2.0, 0.3, size=rng.integers(1, 60)).round(1)
        scores = rng.gamma(2.0, 0.4, size=40).round(1)
        expected = oracle.p_values_batch(calibration, scores, smoothing=True, seed=case)
        # crepes draws its tie-breakers from the legacy generator, in the order of the scores.
        draws = np.random.RandomState(case).rand(len(scores))
        ours = [p_value(np.sort(calibration), s, u) for s, u in zip(scores, draws, strict=True)]
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_refused(score: float) -> None:
    with pytest.raises(CalibrationError, match=r"not a finite number.*check that engine"):
        p_value(np.array([1.0]), score, 0.5)


@pytest.mark.parametrize("u", [-0.1, 1.0, math.nan])
def test_a_tie_breaker_outside_the_unit_interval_is_a_mistake(u: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        smoothed_rank(above=0, equal=0, count=3, u=u)
