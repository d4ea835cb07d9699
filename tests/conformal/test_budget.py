"""Hard caps: never exceeded, whatever the control below asks for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atts.config import AdaptiveOptions, BudgetOptions, parse_config
from atts.conformal.adaptive import AdaptiveControl
from atts.conformal.calibration import Calibration
from atts.conformal.control import BudgetControl, Control
from atts.conformal.factory import calibrating_control, make_control
from atts.conformal.online import OnlineControl
from atts.conformal.split import SplitControl
from atts.errors import CalibrationError, ConfigError
from atts.types import Chain, Decision, Timings, Turn

NO_TIME = Timings(queued=0, started=0, first_token=0, done=0)
Stream = list[tuple[int, int, float, float, bool]]
DECISIONS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.integers(0, 2),
        st.integers(0, 5).map(float),
        st.integers(0, 2**53 - 1).map(lambda bits: bits / 2**53),
        st.booleans(),
    ),
    max_size=40,
)


@given(DECISIONS, st.integers(1, 3), st.integers(1, 3))
def test_no_cap_is_ever_exceeded(stream: Stream, per_turn: int, in_flight: int) -> None:
    budget = BudgetOptions(per_turn=per_turn, in_flight=in_flight)
    control = BudgetControl(OnlineControl(0.8, "marginal"), budget)
    free = OnlineControl(0.8, "marginal")
    spent: dict[tuple[int, int], int] = {}
    flying = 0
    for problem, turn, score, u, one_ends in stream:
        verdict = control.decide(str(problem), turn, score, u)
        wish = free.decide(str(problem), turn, score, u)
        room = spent.get((problem, turn), 0) < per_turn and flying < in_flight
        assert verdict == wish._replace(take_over=wish.take_over and room)
        spent[problem, turn] = spent.get((problem, turn), 0) + verdict.take_over
        flying += verdict.take_over
        if one_ends and flying:
            control.take_over_done()
            flying -= 1


def recorded(stream: Stream, control: Control) -> list[Chain]:
    """A chain a decision; the chains end in another order than that of their decisions."""
    chains = []
    for sample, (problem, turn, score, u, _) in enumerate(stream):
        verdict = control.decide(str(problem), turn, score, u)
        decision = Decision(
            score=score,
            p_value=verdict.p_value,
            take_over=verdict.take_over,
            threshold=verdict.threshold,
            order=control.next_order(),
            scored_tokens=1,
            cached_tokens=0,
            timings=NO_TIME,
        )
        turns = (*[Turn(segments=())] * turn, Turn(segments=(), decision=decision))
        chains.append(
            Chain(
                problem_id=str(problem),
                sample=sample,
                end="stop",
                answer=None,
                turns=turns,
                started=0,
                done=0,
            )
        )
    return sorted(chains, key=lambda chain: (chain.sample * 7) % 11)


@pytest.mark.parametrize(
    "settings",
    [
        {"control": "online"},
        {"control": "online", "coverage": "conditional"},
        {"control": "adaptive"},
        {"control": "adaptive", "adaptive": {"track": "turn", "decay": 0.6}},
        {"control": "adaptive", "budget": {"per_turn": 2}},
    ],
)
@given(before=DECISIONS, after=DECISIONS)
def test_a_control_is_restored_from_what_it_recorded(
    settings: dict[str, object], before: Stream, after: Stream
) -> None:
    options = parse_config({"take_over": settings}, "the test").take_over
    undisturbed, restored = make_control(options, None), make_control(options, None)
    restored.restore_all(recorded(before, undisturbed))
    for problem, turn, score, u, _ in after:
        place = (str(problem), turn, score, u)
        assert restored.decide(*place) == undisturbed.decide(*place)
        assert restored.next_order() == undisturbed.next_order()


def test_lost_decisions_leave_no_trace() -> None:
    """Of what was in flight when a process was killed nothing counts until it is done again."""
    options = parse_config({"take_over": {"control": "online"}}, "the test").take_over
    first, second = make_control(options, None), make_control(options, None)
    chains = recorded([(0, 0, 1.0, 0.3, False), (0, 0, 2.0, 0.3, False)], first)
    kept = [chain for chain in chains if chain.sample == 1]
    second.restore_all(kept)
    assert second.decide("0", 0, 0.0, 0.5).p_value == (1 + 0.5) / 2
    assert second.next_order() == 2, "numbers go on after the largest that was kept"


def test_records_without_an_order_are_taken_as_they_come() -> None:
    options = parse_config({"take_over": {"control": "online"}}, "the test").take_over
    control = make_control(options, None)
    (chain,) = recorded([(0, 0, 1.0, 0.3, False)], make_control(options, None))
    assert chain.turns[0].decision
    bare = chain.turns[0].decision.model_copy(update={"order": None, "threshold": None})
    control.restore_all([chain.model_copy(update={"turns": (Turn(segments=(), decision=bare),)})])
    assert control.decide("0", 0, 0.0, 0.5).p_value == (1 + 0.5) / 2


CALIBRATION = Calibration(
    version=2, fingerprint={}, coverage="marginal", scores={"a": ((0.1, 0.2),)}
)


def test_the_configuration_chooses_the_control() -> None:
    def chosen(calibration: Calibration | None = None, **settings: object) -> Control:
        return make_control(
            parse_config({"take_over": settings}, "the test").take_over, calibration
        )

    assert isinstance(chosen(CALIBRATION, control="split"), SplitControl)
    online = chosen(control="online")
    assert isinstance(online, AdaptiveControl)
    assert isinstance(online._ranks, OnlineControl)
    for settings in ({}, {"control": "adaptive"}):
        for calibration, ranks in ((None, OnlineControl), (CALIBRATION, SplitControl)):
            control = chosen(calibration, **settings)
            assert isinstance(control, AdaptiveControl)
            assert isinstance(control._ranks, ranks)
    capped = chosen(CALIBRATION, control="split", budget={"in_flight": 3})
    assert isinstance(capped, BudgetControl)
    assert isinstance(capped._control, SplitControl)
    options = parse_config({"take_over": {"budget": {"per_turn": 1}}}, "the test").take_over
    assert isinstance(calibrating_control(options, None), BudgetControl)


def test_what_cannot_be_is_refused() -> None:
    def options(**settings: object) -> None:
        config = parse_config({"take_over": settings}, "the test")
        make_control(config.take_over, CALIBRATION if settings["control"] == "online" else None)

    with pytest.raises(CalibrationError, match=r"atts calibrate.*online or adaptive"):
        options(control="split")
    with pytest.raises(ConfigError, match="decides without a calibration"):
        options(control="online")
    with pytest.raises(ConfigError, match=r"take_over: .*adaptive\.decay=0"):
        options(control="adaptive", adaptive={"decay": 0.5})


def test_the_tracker_below_a_budget_counts_what_it_asked_for() -> None:
    control = AdaptiveControl(
        OnlineControl(0.4, "marginal"), 0.4, AdaptiveOptions(track="all", step=0.1)
    )
    capped = BudgetControl(control, BudgetOptions(per_turn=1))
    refused = 0
    for n in range(200):
        verdict = capped.decide("a", 0, float(n % 7), ((n * 37) % 101) / 101)
        refused += verdict.p_value <= verdict.threshold and not verdict.take_over
    assert refused > 50
    assert abs(control.tracked()[0].deviation) < control.tracked()[0].bound < 0.05
