"""Controls whose state is kept, and whose memory is bounded."""

import json
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atts.config import Config, parse_config
from atts.conformal.calibration import Calibration
from atts.conformal.control import Control
from atts.conformal.factory import make_control
from atts.conformal.online import OnlineControl
from atts.conformal.pvalues import SortedScores

OPTIONS: list[dict[str, Any]] = [
    {"control": "adaptive"},
    {"control": "adaptive", "adaptive": {"track": "turn", "decay": 0.5}},
    {"control": "adaptive", "by_turn": False, "adaptive": {"track": "all"}},
    {"control": "adaptive", "coverage": "conditional"},
    {"control": "online"},
    {"control": "online", "budget": {"per_turn": 1}},
    {"control": "split"},
    {"control": "coin"},
]


def config(tree: dict[str, Any]) -> Config:
    return parse_config({"take_over": tree}, "a test")


def control(tree: dict[str, Any], window: int | None = 5) -> Control:
    calibration = None
    if tree["control"] == "split":
        scores: dict[str, Any] = {"c": (tuple(0.1 * number for number in range(20)),)}
        calibration = Calibration(version=2, fingerprint={}, coverage="marginal", scores=scores)
    return make_control(config(tree).take_over, calibration, window)


DECISIONS = st.lists(
    st.tuples(st.integers(0, 3), st.floats(0.0, 3.0), st.floats(0.0, 0.999)), max_size=25
)


@pytest.mark.parametrize("tree", OPTIONS)
@given(before=DECISIONS, after=DECISIONS)
def test_a_control_goes_on_where_its_state_was_taken(
    tree: dict[str, Any],
    before: list[tuple[int, float, float]],
    after: list[tuple[int, float, float]],
) -> None:
    one = control(tree)
    for turn, score, u in before:
        if one.decide("q1", turn, score, u).take_over:
            one.take_over_done()
        one.next_order()
    one.forget("q1")
    other = control(tree)
    other.load_state(json.loads(json.dumps(one.state())))
    assert other.next_order() == one.next_order()
    for turn, score, u in after:
        assert one.decide("q2", turn, score, u) == other.decide("q2", turn, score, u)
    one.forget("q2")
    other.forget("q2")
    assert one.state() == other.state()


@pytest.mark.parametrize("tree", OPTIONS)
def test_what_is_held_of_a_question_goes_with_it(tree: dict[str, Any]) -> None:
    one = control(tree)
    one.decide("q1", 0, 0.5, 0.5)
    one.forget("q1")
    one.forget("q1")
    assert "q1" not in repr(_held(one))


def _held(one: object) -> object:
    if isinstance(one, dict):
        return {str(key): _held(value) for key, value in one.items()}
    return _held(dict(vars(one))) if isinstance(one, Control) else one


@given(
    scores=st.lists(st.floats(0.0, 1.0), max_size=30), most=st.integers(1, 8), at=st.floats(0, 1)
)
def test_a_window_holds_the_newest(scores: list[float], most: int, at: float) -> None:
    held = SortedScores(most=most)
    for number, score in enumerate(scores):
        newest = scores[max(0, number - most) : number]
        counts = held.add(score)
        assert counts == SortedScores(newest).counts(score)
    assert held.arrived() == scores[-most:]
    assert held.counts(at) == SortedScores(scores[-most:]).counts(at)
    assert SortedScores(held.arrived(), most).arrived() == held.arrived()


def test_p_values_against_a_window_are_uniform() -> None:
    draw = random.Random(1)  # noqa: S311
    online = OnlineControl(0.3, "marginal", window=20)
    taken = sum(online.decide("q", 0, draw.random(), draw.random()).take_over for _ in range(4000))
    assert abs(taken / 4000 - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 4000)


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_state_with_impossible_scores_is_refused(score: float) -> None:
    one = control({"control": "online"})
    state = one.state()
    state["ranks"]["scores"] = [[0, [score]]]
    with pytest.raises(Exception, match="finite"):
        one.load_state(state)
