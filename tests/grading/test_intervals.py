"""Intervals over problems: their formulas, and how often they cover."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special, stats
from sklearn.metrics import roc_auc_score

from atts.errors import GradingError
from atts.grading.intervals import (
    Interval,
    auroc_within_problems,
    clustered_auroc,
    clustered_interval,
    ratio_interval,
)


def test_an_interval_is_stored_as_json() -> None:
    interval = Interval(estimate=0.5, low=0.25, high=0.75)
    assert Interval.model_validate_json(interval.model_dump_json()) == interval


def test_the_estimate_is_the_ratio_of_the_sums() -> None:
    assert clustered_interval([1, 0, 6], [2, 4, 8]).estimate == 7 / 14


@given(st.integers(1, 29))
def test_one_observation_a_problem_gives_the_bounds_of_clopper_and_pearson(right: int) -> None:
    """With as many trials as 30 problems tell, of which one degree of freedom is spent."""
    interval = clustered_interval([1] * right + [0] * (30 - right), [1] * 30)
    trials = 29 * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 29)) ** 2
    low = stats.beta.ppf(0.025, trials * right / 30, trials * (1 - right / 30) + 1)
    high = stats.beta.ppf(0.975, trials * right / 30 + 1, trials * (1 - right / 30))
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-9)


def test_with_many_problems_it_is_the_normal_interval_of_a_ratio() -> None:
    rng = np.random.default_rng(0)
    bottoms = rng.integers(5, 60, size=3000)
    tops = rng.binomial(bottoms, rng.beta(2, 3, size=3000))
    interval, ratio = clustered_interval(tops, bottoms), tops.sum() / bottoms.sum()
    rest = tops - ratio * bottoms  # Cochran 1977, equation 6.13
    half = 1.96 * math.sqrt(3000 * rest.var(ddof=1)) / bottoms.sum()
    assert (interval.low, interval.high) == pytest.approx((ratio - half, ratio + half), abs=2e-4)


SHARES = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=1, max_size=12)


@given(SHARES)
def test_an_interval_holds_its_estimate_and_does_not_care_for_order_or_sides(
    pairs: list[tuple[int, int]],
) -> None:
    tops = [min(top, bottom) for top, bottom in pairs]
    bottoms = [bottom for _, bottom in pairs]
    interval = clustered_interval(tops, bottoms)
    assert -1e-12 <= interval.low <= interval.estimate + 1e-12
    assert interval.estimate - 1e-12 <= interval.high <= 1 + 1e-12
    turned = clustered_interval(tops[::-1], bottoms[::-1])
    assert (turned.low, turned.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    others = clustered_interval(np.subtract(bottoms, tops), bottoms)
    assert (1 - others.high, 1 - others.low) == pytest.approx(
        (interval.low, interval.high), abs=1e-9
    )


@pytest.mark.parametrize("problems", [2, 5, 20, 100])
def test_one_more_wrong_problem_moves_both_ends_down(problems: int) -> None:
    """From all right to all wrong, the exact bounds at either end included."""
    intervals = [
        clustered_interval([1] * right + [0] * (problems - right), [1] * problems)
        for right in range(problems + 1)
    ]
    for fewer, more in pairwise(intervals):
        assert fewer.low <= more.low + 1e-12
        assert fewer.high <= more.high + 1e-12


def test_more_confidence_is_wider() -> None:
    tops, bottoms = list(range(30)), [40] * 30
    narrow, wide = (clustered_interval(tops, bottoms, confidence=c) for c in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high


@pytest.mark.parametrize("problems", [1, 3, 40])
def test_all_zero_and_all_one_get_the_exact_bound_over_problems(problems: int) -> None:
    none = clustered_interval([0] * problems, [16] * problems, confidence=0.9)
    every = clustered_interval([16] * problems, [16] * problems, confidence=0.9)
    # At the bound, seeing no problem of the other kind has a chance of 5 %.
    assert (none.estimate, none.low) == (0.0, 0.0)
    assert (1 - none.high) ** problems == pytest.approx(0.05)
    assert (every.estimate, every.high) == (1.0, 1.0)
    assert every.low**problems == pytest.approx(0.05)


def test_equal_problems_do_not_pass_for_certainty() -> None:
    one = clustered_interval([8], [16])
    assert one.low == pytest.approx(0.5 * 0.025)
    assert one.high == pytest.approx(1 - 0.5 * 0.025)
    many = clustered_interval([8] * 50, [16] * 50)
    assert one.low < many.low < 0.5 < many.high < one.high


def test_problems_without_decisions_do_not_count() -> None:
    assert clustered_interval([1, 0, 3], [2, 0, 4]) == clustered_interval([1, 3], [2, 4])


@pytest.mark.parametrize(
    ("tops", "bottoms", "message"),
    [
        ([], [], "nothing to count"),
        ([0, 0], [0, 0], "nothing to count"),
        ([1], [1, 2], r"shapes \(1,\) and \(2,\)"),
        ([[1]], [[1]], "one numerator and one denominator a problem"),
        ([1, 3], [2, 2], "got 3 of 2 at position 1"),
        ([-1], [2], "got -1 of 2"),
        ([float("nan")], [2], "got nan of 2"),
        ([1], [float("inf")], "got 1 of inf"),
    ],
)
def test_what_is_no_share_is_refused(tops: list[float], bottoms: list[float], message: str) -> None:
    with pytest.raises(GradingError, match=message):
        clustered_interval(tops, bottoms)


Drawn = tuple[NDArray[np.int64], NDArray[np.int64]]


def chains_of_hard_and_easy(rng: np.random.Generator, problems: int) -> Drawn:
    """Problems are mostly easy or hard, and chains of a problem agree; 2/3 are right."""
    tops = rng.binomial(16, rng.beta(0.6, 0.3, size=problems))
    return tops, np.full(problems, 16)


def mostly_right(rng: np.random.Generator, problems: int) -> Drawn:
    return rng.binomial(16, rng.beta(2.0, 0.2, size=problems)), np.full(problems, 16)


def take_overs_of_long_and_short(rng: np.random.Generator, problems: int) -> Drawn:
    """Problems with a high rate decide more often: the ratio is (20 r + 80 E p^2) / (20 + 80 r)."""
    rates = rng.beta(0.8, 1.2, size=problems)
    decisions = 1 + rng.poisson(19 + 80 * rates)
    return rng.binomial(decisions, rates), decisions


@pytest.mark.parametrize("problems", [5, 10, 30])
@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (chains_of_hard_and_easy, 2 / 3),
        (mostly_right, 2 / 2.2),
        (take_overs_of_long_and_short, (20 * 0.4 + 80 * 0.24) / (20 + 80 * 0.4)),
    ],
)
def test_few_problems_are_enough_to_cover(
    draw: Callable[[np.random.Generator, int], Drawn], truth: float, problems: int
) -> None:
    rng = np.random.default_rng(5)
    simulations, covered, naive_covered = 400, 0, 0
    for _ in range(simulations):
        tops, bottoms = draw(rng, problems)
        interval = clustered_interval(tops, bottoms)
        covered += interval.low <= truth <= interval.high
        share = tops.sum() / bottoms.sum()
        half = 1.96 * math.sqrt(share * (1 - share) / bottoms.sum())
        naive_covered += abs(share - truth) <= half
    # 0.95 nominal; 400 simulations have a standard error of 0.011. A bootstrap over problems
    # covers 0.79 to 0.86 of the time at 5 and 10 problems here.
    assert covered / simulations >= 0.91
    assert naive_covered / simulations < 0.7


@pytest.mark.parametrize("rate", [0.02, 0.05, 0.2])
def test_rare_events_are_covered(rate: float) -> None:
    rng = np.random.default_rng(6)
    intervals = [clustered_interval(rng.binomial(1, rate, 30), [1] * 30) for _ in range(400)]
    assert np.mean([i.high == 0 for i in intervals]) == 0
    assert np.mean([i.low <= rate <= i.high for i in intervals]) >= 0.95


def test_a_mean_of_few_problems_is_covered() -> None:
    """Tokens a chain, where long problems are much longer."""
    rng = np.random.default_rng(9)
    covered = 0
    for _ in range(400):
        tokens = rng.lognormal(6.0, 0.7, size=(12, 1)) * rng.lognormal(0.0, 0.3, size=(12, 4))
        found = ratio_interval(tokens.sum(axis=1), [4] * 12)
        covered += found.low <= math.exp(6.0 + (0.49 + 0.09) / 2) <= found.high
    assert covered / 400 >= 0.91


def test_one_problem_says_nothing_of_how_means_vary() -> None:
    assert ratio_interval([30], [10]) == Interval(estimate=3.0, low=0.0, high=math.inf)


# --- AUROC ----------------------------------------------------------------------------------

Chains = tuple[NDArray[np.float64], NDArray[np.bool_], list[str]]


def scored_chains(
    rng: np.random.Generator,
    problems: int,
    samples: int,
    hardness: float,
    level: float,
    wrong: float,
) -> Chains:
    """Hard problems have more wrong chains, and scores that are higher by ``level``; wrong chains
    have scores that are higher by ``wrong``.
    """
    hard = np.repeat(rng.normal(size=problems), samples)
    is_wrong = rng.random(problems * samples) < special.expit(hardness * hard - 0.5)
    scores = level * hard + wrong * is_wrong + rng.normal(size=problems * samples)
    return scores, is_wrong, np.repeat([f"p{n}" for n in range(problems)], samples).tolist()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4), st.booleans()), min_size=1))
def test_an_auroc_counts_pairs(chains: list[tuple[str, int, bool]]) -> None:
    problems, scores, wrong = zip(*chains, strict=True)
    pairs = [
        (p == q, 1.0 if x > y else 0.5 if x == y else 0.0)
        for p, x, bad in chains
        for q, y, worse in chains
        if bad and not worse
    ]
    if not pairs:
        with pytest.raises(GradingError, match="both kinds"):
            clustered_auroc(scores, wrong, problems)
        assert auroc_within_problems(scores, wrong, problems) is None
        return
    found = clustered_auroc(scores, wrong, problems)
    assert found.estimate == pytest.approx(np.mean([order for _, order in pairs]))
    assert found.estimate == pytest.approx(roc_auc_score(wrong, scores))
    assert found.low <= found.estimate + 1e-12
    assert found.high >= found.estimate - 1e-12
    inside = [order for same, order in pairs if same]
    within = auroc_within_problems(scores, wrong, problems)
    assert (within is None) == (not inside)
    if within:
        assert within.estimate == pytest.approx(np.mean(inside))


@pytest.mark.parametrize(("problems", "samples"), [(6, 16), (12, 8), (40, 4)])
@pytest.mark.parametrize(
    ("hardness", "level", "wrong"), [(0.0, 0.0, 0.0), (1.5, 0.5, 0.2), (0.5, 0.0, 1.5), (3, 0, 0)]
)
def test_an_auroc_of_few_problems_is_covered(
    problems: int, samples: int, hardness: float, level: float, wrong: float
) -> None:
    rng = np.random.default_rng(10)
    many = scored_chains(rng, 20_000, 4, hardness, level, wrong)
    truth = roc_auc_score(many[1], many[0])
    covered = 0
    for _ in range(300):
        found = clustered_auroc(*scored_chains(rng, problems, samples, hardness, level, wrong))
        covered += found.low <= truth <= found.high
    # Standard error 0.013; a percentile bootstrap over problems covers 0.83 to 0.9 at 6 of them.
    assert covered / 300 >= 0.91


def test_an_auroc_within_problems_does_not_see_hard_problems() -> None:
    scores, wrong, problems = scored_chains(np.random.default_rng(11), 200, 8, 1.5, 1.0, 0.0)
    over_all = clustered_auroc(scores, wrong, problems)
    within = auroc_within_problems(scores, wrong, problems)
    assert within is not None
    assert over_all.low > 0.6
    assert within.low < 0.5 < within.high


def test_an_auroc_of_one_problem_has_no_bounds() -> None:
    found = clustered_auroc([1.0, 2.0, 3.0], [False, True, True], ["a", "a", "a"])
    assert found == Interval(estimate=1.0, low=0.0, high=1.0)


def test_a_perfect_auroc_is_not_certain() -> None:
    found = clustered_auroc(
        [0.0, 1.0] * 5, [False, True] * 5, [name for name in "abcde" for _ in "12"]
    )
    assert (found.estimate, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.025 ** (1 / 5))
