from itertools import combinations
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atts.errors import GradingError
from atts.grading.chains import (
    Grade,
    Grades,
    accuracy,
    accuracy_by_problem,
    majority_by_problem,
    majority_vote,
    pass_at_k,
)

RIGHT, WRONG, NONE = Grade("7", correct=True), Grade("8", correct=False), Grade(None, correct=False)
CHAINS = st.lists(st.sampled_from([RIGHT, WRONG, NONE]), min_size=1, max_size=6)
GRADES = st.dictionaries(st.sampled_from("abcde"), CHAINS, min_size=1)


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


def test_accuracy_by_problem() -> None:
    grades = {"b": [Grade("1", True), Grade(None, False)], "a": [Grade("1", True)]}
    assert accuracy_by_problem(grades) == {"a": 1.0, "b": 0.5}


def test_the_majority_is_the_mean_over_its_problems() -> None:
    grades = {"a": [RIGHT, RIGHT, WRONG], "b": [WRONG, RIGHT], "c": [NONE]}
    assert majority_by_problem(grades) == {"a": 1.0, "b": 0.5, "c": 0.0}
    assert majority_vote(grades).estimate == 0.5
