"""The calibration pass: its rounds, and that it calibrates the policy of the run."""

import heapq
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atts.config import AdaptiveOptions, Coverage
from atts.conformal.adaptive import AdaptiveControl
from atts.conformal.calibration import Calibration
from atts.conformal.control import Control
from atts.conformal.online import OnlineControl
from atts.conformal.split import CalibratingControl, SplitControl, rounds
from atts.errors import CalibrationError
from atts.types import ChainKey

Scores = dict[ChainKey, list[float]]


@given(st.integers(1, 9), st.integers(1, 9))
def test_every_chain_is_in_one_round_first_samples_first(problems: int, samples: int) -> None:
    names = [f"p{n}" for n in range(problems)]
    made = rounds(names, samples)
    keys = [key for each in made for key in each]
    assert sorted(keys) == [ChainKey(name, sample) for name in names for sample in range(samples)]
    assert all(made)
    assert [key.sample for key in keys] == sorted(key.sample for key in keys)
    assert len(made[0]) == -(-len(keys) // 4)


def calibration(scores: Scores, coverage: Coverage) -> Calibration:
    by_problem: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    for key in sorted(scores):
        by_problem[key.problem_id].append(tuple(scores[key]))
    return Calibration(
        version=2,
        fingerprint={},
        coverage=coverage,
        scores={name: tuple(chains) for name, chains in by_problem.items()},
    )


def test_what_there_is_to_compare_with_decides() -> None:
    known = {ChainKey("a", n): [float(n)] for n in range(9)}
    for coverage in ("marginal", "conditional"):
        made = calibration(known, coverage)
        control, split = CalibratingControl(0.4, True, made), SplitControl(made, 0.4)
        assert control.decide("a", 0, 5.5, 0.5) == split.decide("a", 0, 5.5, 0.5)
    # Another problem: compared with all, or, conditional, with nothing.
    marginal = CalibratingControl(0.4, True, calibration(known, "marginal"))
    assert marginal.decide("b", 0, 99.0, 0.7).p_value == pytest.approx(0.07)
    assert control.decide("b", 0, 99.0, 0.7).p_value == 0.7
    assert CalibratingControl(0.4, True, None).decide("b", 0, 99.0, 0.7).p_value == 0.7
    assert not CalibratingControl(0.0, True, None).decide("b", 0, 99.0, 0.0).take_over
    with pytest.raises(CalibrationError, match="not a finite number"):
        CalibratingControl(0.4, True, None).decide("b", 0, math.nan, 0.7)


def played(
    rng: np.random.Generator, levels: dict[str, float], keys: Sequence[ChainKey], control: Control
) -> tuple[Scores, list[tuple[int, bool]]]:
    """Chains side by side: high scores take longer to come, and take-overs make for higher ones.

    The scores, and of each decision its turn and whether it was a take-over.
    """
    scores: Scores = defaultdict(list)
    decisions = []
    waiting: list[tuple[float, ChainKey, int, float]] = []

    def write(now: float, key: ChainKey, turn: int, state: float) -> None:
        score = levels[key.problem_id] + 0.1 * turn + state
        heapq.heappush(waiting, (now + math.exp(0.5 * score), key, turn, state))

    for key in keys:
        write(0.0, key, 0, rng.normal(0, 0.5))
    while waiting:
        now, key, turn, state = heapq.heappop(waiting)
        score = levels[key.problem_id] + 0.1 * turn + state
        scores[key].append(score)
        take_over = control.decide(key.problem_id, turn, score, rng.random()).take_over
        decisions.append((turn, take_over))
        if turn < 5 and rng.random() > (0.2 if take_over else 0.5):
            state = 0.8 * state + rng.normal(0, 0.3) + 0.4 * take_over
            write(now + 0.5 * take_over, key, turn + 1, state)
    return scores, decisions


def in_rounds(rng: np.random.Generator, levels: dict[str, float], rate: float) -> Calibration:
    scores: Scores = {}
    for keys in rounds(list(levels), 4):
        earlier = calibration(scores, "marginal") if scores else None
        scores |= played(rng, levels, keys, CalibratingControl(rate, True, earlier))[0]
    return calibration(scores, "marginal")


def by_ranks_on_arrival(
    rng: np.random.Generator, levels: dict[str, float], rate: float
) -> Calibration:
    ranks = AdaptiveControl(OnlineControl(rate, "marginal"), rate, AdaptiveOptions(track="turn"))
    keys = [key for each in rounds(list(levels), 4) for key in each]
    return calibration(played(rng, levels, keys, ranks)[0], "marginal")


def test_the_run_holds_the_rate_that_was_calibrated() -> None:
    """Though its scores depend on what was taken over, in the calibration as in the run."""
    rate, names = 0.3, [f"p{n}" for n in range(60)]
    rates = {}
    for way in (in_rounds, by_ranks_on_arrival):
        realised = []
        for seed in range(12):
            rng = np.random.default_rng(seed)
            made = way(rng, dict(zip(names, rng.normal(0, 0.6, 60).tolist(), strict=True)), rate)
            others = dict(zip(names, rng.normal(0, 0.6, 60).tolist(), strict=True))
            keys = [ChainKey(name, sample) for name in names for sample in range(4)]
            _, decisions = played(rng, others, keys, SplitControl(made, rate))
            realised.append(np.mean([take_over for _, take_over in decisions]))
        rates[way] = (float(np.mean(realised)), float(np.std(realised)) / math.sqrt(12))
    mean, error = rates[in_rounds]
    assert abs(mean - rate) < 0.03 + 3 * error
    mean, error = rates[by_ranks_on_arrival]
    assert mean - rate > 0.05 + 1 * error, "the order of arrival calibrates another policy"
