"""Quantiles, against scipy."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from atts.grading.quantiles import beta_quantile, student_quantile

SHAPES = st.floats(-2.0, 5.0).map(lambda exponent: 10.0**exponent)


@given(st.floats(0.001, 0.999), SHAPES, SHAPES)
def test_the_beta_distribution(probability: float, a: float, b: float) -> None:
    found = beta_quantile(probability, a, b)
    assert found == pytest.approx(stats.beta.ppf(probability, a, b), abs=1e-9)


@given(st.floats(0.501, 0.999), st.integers(1, 10_000))
def test_the_distribution_of_student(probability: float, degrees: int) -> None:
    found = student_quantile(probability, degrees)
    assert found == pytest.approx(stats.t.ppf(probability, degrees), rel=1e-7)


def test_the_ends() -> None:
    assert student_quantile(0.975, 0) == math.inf
    assert student_quantile(0.5, 3) == 0.0


@pytest.mark.parametrize(("probability", "a", "b"), [(0, 1, 1), (1, 1, 1), (0.5, 0, 1)])
def test_what_has_no_quantile_is_refused(probability: float, a: float, b: float) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        beta_quantile(probability, a, b)
