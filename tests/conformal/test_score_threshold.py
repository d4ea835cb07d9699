"""The score from which on the target would take over: the decision itself, the other way round."""

import math
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from atts.config import AdaptiveOptions, BudgetOptions
from atts.conformal.adaptive import AdaptiveControl
from atts.conformal.calibration import Calibration
from atts.conformal.control import BudgetControl, Control
from atts.conformal.online import OnlineControl
from atts.conformal.split import CalibratingControl, SplitControl

# A grid with many ties, and anything else.
SCORE = st.integers(-3, 3).map(lambda n: n / 4) | st.floats(-1e3, 1e3)
U = st.floats(0, 1, exclude_max=True)
CHAINS = st.lists(st.lists(SCORE, min_size=1, max_size=4), min_size=1, max_size=6)
PROBLEMS = ("a", "b")

Make = Callable[[Calibration, float], Control]


def split(calibration: Calibration, rate: float) -> Control:
    return SplitControl(calibration, rate)


def conditional(calibration: Calibration, rate: float) -> Control:
    return SplitControl(calibration.model_copy(update={"coverage": "conditional"}), rate)


def calibrating(calibration: Calibration, rate: float) -> Control:
    return CalibratingControl(rate, by_turn=True, earlier=calibration)


def online(_: Calibration, rate: float) -> Control:
    return OnlineControl(rate, "marginal")


def online_conditional(_: Calibration, rate: float) -> Control:
    return OnlineControl(rate, "conditional")


def adaptive(calibration: Calibration, rate: float) -> Control:
    return AdaptiveControl(SplitControl(calibration, rate), rate, AdaptiveOptions())


def adaptive_online(_: Calibration, rate: float) -> Control:
    return AdaptiveControl(OnlineControl(rate, "conditional"), rate, AdaptiveOptions())


def budget(calibration: Calibration, rate: float) -> Control:
    return BudgetControl(adaptive_online(calibration, rate), BudgetOptions(per_turn=2, in_flight=3))


EVERY = pytest.mark.parametrize(
    "make",
    [
        split,
        conditional,
        calibrating,
        online,
        online_conditional,
        adaptive,
        adaptive_online,
        budget,
    ],
)


@EVERY
@given(
    a=CHAINS,
    b=CHAINS,
    rate=st.floats(0, 1) | st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    stream=st.lists(
        st.tuples(st.sampled_from(PROBLEMS), st.integers(0, 3), SCORE, U), min_size=1, max_size=12
    ),
)
@example(a=[[0.5]], b=[[0.5]], rate=0.5, stream=[("a", 0, 0.5, 0.0), ("a", 0, 0.5, 0.5)])
def test_a_decision_takes_over_iff_the_score_is_at_least_the_threshold(
    make: Make,
    a: list[list[float]],
    b: list[list[float]],
    rate: float,
    stream: list[tuple[str, int, float, float]],
) -> None:
    calibration = Calibration(
        version=2,
        fingerprint={},
        coverage="marginal",
        scores={"a": tuple(map(tuple, a)), "b": tuple(map(tuple, b))},
    )
    control = make(calibration, rate)
    for problem, turn, score, u in stream:
        threshold = control.score_threshold(problem, turn, u)
        assert control.score_threshold(problem, turn, u) == threshold, "asking changes nothing"
        if math.isfinite(threshold):
            below = math.nextafter(threshold, -math.inf)
            assert control.look(problem, turn, threshold, u).take_over
            assert not control.look(problem, turn, below, u).take_over
        foreseen = control.look(problem, turn, score, u)
        verdict = control.decide(problem, turn, score, u)
        assert verdict == foreseen
        assert verdict.take_over == (score >= threshold)


def test_a_tie_is_beyond_the_threshold_or_not_as_its_draw_has_it() -> None:
    scores = tuple((score,) for score in (1.0, 2.0, 2.0, 3.0))
    calibration = Calibration(version=2, fingerprint={}, coverage="marginal", scores={"a": scores})
    control = SplitControl(calibration, 0.5)
    assert control.score_threshold("b", 0, 0.5) == 2.0, "p = (1 + 0.5 * 3) / 5 is the rate"
    assert control.score_threshold("b", 0, 0.51) == math.nextafter(2.0, 3.0)


def test_where_nothing_or_everything_is_taken_over_it_is_infinite() -> None:
    assert OnlineControl(0.0, "marginal").score_threshold("a", 0, 0.5) == math.inf
    assert OnlineControl(1.0, "marginal").score_threshold("a", 0, 0.5) == -math.inf
    spent = BudgetControl(OnlineControl(1.0, "marginal"), BudgetOptions(in_flight=1))
    assert spent.decide("a", 0, 0.5, 0.5).take_over
    assert spent.score_threshold("a", 0, 0.5) == math.inf
    spent.take_over_done()
    assert spent.score_threshold("a", 0, 0.5) == -math.inf
