"""Split and online control by turn, against crepes and mapie."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from atts.conformal.calibration import Calibration
from atts.conformal.control import Control
from atts.conformal.online import OnlineControl
from atts.conformal.split import SplitControl

TURNS = 3


def crepes_draws(turns: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """crepes draws its tie-breakers from the legacy generator, bin after bin."""
    draws, state = np.empty(len(turns)), np.random.RandomState(seed)
    for turn in range(TURNS):
        draws[turns == turn] = state.rand(int((turns == turn).sum()))
    return draws


def decided(
    control: Control,
    scores: NDArray[np.float64],
    turns: NDArray[np.int64],
    draws: NDArray[np.float64],
) -> list[float]:
    return [
        control.decide("p", int(turn), float(score), float(u)).p_value
        for score, turn, u in zip(scores, turns, draws, strict=True)
    ]


def tied_scores(rng: np.random.Generator, turns: NDArray[np.int64]) -> NDArray[np.float64]:
    return (rng.gamma(2.0, 0.3, size=len(turns)) + 0.2 * turns).round(1)


def test_split_control_by_turn_equals_mondrian_crepes() -> None:
    crepes = pytest.importorskip("crepes.base", reason="crepes or its scikit-learn is missing")
    rng = np.random.default_rng(1)
    turns_cal = np.repeat(np.arange(TURNS), 120)
    scores_cal = tied_scores(rng, turns_cal)
    chains = tuple(
        tuple(float(scores_cal[turn * 120 + chain]) for turn in range(TURNS))
        for chain in range(120)
    )
    calibration = Calibration(version=2, fingerprint={}, coverage="marginal", scores={"a": chains})
    turns = rng.integers(0, TURNS, size=200)
    scores = tied_scores(rng, turns)
    expected = crepes.p_values_batch(scores_cal, scores, turns_cal, turns, smoothing=True, seed=3)
    ours = decided(SplitControl(calibration, 0.4), scores, turns, crepes_draws(turns, 3))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-15)


def test_online_control_by_turn_equals_online_mondrian_crepes() -> None:
    crepes = pytest.importorskip("crepes.base", reason="crepes or its scikit-learn is missing")
    rng = np.random.default_rng(2)
    turns = rng.integers(0, TURNS, size=400)
    scores = tied_scores(rng, turns)
    expected = crepes.p_values_online_regression(scores, bins=turns, smoothing=True, seed=4)
    ours = decided(OnlineControl(0.4, "marginal"), scores, turns, crepes_draws(turns, 4))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.4])
def test_split_control_takes_over_outside_the_interval_of_mapie(rate: float) -> None:
    """Its interval |y| <= quantile misses where our p-value, with u close to 1, is at most rate."""
    regression = pytest.importorskip("mapie.regression", reason="mapie is missing")
    from sklearn.dummy import DummyRegressor

    rng = np.random.default_rng(0)
    x, y = np.zeros((157, 1)), rng.normal(size=157)
    zero = DummyRegressor(strategy="constant", constant=0.0).fit(x, y)
    oracle = regression.SplitConformalRegressor(zero, confidence_level=1 - rate, prefit=True)
    _, interval = oracle.conformalize(x, y).predict_interval(np.zeros((1, 1)))
    scores = tuple((float(abs(value)),) for value in y)
    calibration = Calibration(version=2, fingerprint={}, coverage="marginal", scores={"a": scores})
    control = SplitControl(calibration, rate)
    new, largest = rng.normal(size=300), math.nextafter(1.0, 0.0)
    taken = [control.decide("b", 0, abs(value), largest).take_over for value in new]
    assert taken == (np.abs(new) > interval[0, 1, 0]).tolist()
    assert any(taken)
    assert not all(taken)
