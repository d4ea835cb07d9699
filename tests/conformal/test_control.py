from collections.abc import Callable
from fractions import Fraction
from itertools import permutations
from math import factorial, nan, prod, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atts.config import Coverage
from atts.conformal.calibration import Calibration
from atts.conformal.control import Control, SequentialRanks, SplitControl, Verdict
from atts.errors import CalibrationError


def calibration(coverage: Coverage, scores: dict[str, tuple[float, ...]]) -> Calibration:
    return Calibration(version=1, fingerprint={}, coverage=coverage, scores=scores)


def split(rate: float) -> Control:
    return SplitControl(calibration("marginal", {"a": (0.3, 0.1), "b": (0.2,)}), rate)


def sequential(rate: float) -> Control:
    return SequentialRanks(rate, "marginal")


Make = Callable[[float], Control]
BOTH = pytest.mark.parametrize("make", [split, sequential])


@BOTH
def test_takes_over_iff_p_is_at_most_the_rate(make: Make) -> None:
    control = make(0.25)
    for score, u in [(0.25, 0.1), (0.15, 0.9), (0.4, 0.6), (0.2, 0.3), (9.0, 0.01)]:
        verdict = control.decide("a", 0, score, u)
        assert verdict.take_over == (verdict.p_value <= 0.25)


@BOTH
def test_rate_zero_never_takes_over_even_at_p_zero(make: Make) -> None:
    control = make(0.0)
    assert control.decide("a", 0, 99.0, 0.0) == Verdict(p_value=0.0, take_over=False)


@BOTH
def test_rate_one_always_takes_over(make: Make) -> None:
    control = make(1.0)
    largest = np.nextafter(1.0, 0.0)
    assert all(control.decide("a", 0, score, largest).take_over for score in (0.3, 0.2, 0.0, 0.0))


@BOTH
@pytest.mark.parametrize("rate", [-0.01, 1.01, nan])
def test_a_rate_outside_the_unit_interval_is_a_mistake(make: Make, rate: float) -> None:
    with pytest.raises(ValueError, match=r"rate must lie in \[0, 1\]"):
        make(rate)


@BOTH
def test_a_score_that_is_no_number_is_refused(make: Make) -> None:
    control = make(0.4)
    with pytest.raises(CalibrationError, match="finite"):
        control.decide("a", 0, nan, 0.5)


def test_marginal_compares_with_all_problems_of_the_calibration() -> None:
    control = SplitControl(calibration("marginal", {"a": (0.5, 0.1), "b": (0.9,)}), 0.4)
    assert control.decide("unseen", 3, 0.4, 0.0).p_value == 2 / 4


def test_conditional_compares_with_the_problem_itself() -> None:
    control = SplitControl(calibration("conditional", {"a": (0.5, 0.1), "b": (0.9,)}), 0.4)
    assert control.decide("a", 0, 0.7, 0.0).p_value == 0.0
    assert control.decide("b", 0, 0.7, 0.0).p_value == 1 / 2


def test_conditional_refuses_a_problem_without_scores() -> None:
    control = SplitControl(calibration("conditional", {"a": (0.5,)}), 0.4)
    with pytest.raises(CalibrationError, match="no scores for problem c"):
        control.decide("c", 0, 0.7, 0.0)


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1, exclude_max=True)), max_size=15))
def test_sequential_rank_is_the_formula_over_what_came_before(
    stream: list[tuple[int, float]],
) -> None:
    ranks = SequentialRanks(0.4, "marginal")
    for i, (score, u) in enumerate(stream):
        before = [s for s, _ in stream[:i]]
        above, equal = sum(s > score for s in before), before.count(score)
        assert ranks.decide("a", 0, float(score), u).p_value == (above + u * (1 + equal)) / (i + 1)


def conditional_law(order: tuple[int, ...], rates: list[Fraction]) -> Fraction:
    """P(p_1 <= rate_1, p_2 <= rate_2, ...) over the tie-breakers, given the order of scores.

    The tie-breakers are independent, so it is a product; each factor is linear in one of them.
    """
    at_zero, at_half = SequentialRanks(0.4, "marginal"), SequentialRanks(0.4, "marginal")
    chances = []
    for i, (score, rate) in enumerate(zip(order, rates, strict=True), start=1):
        low = Fraction(round(at_zero.decide("a", 0, score, 0.0).p_value * i), i)
        middle = Fraction(round(at_half.decide("a", 0, score, 0.5).p_value * 2 * i), 2 * i)
        chances.append(min(max((rate - low) / (2 * (middle - low)), Fraction(0)), Fraction(1)))
    return prod(chances, start=Fraction(1))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=5).flatmap(
        lambda scores: st.tuples(
            st.just(scores),
            st.lists(st.fractions(0, 1), min_size=len(scores), max_size=len(scores)),
        )
    )
)
def test_sequential_p_values_are_exactly_uniform_and_independent(
    case: tuple[list[int], list[Fraction]],
) -> None:
    # Exchangeable: every order of the scores, ties among them, is equally likely. The joint law
    # must be the product of the uniform ones, at any point.
    scores, rates = case
    laws = [conditional_law(order, rates) for order in permutations(scores)]
    assert sum(laws, Fraction(0)) / factorial(len(scores)) == prod(rates, start=Fraction(1))


def test_sequential_groups_are_apart_when_conditional() -> None:
    ranks = SequentialRanks(0.4, "conditional")
    ranks.decide("a", 0, 0.9, 0.5)
    assert ranks.decide("b", 0, 0.1, 0.5).p_value == 0.5, "the first of its group: u itself"
    assert ranks.decide("a", 1, 0.1, 0.5).p_value == (1 + 0.5) / 2


def test_a_refused_score_does_not_join_the_others() -> None:
    ranks = SequentialRanks(0.4, "marginal")
    with pytest.raises(CalibrationError):
        ranks.decide("a", 0, nan, 0.5)
    assert ranks.decide("a", 0, 0.3, 0.5).p_value == 0.5


@pytest.mark.parametrize("rate", [0.05, 0.4, 0.8])
@pytest.mark.parametrize("decimals", [1, 12])
def test_sequential_ranks_realise_the_nominal_rate(rate: float, decimals: int) -> None:
    rng = np.random.default_rng(1)
    ranks = SequentialRanks(rate, "marginal")
    scores = rng.gamma(2.0, 0.3, size=5000).round(decimals)
    draws = rng.random(len(scores))
    taken = [ranks.decide("a", 0, s, u).take_over for s, u in zip(scores, draws, strict=True)]
    # Decisions are independent, so the binomial's standard deviation holds.
    assert abs(np.mean(taken) - rate) < 4 * sqrt(rate * (1 - rate) / len(taken))


@pytest.mark.parametrize("rate", [0.05, 0.4])
def test_split_control_realises_the_nominal_rate_on_average(rate: float) -> None:
    rng = np.random.default_rng(8)
    taken = []
    for _ in range(4000):
        scores = rng.gamma(2, 0.3, 20).round(1)
        control = SplitControl(calibration("marginal", {"a": tuple(scores[1:].tolist())}), rate)
        taken.append(control.decide("b", 0, scores[0], rng.random()).take_over)
    assert abs(np.mean(taken) - rate) < 4 * sqrt(rate * (1 - rate) / len(taken))
