"""Paired tests, against enumeration and against scipy."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from atts.errors import GradingError
from atts.grading import paired
from atts.grading.intervals import Interval
from atts.grading.paired import holm, paired_difference, paired_ratio, sign_flip_p_value

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


def test_a_paired_test_sees_a_steady_difference() -> None:
    theirs = {f"p{n}": n / 40 for n in range(20)}
    ours = {name: share + 0.09 + 0.02 * (n % 2) for n, (name, share) in enumerate(theirs.items())}
    found = paired_difference(ours, theirs)
    half = stats.t.ppf(0.975, 19) * 0.01 * math.sqrt(20 / 19) / math.sqrt(20)
    assert (found.estimate, found.low, found.high) == pytest.approx(
        (0.1, 0.1 - half, 0.1 + half), abs=1e-4
    )
    assert found.p_value == pytest.approx(1e-4, abs=1e-4)
    assert paired_difference(theirs, ours).estimate == pytest.approx(-0.1)


def test_a_paired_test_of_like_runs_holds_its_level() -> None:
    generator = np.random.default_rng(1)
    rejected = 0
    for _ in range(200):
        ours, theirs = generator.binomial(8, 0.5, size=(2, 15)) / 8
        names = [f"p{n}" for n in range(15)]
        found = paired_difference(
            dict(zip(names, ours, strict=True)), dict(zip(names, theirs, strict=True))
        )
        rejected += found.p_value <= 0.05
    assert rejected <= 20  # of 200 at level 0.05: more has a chance of 0.1 %


def test_two_runs_that_are_the_same_do_not_differ() -> None:
    same = {"a": 0.5, "b": 1.0}
    found = paired_difference(same, same)
    assert (found.estimate, found.p_value) == (0.0, 1.0)
    assert found.low < -0.5 < 0.5 < found.high, "two problems prove little"


@pytest.mark.parametrize(("lost", "won"), [(0.02, 0.0), (0.05, 0.1), (0.15, 0.2)])
@pytest.mark.parametrize("problems", [10, 30, 100])
def test_votes_that_seldom_differ_are_covered(problems: int, lost: float, won: float) -> None:
    """Runs that agree on all problems that were seen may still differ on others."""
    rng = np.random.default_rng(8)
    simulations, truth, covered = 300, 0.2 * won - 0.8 * lost, 0
    for _ in range(simulations):
        theirs = rng.random(problems) < 0.8
        changed = rng.random(problems) < np.where(theirs, lost, won)
        ours, names = theirs ^ changed, [f"p{n}" for n in range(problems)]
        found = paired_difference(
            dict(zip(names, ours.astype(float), strict=True)),
            dict(zip(names, theirs.astype(float), strict=True)),
        )
        covered += found.low <= truth <= found.high
    # Standard error 0.013. A bootstrap covers 0.15 to 0.7 of the time where few differ.
    assert covered / simulations >= 0.91


def test_only_shared_problems_are_paired() -> None:
    assert paired_difference({"a": 1.0, "b": 0.0}, {"a": 0.5, "c": 1.0}).estimate == 0.5
    with pytest.raises(GradingError, match="no problem in common"):
        paired_difference({"a": 1.0}, {"b": 1.0})


def test_a_ratio_is_that_of_the_sums_over_shared_problems() -> None:
    found = paired_ratio({"a": 1.0, "b": 5.0, "c": 9.0}, {"a": 4.0, "b": 8.0, "d": 1.0})
    assert found is not None
    assert found.estimate == 6 / 12
    # Each problem is off the ratio by 1, of a total of 12: s / r = sqrt(2 * 2) / 12 / 0.5.
    factor = math.exp(stats.t.ppf(0.975, 1) * 2 / 12 / 0.5)
    assert (found.low, found.high) == pytest.approx((0.5 / factor, 0.5 * factor))


def test_a_ratio_of_few_problems_is_covered() -> None:
    rng = np.random.default_rng(9)
    simulations, covered = 400, 0
    for _ in range(simulations):
        theirs = np.exp(rng.normal(8.0, 0.6, size=10))
        ours = 0.4 * theirs * np.exp(rng.normal(0.0, 0.2, size=10))
        names = [f"p{n}" for n in range(10)]
        found = paired_ratio(
            dict(zip(names, ours, strict=True)), dict(zip(names, theirs, strict=True))
        )
        assert found is not None
        covered += found.low <= 0.4 * math.exp(0.02) <= found.high
    assert covered / simulations >= 0.91


def test_a_ratio_to_nothing_is_none() -> None:
    assert paired_ratio({"a": 1.0}, {"a": 0.0}) is None
    assert paired_ratio({"a": 1.0}, {"a": 2.0}) is None, "one problem does not tell how they vary"
    assert paired_ratio({"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 1.0}) == Interval(
        estimate=0.0, low=0.0, high=0.0
    )
    found = paired_ratio({"a": 1.0, "b": 1.0}, {"a": 0.0, "b": 1.0})
    assert found is not None
    assert found.estimate == 2.0
    assert np.isfinite(found.high)
    with pytest.raises(GradingError, match="no problem in common"):
        paired_ratio({"a": 1.0}, {"b": 1.0})
