from itertools import combinations, product
from statistics import mean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_the_bootstrap_is_that_over_all_draws_of_problems() -> None:
    tops, bottoms = np.array([1, 0, 6, 2]), np.array([2, 4, 8, 3])
    draws = [list(draw) for draw in product(range(4), repeat=4)]
    ratios = [tops[draw].sum() / bottoms[draw].sum() for draw in draws]
    interval = clustered_interval(tops, bottoms, confidence=0.8, resamples=20_000)
    assert interval.low == pytest.approx(np.quantile(ratios, 0.1), abs=0.02)
    assert interval.high == pytest.approx(np.quantile(ratios, 0.9), abs=0.02)


def test_the_same_seed_gives_the_same_interval() -> None:
    tops, bottoms = list(range(30)), [40] * 30
    assert clustered_interval(tops, bottoms, seed=3) == clustered_interval(tops, bottoms, seed=3)
    assert clustered_interval(tops, bottoms, seed=3) != clustered_interval(tops, bottoms, seed=4)


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


def test_clustering_covers_where_counting_chains_does_not() -> None:
    rng = np.random.default_rng(5)
    simulations, problems, chains = 400, 40, 16
    covered = naive_covered = 0
    for seed in range(simulations):
        # Problems are mostly easy or hard: mean 2/3, and chains of a problem agree.
        tops = rng.binomial(chains, rng.beta(0.6, 0.3, size=problems))
        interval = clustered_interval(tops, [chains] * problems, resamples=500, seed=seed)
        covered += interval.low <= 2 / 3 <= interval.high
        share = tops.sum() / (problems * chains)
        half = 1.96 * np.sqrt(share * (1 - share) / (problems * chains))
        naive_covered += abs(share - 2 / 3) <= half
    # 0.95 nominal; the bootstrap loses a little at 40 problems, and 400 runs have a standard
    # error of 0.011.
    assert 0.90 <= covered / simulations <= 0.985
    assert naive_covered / simulations < 0.6


def test_rare_events_are_covered() -> None:
    rng = np.random.default_rng(6)
    rate, problems, simulations = 0.02, 30, 400
    intervals = [
        clustered_interval(rng.binomial(1, rate, problems), [1] * problems, resamples=500)
        for _ in range(simulations)
    ]
    # More than half of these runs see no event at all: without the exact bound none would cover.
    assert np.mean([i.high == 0 for i in intervals]) == 0
    assert np.mean([i.low <= rate <= i.high for i in intervals]) > 0.9


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
    ours = {name: share + 0.1 for name, share in theirs.items()}
    found = paired_difference(ours, theirs)
    assert (found.estimate, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
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
    assert found.low == pytest.approx(1 / 4)  # a alone may be drawn, or b alone
    assert found.high == pytest.approx(5 / 8)


def test_a_ratio_to_nothing_is_none() -> None:
    assert paired_ratio({"a": 1.0}, {"a": 0.0}) is None
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
