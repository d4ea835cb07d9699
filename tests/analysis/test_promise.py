"""What one calibration promises: an interval that covers what split control then realises."""

import numpy as np
import pytest

from atts.analysis.summary import promised_rate
from atts.config import Coverage, TakeOverOptions
from atts.conformal.calibration import Calibration, ProblemScores
from atts.conformal.split import SplitControl, taken_over


def made(rng: np.random.Generator, problems: int, chains: int) -> dict[str, ProblemScores]:
    """Problems whose scores are alike, and of which the hard ones have the longer chains."""

    def chain(hard: float) -> tuple[float, ...]:
        turns = 1 + min(int(rng.poisson(np.exp(0.5 + 0.5 * hard))), 5)
        return tuple(float(0.7 * hard + 0.7 * rng.normal() + 0.3 * turn) for turn in range(turns))

    found: dict[str, ProblemScores] = {}
    for number in range(problems):
        hard = float(rng.normal())
        found[f"p{number}"] = tuple(chain(hard) for _ in range(chains))
    return found


def calibration(scores: dict[str, ProblemScores], coverage: Coverage = "marginal") -> Calibration:
    return Calibration(version=2, fingerprint={}, coverage=coverage, scores=scores)


def realised(control: SplitControl, scores: dict[str, ProblemScores], seed: int) -> float:
    rng = np.random.default_rng(seed)
    return float(
        np.mean(
            [
                control.decide(problem, turn, score, rng.random()).take_over
                for problem, chains in scores.items()
                for chain in chains
                for turn, score in enumerate(chain)
                if score is not None
            ]
        )
    )


@pytest.mark.parametrize("by_turn", [True, False])
def test_the_interval_covers_the_rate_of_other_problems(by_turn: bool) -> None:
    rng = np.random.default_rng(11)
    options = TakeOverOptions(rate=0.4, by_turn=by_turn)
    many = made(rng, 600, 2)
    covered = [0, 0]
    for seed in range(60):
        one = calibration(made(rng, 30, 4))
        control = SplitControl(one, options.rate, by_turn)
        for number, (problems, scores) in enumerate(((None, many), (20, made(rng, 20, 4)))):
            interval = promised_rate(one, options, problems)
            assert interval
            covered[number] += interval.low <= realised(control, scores, seed) <= interval.high
    # Nominal 57 of 60; 52 or fewer have a chance of 0.02.
    assert min(covered) >= 52, covered


def test_more_problems_promise_more_and_a_small_run_less() -> None:
    rng = np.random.default_rng(12)
    options = TakeOverOptions()
    scores = made(rng, 80, 4)
    few = promised_rate(calibration(dict(list(scores.items())[:10])), options)
    many = promised_rate(calibration(scores), options)
    run = promised_rate(calibration(scores), options, problems=10)
    assert few
    assert many
    assert run
    assert few.estimate == pytest.approx(0.4)
    assert many.high - many.low < run.high - run.low
    assert many.high - many.low < few.high - few.low


def test_the_shares_of_a_group_are_the_rate_ties_and_all() -> None:
    scores: dict[str, ProblemScores] = {
        "a": ((1.0, 2.0), (1.0,)),
        "b": ((1.0, None), (3.0, 2.0)),
        "c": ((1.0,),),
    }
    found = taken_over(calibration(scores), 0.3)
    assert sum(taken for taken, _ in found.values()) == pytest.approx(0.3 * 7)
    assert {name: count for name, (_, count) in found.items()} == {"a": 3, "b": 3, "c": 1}
    assert found["b"][0] > found["a"][0] > found["c"][0]


def test_nothing_is_promised_where_the_number_of_problems_says_nothing() -> None:
    scores = made(np.random.default_rng(13), 5, 2)
    assert promised_rate(calibration(scores, "conditional"), TakeOverOptions()) is None
    for rate in (0.0, 1.0):
        interval = promised_rate(calibration(scores), TakeOverOptions(rate=rate))
        assert interval
        assert (interval.low, interval.estimate, interval.high) == (rate, rate, rate)
