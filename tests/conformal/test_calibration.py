from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atts.config import FORMER_DEFAULTS, Config, parse_config
from atts.conformal.calibration import Calibration
from atts.errors import CalibrationError
from atts.types import Chain, ChainEnd, Decision, Timings, Turn

NO_TIME = Timings(queued=0, started=0, first_token=0, done=0)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def chain(
    problem: str, sample: int, scores: Sequence[float | None], end: ChainEnd = "answer"
) -> Chain:
    turns = [
        Turn(
            segments=(),
            decision=None
            if score is None
            else Decision(
                score=score,
                p_value=0.5,
                take_over=False,
                scored_tokens=1,
                cached_tokens=0,
                timings=NO_TIME,
            ),
        )
        for score in scores
    ]
    error = "the engine went away" if end == "failed" else None
    return Chain(
        problem_id=problem,
        sample=sample,
        end=end,
        answer=None,
        turns=tuple(turns),
        started=0,
        done=0,
        error=error,
    )


def config(**groups: dict[str, Any]) -> Config:
    former = FORMER_DEFAULTS | {"take_over": {"mode": "continue", "score": {"kind": "mean"}}}
    return parse_config(groups, source="the test", defaults=former)


CHAINS = [
    chain("b", 0, [0.5]),
    chain("a", 1, [0.3, None, 0.4]),
    chain("a", 0, [0.1, 0.2]),
    chain("a", 2, [9.0], end="failed"),
]
MARGINAL = Calibration.from_chains(CHAINS, config())
CONDITIONAL = Calibration.from_chains(CHAINS, config(take_over={"coverage": "conditional"}))


def test_collects_the_scores_of_all_turns_of_chains_that_did_not_fail() -> None:
    assert MARGINAL.scores == {"a": ((0.1, 0.2), (0.3, None, 0.4)), "b": ((0.5,),)}
    assert MARGINAL.by_turn() == [[0.1, 0.3, 0.5], [0.2], [0.4]]
    assert MARGINAL.by_turn("b") == [[0.5]]
    assert MARGINAL.coverage == "marginal"
    assert MARGINAL.fingerprint == config().calibration_fingerprint()


def test_the_order_in_which_chains_ended_leaves_no_trace() -> None:
    assert Calibration.from_chains(CHAINS[::-1], config()).to_json() == MARGINAL.to_json()


def test_without_scores_there_is_no_calibration() -> None:
    chains = [chain("a", 0, [0.1], end="failed"), chain("a", 1, [None])]
    with pytest.raises(CalibrationError, match=r"2 chains 1 failed.*the engine went away"):
        Calibration.from_chains(chains, config())
    with pytest.raises(CalibrationError, match="0 chains"):
        Calibration.from_chains([], config())


@pytest.mark.parametrize("score", [float("-inf"), float("inf")])
def test_a_score_that_is_no_number_is_refused_with_its_place(score: float) -> None:
    with pytest.raises(CalibrationError, match=r"problem a, sample 3, turn 1.*finite"):
        Calibration.from_chains([chain("a", 3, [0.1, score])], config())


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.lists(
            st.lists(st.none() | FINITE, max_size=3).map(lambda turns: (0.5, *turns)),
            min_size=1,
            max_size=4,
        ).map(tuple),
        min_size=1,
        max_size=4,
    ),
    st.floats(0, 1),
)
def test_json_gives_back_an_equal_calibration(
    scores: dict[str, tuple[tuple[float | None, ...], ...]], rate: float
) -> None:
    fingerprint = config(take_over={"rate": rate}).calibration_fingerprint()
    before = Calibration(version=2, fingerprint=fingerprint, coverage="marginal", scores=scores)
    assert Calibration.from_json(before.to_json(), "memory") == before


GOOD = MARGINAL.to_json()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "Invalid JSON"),
        (GOOD[: len(GOOD) // 2], "Invalid JSON"),
        ("[1, 2]", "valid dictionary|object"),
        ("{}", "version: Field required"),
        (GOOD.replace('"version": 2', '"version": 1'), "version: Input should be 2"),
        (GOOD.replace('"marginal",\n "scores"', '"global",\n "scores"'), "coverage: Input"),
        (GOOD.replace("0.5\n", "NaN\n"), r"scores\.b\.0\.0: .*finite"),
        (GOOD.replace("0.5\n", '"0.5"\n'), r"scores\.b\.0\.0: .*number"),
        (GOOD.replace("0.5\n", "null\n"), r"scores\.b: .*no score in any turn"),
        (GOOD.replace("0.5\n", "\n"), r"scores\.b: .*no score in any turn"),
        (GOOD.replace('"version": 2', '"version": 2, "extra": 0'), "extra: Extra inputs"),
        (
            '{"version": 2, "fingerprint": {}, "coverage": "marginal", "scores": {}}',
            "scores: .*at least 1",
        ),
    ],
)
def test_a_corrupt_or_foreign_text_is_refused_with_its_source(text: str, fault: str) -> None:
    assert text != GOOD
    with pytest.raises(CalibrationError, match=f"runs/x.json is not a calibration: .*{fault}"):
        Calibration.from_json(text, "runs/x.json")


def test_accepts_the_run_that_it_was_made_for() -> None:
    MARGINAL.check(config(), ["c", "d"])
    CONDITIONAL.check(config(take_over={"coverage": "conditional"}), ["a", "b"])


def test_what_does_not_change_scores_may_differ() -> None:
    MARGINAL.check(config(limits={"chains": 3}, problems={"count": 7}), ["c"])


@pytest.mark.parametrize(
    ("groups", "difference"),
    [
        ({"draft": {"model": "other"}}, "draft.model: 'bundled/draft' in the calibration, 'other'"),
        ({"prompt": {"system": ""}}, "prompt.system: 'Solve .* in the calibration, '' in the run"),
        ({"sampling": {"temperature": 0.6}}, "sampling.temperature: 0.8 in the calibration, 0.6"),
        ({"turns": {"max_turns": 3}}, "turns.max_turns: 15 in the calibration, 3 in the run"),
        ({"take_over": {"rate": 0.1}}, "take_over.rate: 0.4 in the calibration, 0.1 in the run"),
        ({"take_over": {"coverage": "conditional"}}, "take_over.coverage: 'marginal' in the cal"),
        ({"take_over": {"by_turn": False}}, "take_over.by_turn: True in the calibration, False"),
        ({"take_over": {"score": {"kind": "worst-window"}}}, "take_over.score.kind: 'mean' in the"),
    ],
)
def test_a_calibration_for_something_else_is_refused_with_both_values(
    groups: dict[str, dict[str, Any]], difference: str
) -> None:
    with pytest.raises(CalibrationError, match=difference):
        MARGINAL.check(config(**groups), ["c"])


def test_all_differing_keys_are_named() -> None:
    with pytest.raises(CalibrationError, match=r"take_over\.rate") as caught:
        MARGINAL.check(config(take_over={"rate": 0.1}, turns={"draft_tokens": 9}), ["c"])
    assert "turns.draft_tokens: 500 in the calibration, 9 in the run" in str(caught.value)


def test_a_key_that_only_one_side_knows_is_a_difference() -> None:
    older = {k: v for k, v in MARGINAL.fingerprint.items() if k != "sampling.top_p"}
    with pytest.raises(CalibrationError, match=r"top_p: absent in the calibration, 1\.0 in"):
        MARGINAL.model_copy(update={"fingerprint": older}).check(config(), ["c"])


def test_marginal_refuses_problems_that_it_was_made_on() -> None:
    with pytest.raises(CalibrationError, match=r"problem a, which.*calibration.allow_overlap=true"):
        MARGINAL.check(config(), ["c", "a"])
    MARGINAL.check(config(calibration={"allow_overlap": True}), ["c", "a"])


def test_conditional_refuses_problems_without_scores() -> None:
    run = config(take_over={"coverage": "conditional"})
    with pytest.raises(CalibrationError, match="no scores for problems c, d, e and 2 more"):
        CONDITIONAL.check(run, ["a", "c", "d", "e", "f", "g"])
