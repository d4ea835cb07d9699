from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from itertools import permutations, zip_longest
from math import factorial, nan, prod, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from atts.config import Coverage
from atts.conformal.calibration import Calibration
from atts.conformal.control import Control, Verdict
from atts.conformal.online import PRIOR, OnlineControl
from atts.conformal.pvalues import p_value
from atts.conformal.split import SplitControl
from atts.errors import CalibrationError


def calibration(coverage: Coverage, scores: dict[str, tuple[float, ...]]) -> Calibration:
    """All of the scores in turn 0."""
    return by_turns(coverage, {problem: (turn,) for problem, turn in scores.items()})


def by_turns(coverage: Coverage, scores: dict[str, tuple[tuple[float, ...], ...]]) -> Calibration:
    chains = {problem: tuple(zip_longest(*turns)) for problem, turns in scores.items()}
    return Calibration(version=2, fingerprint={}, coverage=coverage, scores=chains)


def split(rate: float) -> Control:
    return SplitControl(calibration("marginal", {"a": (0.3, 0.1), "b": (0.2,)}), rate)


def sequential(rate: float) -> Control:
    return OnlineControl(rate, "marginal")


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
    assert control.decide("a", 0, 99.0, 0.0) == Verdict(0.0, 0.0, take_over=False)


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
    ranks = OnlineControl(0.4, "marginal")
    for i, (score, u) in enumerate(stream):
        before = [s for s, _ in stream[:i]]
        above, equal = sum(s > score for s in before), before.count(score)
        assert ranks.decide("a", 0, float(score), u).p_value == (above + u * (1 + equal)) / (i + 1)


def conditional_law(order: tuple[int, ...], rates: list[Fraction]) -> Fraction:
    """P(p_1 <= rate_1, p_2 <= rate_2, ...) over the tie-breakers, given the order of scores.

    The tie-breakers are independent, so it is a product; each factor is linear in one of them.
    """
    at_zero, at_half = OnlineControl(0.4, "marginal"), OnlineControl(0.4, "marginal")
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
    # u = coin + tie / 2^20. A coin of almost 1 looks at the group however small it is.
    ranks, own, pool = OnlineControl(0.4, "conditional"), 1 - 2.0**-21, 2.0**-21
    for _ in range(2):
        ranks.decide("a", 0, 0.9, own)
    assert ranks.decide("b", 0, 0.1, pool).p_value == (2 + 0.5) / 3
    assert ranks.decide("a", 0, 0.5, own).p_value == (2 + 0.5) / 3
    for _ in range(30):
        ranks.decide("b", 0, 0.5, own)
    assert ranks.decide("b", 0, 0.7, own).p_value == 0.5 / 32, "its own 31 scores, all smaller"
    assert ranks.decide("b", 0, 0.7, pool).p_value == pytest.approx((2 + 0.5 * 2) / 36)


def test_the_pool_of_all_problems_fades_as_a_problem_fills() -> None:
    rng = np.random.default_rng(4)
    from_group = np.zeros(40)
    for repetition in range(200):
        ranks = OnlineControl(0.4, "conditional")
        ranks.decide("low", 0, 0.0, 0.5)
        for n in range(40):
            coin = int(rng.random() * 2**20)
            p = ranks.decide(f"high{repetition}", 0, 1.0, (coin + 0.75) / 2**20).p_value
            from_group[n] += p == 0.75
            assert p == (0.75 if coin / 2**20 >= PRIOR / (PRIOR + n) else 0.75 * (n + 1) / (n + 2))
    expected = np.arange(40) / (PRIOR + np.arange(40))
    assert np.abs(from_group / 200 - expected).max() < 4 * 0.5 / sqrt(200)


@pytest.mark.parametrize("coverage", ["marginal", "conditional"])
def test_online_control_is_uniform_from_the_first_score_on(coverage: Coverage) -> None:
    # Six scores of two problems, tied and in any order: each p-value by itself is uniform.
    rng = np.random.default_rng(3)
    p_values = []
    for _ in range(4000):
        ranks, scores = (
            OnlineControl(0.4, coverage),
            rng.permutation([0.1, 0.2, 0.2, 0.2, 0.5, 0.9]),
        )
        p_values.append(
            [ranks.decide("ab"[i % 2], 0, s, rng.random()).p_value for i, s in enumerate(scores)]
        )
    for nth in np.array(p_values).T:
        assert kstest(nth, "uniform").pvalue > 1e-4


def test_each_turn_is_compared_with_itself() -> None:
    apart = OnlineControl(0.4, "marginal")
    together = OnlineControl(0.4, "marginal", by_turn=False)
    for control in (apart, together):
        control.decide("a", 0, 0.9, 0.5)
    assert apart.decide("a", 1, 0.1, 0.5).p_value == 0.5, "the first of its turn: u itself"
    assert together.decide("a", 1, 0.1, 0.5).p_value == (1 + 0.5) / 2

    early, late = tuple(np.linspace(0, 1, 100)), tuple(np.linspace(2, 3, 100))
    scores = by_turns("marginal", {"a": (early, late)})
    assert SplitControl(scores, 0.4).decide("b", 1, 2.5, 0.0).p_value == pytest.approx(50 / 101)
    assert SplitControl(scores, 0.4).decide("b", 7, 2.5, 0.0).p_value == pytest.approx(50 / 101)
    assert SplitControl(scores, 0.4, by_turn=False).decide("b", 0, 2.5, 0.0).p_value == (
        pytest.approx(50 / 201)
    )


def test_conditional_takes_out_the_shift_that_turns_share() -> None:
    """Two problems, in turn 1 both one higher than in turn 0: what counts is what is left."""
    rng = np.random.default_rng(6)
    levels = {"low": 0.0, "high": 0.5}
    scores = by_turns(
        "conditional",
        {
            problem: tuple(tuple(level + turn + 0.1 * rng.normal(size=100)) for turn in (0, 1))
            for problem, level in levels.items()
        },
    )
    control, plain = SplitControl(scores, 0.4), SplitControl(scores, 0.4, by_turn=False)
    for problem, level in levels.items():
        for turn in (0, 1):
            new = level + turn + 0.1 * rng.normal(size=2000)
            ours, theirs = (
                np.mean([each.decide(problem, turn, s, rng.random()).take_over for s in new])
                for each in (control, plain)
            )
            assert ours == pytest.approx(0.4, abs=0.12), (problem, turn)
            assert abs(theirs - 0.4) > 0.25, "the scores of turn 1 are all above those of turn 0"
    # A problem with few scores in a turn still has all of its others to compare with.
    few = by_turns("conditional", {"a": ((0.1, 0.2), (0.3,)), "b": ((9.0,),)})
    assert SplitControl(few, 0.4, by_turn=False).decide("a", 4, 0.15, 0.0).p_value == 2 / 4


def test_a_refused_score_does_not_join_the_others() -> None:
    ranks = OnlineControl(0.4, "marginal")
    with pytest.raises(CalibrationError):
        ranks.decide("a", 0, nan, 0.5)
    assert ranks.decide("a", 0, 0.3, 0.5).p_value == 0.5


@pytest.mark.parametrize("rate", [0.05, 0.4, 0.8])
@pytest.mark.parametrize("decimals", [1, 12])
def test_sequential_ranks_realise_the_nominal_rate(rate: float, decimals: int) -> None:
    rng = np.random.default_rng(1)
    ranks = OnlineControl(rate, "marginal")
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


@given(
    st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=6), min_size=2, max_size=7),
    st.floats(0.05, 0.95),
)
def test_the_rate_where_whole_problems_are_exchangeable(
    problems: list[list[int]], rate: float
) -> None:
    """Each problem in turn is the new one; its scores are compared with those of all others.

    Exactly, over the tie-breaker: p <= rate iff u <= (rate (N + 1) - above) / (1 + equal).
    """
    taken = 0.0
    for index, new in enumerate(problems):
        others = [s for n, scores in enumerate(problems) if n != index for s in scores]
        control = SplitControl(calibration("marginal", {"a": tuple(map(float, others))}), rate)
        for score in new:
            above, equal = sum(s > score for s in others), others.count(score)
            edge = (rate * (len(others) + 1) - above) / (1 + equal)
            taken += min(max(edge, 0.0), 1.0)
            for u in (edge - 1e-9, edge + 1e-9):
                if 0.0 <= u < 1.0:
                    verdict = control.decide("new", 0, float(score), u)
                    assert verdict.take_over == (u < edge)
    total = sum(map(len, problems))
    most = (max(map(len, problems)) - 1) / total
    assert rate - rate * most - 1e-9 <= taken / total <= rate + (1 - rate) * most + 1e-9


SOME_CHAINS = st.lists(st.integers(0, 9), min_size=2, max_size=8)


@given(st.lists(SOME_CHAINS, min_size=1, max_size=4), st.integers(0, 9), st.floats(0, 0.999))
def test_conditional_one_score_a_chain_is_the_rank_in_the_problem(
    problems: list[list[int]], score: int, u: float
) -> None:
    """Ranks among the other chains are then as often each as those of a new chain."""
    scores = {f"p{n}": tuple(map(float, chains)) for n, chains in enumerate(problems)}
    control = SplitControl(calibration("conditional", scores), 0.4)
    own = np.sort(scores["p0"])
    assert control.decide("p0", 0, score, u).p_value == pytest.approx(p_value(own, score, u))


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.7])
def test_conditional_holds_the_rate_at_turns_that_differ_in_spread(rate: float) -> None:
    """And that of each problem, though its level is its own."""
    rng = np.random.default_rng(3)
    levels = {f"p{n}": float(level) for n, level in enumerate(rng.normal(0, 3, 60))}

    def chains(level: float, count: int) -> tuple[tuple[float, ...], ...]:
        """Turns of growing spread, and ever fewer chains that reach them."""
        lengths = 1 + rng.binomial(3, 0.6, size=count)
        return tuple(
            tuple(level + 0.2 * turn + rng.normal(0, 0.3 * 3**turn) for turn in range(length))
            for length in lengths.tolist()
        )

    made = Calibration(
        version=2,
        fingerprint={},
        coverage="conditional",
        scores={name: chains(level, 16) for name, level in levels.items()},
    )
    control = SplitControl(made, rate)
    taken: dict[tuple[str, int], list[bool]] = defaultdict(list)
    for name, level in levels.items():
        for chain in chains(level, 16):
            for turn, score in enumerate(chain):
                verdict = control.decide(name, turn, score, rng.random())
                taken[name, turn].append(verdict.take_over)
    for turn in range(4):
        at_turn = [each for (_, of), group in taken.items() if of == turn for each in group]
        # Four standard deviations of both the calibration and the run.
        slack = 4 * sqrt(2 * rate * (1 - rate) / len(at_turn))
        assert np.mean(at_turn) == pytest.approx(rate, abs=slack)
    of_problems = [np.mean([e for t in range(4) for e in taken.get((n, t), [])]) for n in levels]
    # About 45 scores calibrate a problem and 45 are decided; marginal control has 0.3 or more.
    assert np.std(of_problems) < 1.5 * sqrt(rate * (1 - rate) * 2 / 45)
