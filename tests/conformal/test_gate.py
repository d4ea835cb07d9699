"""The gate before the score: its share, and the rate over all decisions."""

import json
import random

import pytest
from fakes import NOW
from hypothesis import given, settings
from hypothesis import strategies as st

from atts.config import GateOptions, TakeOverOptions
from atts.conformal.control import Control
from atts.conformal.factory import calibrating_control, make_control
from atts.conformal.gate import LEAST, GatedControl
from atts.errors import ConfigError, EngineError
from atts.types import Chain, Decision, Segment, Turn


def options(
    rate: float, share: float, control: str = "adaptive", by: str = "draft-surprise"
) -> TakeOverOptions:
    tree = {"rate": rate, "control": control, "gate": {"share": share, "by": by}}
    return TakeOverOptions.model_validate(tree)


def decided(control: Control, turn: int, score: float, surprise: float, u: float) -> Decision:
    """As ``methods/atts.py`` does it."""
    assert isinstance(control, GatedControl)
    gate, verdict = control.ask("p", turn, surprise, u)
    passed = verdict is not None
    verdict = verdict or control.decide("p", turn, score, u)
    return Decision(
        score=LEAST if passed else score,
        p_value=verdict.p_value,
        take_over=verdict.take_over,
        threshold=verdict.threshold,
        order=control.next_order(),
        scored_tokens=0 if passed else 5,
        cached_tokens=0,
        timings=NOW,
        gate=gate,
        passed=passed,
    )


@settings(max_examples=40)
@given(
    rate=st.sampled_from([0.1, 0.4, 0.7, 0.95]),
    share=st.sampled_from([0.1, 0.5, 0.9]),
    by=st.sampled_from(["draft-surprise", "coin"]),
    scores=st.lists(
        st.tuples(st.floats(-5, 5), st.floats(0, 9), st.floats(0, 0.999), st.integers(0, 2)),
        min_size=1,
        max_size=120,
    ),
)
def test_the_rate_is_that_of_all_decisions_whatever_the_scores(
    rate: float, share: float, by: str, scores: list[tuple[float, float, float, int]]
) -> None:
    control = make_control(
        options(rate, share, "online", by).model_copy(update={"by_turn": False}), None
    )
    taken = [decided(control, t, score, s, u).take_over for score, s, u, t in scores]
    # Steps 1 / sqrt(t): docs/statistics.md, (1 + eta) / (eta_T T).
    assert abs(sum(taken) - rate * len(taken)) <= 2 * len(taken) ** 0.5 + 1e-9


@pytest.mark.parametrize("by", ["draft-surprise", "coin"])
def test_the_gate_holds_its_share_and_lets_the_certain_pass(by: str) -> None:
    rng = random.Random(3)  # noqa: S311
    control = make_control(options(0.3, 0.5, by=by), None)
    made = [
        decided(control, 0, rng.gauss(0, 1), rng.uniform(0, 8), rng.random()) for _ in range(2000)
    ]
    passed = [each for each in made if each.passed]
    assert abs(len(passed) / len(made) - 0.5) < 0.03
    assert abs(sum(each.take_over for each in made) / len(made) - 0.3) < 0.01
    assert not any(each.take_over for each in passed)
    if by == "coin":
        assert all(each.gate and each.gate.surprise is None for each in made)
    else:
        told = [each.gate.surprise for each in passed[200:] if each.gate]
        assert max(s for s in told if s is not None) < 5.0


def test_nothing_passes_where_all_would_be_taken_over() -> None:
    rng = random.Random(5)  # noqa: S311
    control = make_control(options(0.9, 0.5), None)
    made = [
        decided(control, 0, rng.gauss(0, 1), rng.uniform(0, 8), rng.random()) for _ in range(2000)
    ]
    assert abs(sum(each.take_over for each in made) / len(made) - 0.9) < 0.01
    # The share gives way, not the rate.
    assert sum(each.passed for each in made) / len(made) < 0.15


def test_at_rate_one_all_are_scored_and_at_zero_none_need_be() -> None:
    for rate, passes in ((1.0, False), (0.0, True)):
        control = make_control(options(rate, 0.999), None)
        made = [decided(control, 0, 1.0, 1.0, u / 100) for u in range(50)]
        assert any(each.passed for each in made) == passes
        assert all(each.take_over for each in made) == (rate == 1.0)


@pytest.mark.parametrize("by", ["draft-surprise", "coin"])
def test_a_killed_run_goes_on_as_it_would_have(by: str) -> None:
    rng = random.Random(7)  # noqa: S311
    rows = [(rng.gauss(0, 1), rng.uniform(0, 8), rng.random()) for _ in range(60)]

    def some(control: Control, part: list[tuple[float, float, float]]) -> list[Decision]:
        return [decided(control, 0, *row) for row in part]

    whole = make_control(options(0.4, 0.4, by=by), None)
    first, rest = some(whole, rows[:40]), some(whole, rows[40:])
    segment = Segment(
        author="draft", text="x", tokens=1, finish_reason="length", cached_tokens=0, timings=NOW
    )
    chains = [
        Chain(
            problem_id="p",
            sample=number,
            end="turns",
            answer=None,
            turns=(Turn(segments=(segment,), decision=decision),),
            started=0.0,
            done=1.0,
        )
        for number, decision in enumerate(first)
    ]
    resumed = make_control(options(0.4, 0.4, by=by), None)
    resumed.restore_all(chains)
    assert some(resumed, rows[40:]) == rest
    loaded = make_control(options(0.4, 0.4, by=by), None)
    stopped = make_control(options(0.4, 0.4, by=by), None)
    some(stopped, rows[:40])
    loaded.load_state(json.loads(json.dumps(stopped.state())))
    loaded.restore_all([])
    assert [d.gate for d in some(loaded, rows[40:])] == [d.gate for d in rest]


def test_a_gate_is_refused_where_no_chain_may_depend_on_another() -> None:
    with pytest.raises(ConfigError, match=r"take_over.gate.share.*split.*adaptive or online"):
        make_control(options(0.4, 0.4, "split"), None)


def test_a_calibration_scores_everything() -> None:
    assert not isinstance(calibrating_control(options(0.4, 0.4), None), GatedControl)
    assert not isinstance(make_control(options(0.4, 0.0), None), GatedControl)


def test_it_does_not_guess_what_the_draft_is_certain_of() -> None:
    control = make_control(options(0.4, 0.4), None)
    assert isinstance(control, GatedControl)
    with pytest.raises(EngineError, match="log-probabilities of what the draft wrote"):
        control.ask("p", 0, None, 0.5)


def test_its_options_are_bounded() -> None:
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match="share"):
            GateOptions(share=share)
