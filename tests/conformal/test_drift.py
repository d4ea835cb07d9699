"""The drift alarm: rarely false, soon true, and blind to what makes no drift."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from atts.config import Coverage
from atts.conformal.calibration import Calibration
from atts.conformal.drift import Drift, DriftAlarm, Martingale
from atts.types import Chain, ChainEnd, Decision, Timings, Turn

NO_TIME = Timings(queued=0, started=0, first_token=0, done=0)


def chain(problem: str, sample: int, scores: Iterable[float], end: ChainEnd = "stop") -> Chain:
    decisions = [
        Decision(
            score=score,
            p_value=0.5,
            take_over=False,
            scored_tokens=1,
            cached_tokens=0,
            timings=NO_TIME,
        )
        for score in scores
    ]
    return Chain(
        problem_id=problem,
        sample=sample,
        end=end,
        answer=None,
        turns=tuple(Turn(segments=(), decision=decision) for decision in decisions),
        started=0,
        done=0,
    )


@given(st.lists(st.floats(0, 1), max_size=12))
def test_the_next_bet_is_fair(p_values: list[float]) -> None:
    """Given any past, the expected capital after a uniform p-value is the capital before."""

    def after(p: float) -> float:
        martingale = Martingale()
        for earlier in p_values:
            martingale.bet(earlier)
        martingale.bet(p)
        return martingale.capital

    before = Martingale()
    for p in p_values:
        before.bet(p)
    expected, _ = quad(after, 0, 1)
    assert expected == pytest.approx(before.capital, rel=1e-9)


def test_the_martingale_is_rarely_large_by_chance() -> None:
    rng = np.random.default_rng(0)
    runs, level = 4000, 0.05
    false = 0
    for _ in range(runs):
        martingale = Martingale()
        for p in rng.random(200).tolist():
            martingale.bet(p)
            if martingale.capital >= 1 / level:
                false += 1
                break
    # At most level; within four standard deviations of the estimate.
    assert false / runs <= level + 4 * (level * (1 - level) / runs) ** 0.5
    assert false > 0, "the bound is not idle"


@pytest.mark.parametrize("p_values", [(0.0, 0.3), (0.7, 1.0)])
def test_the_martingale_finds_small_and_large_p_values(p_values: tuple[float, float]) -> None:
    martingale, rng = Martingale(), np.random.default_rng(1)
    for p in rng.random(500):  # capital that was lost before does not hold it up for long
        martingale.bet(p)
    before = martingale.capital
    for p in rng.uniform(*p_values, 60):
        martingale.bet(p)
    assert martingale.capital > 1e4 * before
    assert martingale.leans_to_small == (p_values[0] == 0.0)


def draws(
    rng: np.random.Generator, problems: int, samples: int, shift: float = 0.0
) -> list[list[tuple[float, ...]]]:
    """Chains that are much alike within a problem, and turns within a chain, of any number."""
    made = []
    for _ in range(problems):
        level = rng.normal() + shift
        turns = int(rng.integers(1, 6))
        made.append(
            [
                tuple((level + 0.1 * rng.normal(size=turns)).round(2).tolist())
                for _ in range(samples)
            ]
        )
    return made


def calibrated(chains: list[list[tuple[float, ...]]], coverage: Coverage) -> Calibration:
    scores: dict[str, tuple[tuple[float | None, ...], ...]] = {
        f"c{n}": tuple(of_problem) for n, of_problem in enumerate(chains)
    }
    return Calibration(version=2, fingerprint={}, coverage=coverage, scores=scores)


def watch(
    calibration: Calibration | None, chains: list[list[tuple[float, ...]]], name: str, seed: int
) -> Drift:
    rng = np.random.default_rng(seed)
    ids = [f"{name}{n}" for n in range(len(chains))]
    alarm = DriftAlarm(calibration, ids, len(chains[0]), lambda *_: rng.random())
    for problem_id, of_problem in zip(ids, chains, strict=True):
        for sample, scores in enumerate(of_problem):
            alarm.chain_done(chain(problem_id, sample, scores))
    assert alarm.drift.problems == len(chains)
    return alarm.drift


def test_false_alarms_are_rare_though_chains_and_turns_are_alike() -> None:
    rng = np.random.default_rng(2)
    drifts = [
        watch(calibrated(draws(rng, 60, 3), "marginal"), draws(rng, 60, 3), "p", seed)
        for seed in range(150)
    ]
    # P(evidence >= c) <= groups / c; at c = groups / 0.2 the chance is 0.2 at most.
    large = [drift.evidence >= 0.05 * drift.needed for drift in drifts]
    assert np.mean(large) <= 0.2 + 4 * (0.16 / len(large)) ** 0.5
    assert sum(drift.alarm for drift in drifts) <= 0.01 * 150 + 4 * (0.0099 * 150) ** 0.5


def test_scores_that_shift_give_the_alarm_and_its_direction() -> None:
    rng = np.random.default_rng(3)
    calibration = calibrated(draws(rng, 100, 2), "marginal")
    for shift, word in ((1.5, "higher"), (-1.5, "lower")):
        drift = watch(calibration, draws(rng, 80, 2, shift), "p", 0)
        assert drift.alarm
        message = drift.message(calibrated=True) or ""
        assert f"scores are {word} than those of the calibration" in message
        assert f"given at problem {drift.since}" in message
        assert "calibrate on problems like these" in message
        held = drift.message(calibrated=True, holds=True) or ""
        assert "the take-over rate holds all the same" in held
        assert "may miss" not in held
        assert drift.upwards == (shift > 0)


def test_without_a_calibration_a_change_within_the_run_is_seen() -> None:
    rng = np.random.default_rng(4)
    drift = watch(None, draws(rng, 100, 1) + draws(rng, 100, 1, 2.0), "p", 0)
    assert drift.alarm
    assert drift.since
    assert 100 <= int(drift.since[1:]) < 160
    assert "than those before" in (drift.message(calibrated=False) or "")
    assert watch(None, draws(rng, 200, 1), "p", 0).message(calibrated=False) is None


def test_conditional_each_problem_is_compared_with_itself() -> None:
    """Levels of problems differ in any way; what counts is a change within problems."""
    rng = np.random.default_rng(5)
    levels = 5.0 * np.arange(80)

    def made(shift: float) -> list[list[tuple[float, ...]]]:
        return [[(float(v + shift + rng.normal()),) for _ in range(16)] for v in levels]

    calibration = calibrated(made(0.0), "conditional")
    assert not watch(calibration, made(0.0), "c", 0).alarm
    assert watch(calibration, made(1.5), "c", 0).alarm


def test_the_order_in_which_chains_end_leaves_no_trace() -> None:
    rng = np.random.default_rng(6)
    chains = [
        chain(f"p{n}", sample, scores)
        for n, of_problem in enumerate(draws(rng, 30, 3))
        for sample, scores in enumerate(of_problem)
    ]
    chains[3] = chains[3].model_copy(update={"end": "failed"})  # p1: its second sample counts
    drifts = []
    for order in (chains, chains[::-1], [chains[i] for i in rng.permutation(len(chains))]):
        alarm = DriftAlarm(None, [f"p{n}" for n in range(30)], 3, lambda *_: 0.5)
        for each in order:
            alarm.chain_done(each)
        drifts.append(alarm.drift)
    assert drifts[0] == drifts[1] == drifts[2]
    assert drifts[0].problems == 30
    assert drifts[0].evidence != 1.0


def test_a_problem_all_of_whose_chains_failed_holds_nobody_up() -> None:
    alarm = DriftAlarm(None, ["a", "b"], 2, lambda *_: 0.9)
    alarm.chain_done(chain("b", 0, [1.0]))
    assert alarm.drift.problems == 0
    for sample in range(2):
        alarm.chain_done(chain("a", sample, [5.0], end="failed"))
    assert alarm.drift.problems == 1, "b has been counted, a never will"


def test_the_chain_that_counts_is_chosen_as_in_a_calibration() -> None:
    """A chain without a score is none of its problem's chains there, so it is not here."""
    rng = np.random.default_rng(7)
    calibration = calibrated(draws(rng, 40, 1), "marginal")
    later = [chain(f"p{n}", 1, scores[0]) for n, scores in enumerate(draws(rng, 40, 1))]
    drifts = []
    for first_samples in ([], [chain(each.problem_id, 0, []) for each in later]):
        alarm = DriftAlarm(calibration, [each.problem_id for each in later], 2, lambda *_: 0.5)
        for each in first_samples or [chain(x.problem_id, 0, [9.0], "failed") for x in later]:
            alarm.chain_done(each)
        assert alarm.drift.problems == 0
        for each in later:
            alarm.chain_done(each)
        drifts.append(alarm.drift)
    assert drifts[0] == drifts[1]
    assert drifts[0].problems == 40
    assert drifts[0].evidence != 1.0
