"""Paired tests, against enumeration and against scipy."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from atts.grading import paired
from atts.grading.paired import holm, sign_flip_p_value

EIGHTHS = st.lists(st.integers(-8, 8).map(lambda eighths: eighths / 8), min_size=1, max_size=9)
P_VALUES = st.lists(st.floats(0.0, 1.0), max_size=8)


@given(EIGHTHS)
def test_every_flip_is_counted(differences: list[float]) -> None:
    observed = abs(sum(differences))
    flips = [
        abs(sum(sign * size for sign, size in zip(signs, differences, strict=True)))
        for signs in product((-1, 1), repeat=len(differences))
    ]
    share = sum(flipped >= observed for flipped in flips) / len(flips)
    assert sign_flip_p_value(differences) == pytest.approx(share, abs=1e-12)


@given(EIGHTHS)
def test_sides_and_order_do_not_matter(differences: list[float]) -> None:
    found = sign_flip_p_value(differences)
    assert sign_flip_p_value([-each for each in differences]) == pytest.approx(found)
    assert sign_flip_p_value(differences[::-1]) == pytest.approx(found)
    assert sign_flip_p_value([*differences, 0.0, 0.0]) == pytest.approx(found)


def test_it_agrees_with_scipy() -> None:
    generator = np.random.default_rng(0)
    for _ in range(5):
        differences = generator.integers(-4, 6, size=12) / 4
        theirs = stats.permutation_test(
            (differences,),
            lambda x, axis: x.mean(axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=np.inf,
        ).pvalue
        assert sign_flip_p_value(differences) == pytest.approx(theirs)


@given(st.integers(0, 30), st.integers(0, 30))
def test_on_right_and_wrong_it_is_the_exact_test_of_mcnemar(gained: int, lost: int) -> None:
    found = sign_flip_p_value([1.0] * gained + [-1.0] * lost + [0.0] * 7)
    expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert found == pytest.approx(expected)


def test_many_problems_of_many_chains_are_counted_exactly() -> None:
    """The normal approximation is good there, and a p-value below 1e-4 can be told."""
    generator = np.random.default_rng(0)
    differences = generator.integers(-16, 18, size=500) / 16
    deviation = abs(differences.sum()) / np.sqrt((differences**2).sum())
    assert sign_flip_p_value(differences) == pytest.approx(2 * stats.norm.sf(deviation), rel=0.02)
    assert sign_flip_p_value(np.full(60, 1 / 16)) == pytest.approx(2.0**-59)


def test_without_a_common_unit_flips_are_drawn() -> None:
    differences = np.sqrt(np.arange(1.0, 13.0)) * ([1, 1, -1] * 4)
    exact = np.mean(
        np.abs(np.array(list(product((-1, 1), repeat=12))) @ differences)
        >= abs(differences.sum()) - 1e-9
    )
    # Four standard deviations of a share of 9,999 draws.
    slack = 4 * np.sqrt(exact * (1 - exact) / 9_999)
    assert sign_flip_p_value(differences) == pytest.approx(exact, abs=slack)
    assert sign_flip_p_value(differences, seed=3) == sign_flip_p_value(differences, seed=3)
    assert sign_flip_p_value(differences, seed=3) != sign_flip_p_value(differences, seed=4)


def test_drawing_and_counting_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = [0.5, 0.25, 0.5, -0.25, 0.75, 0.5]
    exact = sign_flip_p_value(differences)
    monkeypatch.setattr(paired, "MOST_STEPS", 0)
    assert sign_flip_p_value(differences) == pytest.approx(exact, abs=0.02)
    assert sign_flip_p_value(differences) != exact


@pytest.mark.parametrize("bad", [[1.0, np.nan], [np.inf], [[1.0], [2.0]]])
def test_what_is_no_list_of_differences_is_refused(bad: object) -> None:
    with pytest.raises(ValueError, match="one finite difference a problem"):
        sign_flip_p_value(bad)  # type: ignore[arg-type]


@given(P_VALUES)
def test_holm_by_its_definition(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    ordered = sorted(p_values)
    for p, found in zip(p_values, adjusted, strict=True):
        below = [(len(ordered) - rank) * other for rank, other in enumerate(ordered) if other <= p]
        assert found == pytest.approx(min(1.0, max(below)))


@given(P_VALUES)
def test_holm_is_between_the_plain_values_and_those_of_bonferroni(p_values: list[float]) -> None:
    for p, found in zip(p_values, holm(p_values), strict=True):
        assert p <= found <= min(1.0, len(p_values) * p) + 1e-12
