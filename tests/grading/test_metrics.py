import math
from collections.abc import Callable
from itertools import combinations, pairwise
from statistics import mean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from atts.errors import GradingError
from atts.grading.metrics import (
    Grade,
    Grades,
    Interval,
    accuracy,
    accuracy_by_problem,
    clustered_interval,
    majority_by_problem,
    majority_vote,
    paired_difference,
    paired_ratio,
    pass_at_k,
)

RIGHT, WRONG, NONE = Grade("7", correct=True), Grade("8", correct=False), Grade(None, correct=False)
CHAINS = st.lists(st.sampled_from([RIGHT, WRONG, NONE]), min_size=1, max_size=6)
GRADES = st.dictionaries(st.sampled_from("abcde"), CHAINS, min_size=1)


def test_an_interval_is_stored_as_json() -> None:
    interval = Interval(estimate=0.5, low=0.25, high=0.75)
    assert Interval.model_validate_json(interval.model_dump_json()) == interval


# --- clustered_interval ---------------------------------------------------------------------


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


# --- accuracy, majority vote, pass@k --------------------------------------------------------


@given(GRADES)
def test_accuracy_is_the_share_of_right_chains(grades: Grades) -> None:
    everything = [grade.correct for chains in grades.values() for grade in chains]
    interval = accuracy(grades)
    assert interval.estimate == pytest.approx(mean(everything))
    assert 0 <= interval.low <= interval.high <= 1


@settings(max_examples=50)
@given(GRADES)
def test_no_metric_depends_on_the_order_of_problems(grades: Grades) -> None:
    turned = {name: grades[name] for name in reversed(list(grades))}
    for metric in (accuracy, majority_vote):
        assert metric(turned) == metric(grades)
    assert pass_at_k(turned, 1) == pass_at_k(grades, 1)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["7", "7", "8"], 1.0),
        (["8", "7", "8"], 0.0),
        (["7", "8"], 0.5),
        (["8", "7"], 0.5),
        (["7", "8", "9"], 1 / 3),
        (["7", "7", "8", "8", "9"], 0.5),
        (["8", "8", "7", "7.0", "14/2"], 1.0),
        ([None, None, "7"], 1.0),
        ([None, None, None], 0.0),
        ([], 0.0),
    ],
)
def test_majority_vote(answers: list[str | None], expected: float) -> None:
    right = {"7", "7.0", "14/2"}
    grades = {"a": [Grade(answer, answer in right) for answer in answers]}
    assert majority_vote(grades).estimate == pytest.approx(expected)


@given(CHAINS)
def test_majority_vote_does_not_depend_on_the_order_of_chains(chains: list[Grade]) -> None:
    assert majority_vote({"a": chains}) == majority_vote({"a": chains[::-1]})


def test_majority_vote_averages_over_problems() -> None:
    grades = {"a": [RIGHT, RIGHT, WRONG], "b": [WRONG], "c": [NONE], "d": [RIGHT, WRONG]}
    assert majority_vote(grades).estimate == pytest.approx((1 + 0 + 0 + 0.5) / 4)


@given(GRADES, st.integers(1, 3))
def test_pass_at_k_is_the_share_of_choices_of_k_chains_with_a_right_one(
    grades: Grades, k: int
) -> None:
    padded = {name: [*chains, NONE, NONE] for name, chains in grades.items()}
    expected = [
        mean(any(g.correct for g in chosen) for chosen in combinations(chains, k))
        for chains in padded.values()
    ]
    assert pass_at_k(padded, k).estimate == pytest.approx(mean(expected))


def test_pass_at_all_chains_is_whether_any_is_right() -> None:
    grades = {"a": [RIGHT, NONE], "b": [WRONG, WRONG]}
    assert pass_at_k(grades, 2).estimate == 0.5


def test_failed_chains_count_as_wrong() -> None:
    assert pass_at_k({"a": [RIGHT, NONE, NONE]}, 1).estimate == pytest.approx(1 / 3)
    assert accuracy({"a": [RIGHT, NONE, NONE]}).estimate == pytest.approx(1 / 3)


def test_pass_at_k_needs_k_chains() -> None:
    with pytest.raises(GradingError, match=r"pass@3 needs 3 chains a problem; problem b has 2"):
        pass_at_k({"a": [RIGHT] * 3, "b": [WRONG] * 2}, 3)
    with pytest.raises(GradingError, match="at least 1, got 0"):
        pass_at_k({"a": [RIGHT]}, 0)


def test_no_chains_cannot_be_graded() -> None:
    for compute in (accuracy, majority_vote, lambda grades: pass_at_k(grades, 1)):
        with pytest.raises(GradingError, match="nothing to count"):
            compute({})


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


def test_accuracy_by_problem() -> None:
    grades = {"b": [Grade("1", True), Grade(None, False)], "a": [Grade("1", True)]}
    assert accuracy_by_problem(grades) == {"a": 1.0, "b": 0.5}


# --- paired_ratio ---------------------------------------------------------------------------


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


def test_the_majority_is_the_mean_over_its_problems() -> None:
    grades = {"a": [RIGHT, RIGHT, WRONG], "b": [WRONG, RIGHT], "c": [NONE]}
    assert majority_by_problem(grades) == {"a": 1.0, "b": 0.5, "c": 0.0}
    assert majority_vote(grades).estimate == 0.5
