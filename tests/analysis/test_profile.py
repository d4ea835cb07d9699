"""Phases, intensity, stragglers and budget, against sums by hand."""

import pytest
from timed_runs import MakeRun, chain, decision, segment

from atts.analysis.profile import STARTED_LATER, RunProfile, profile
from atts.errors import GradingError
from atts.types import Chain, Turn

ZERO = 50.0


def simple(
    sample: int, started: float, decode: float, problem: str = "p", waited: float = 0.0
) -> Chain:
    """Queue 1, prefill 1, decode as told, score queue 1, scoring 1, and perhaps a wait."""
    at = ZERO + started
    turn = Turn(
        segments=(segment("draft", (at, at + 1, at + 2, at + 2 + decode)),),
        decision=decision((at + 2 + decode, at + 3 + decode, at + 4 + decode, at + 4 + decode)),
        waited_seconds=waited,
    )
    return chain([turn], started, started + 4 + decode + waited, problem, sample)


def test_phases_and_intensity(make_run: MakeRun) -> None:
    found = profile(make_run([simple(0, 0.0, 6.0), simple(1, 2.0, 2.0, waited=4.0)]))
    assert {time.phase: time.seconds for time in found.phases} == {
        "draft queue": 2.0,
        "draft prefill": 2.0,
        "draft decode": 8.0,
        "score queue": 2.0,
        "scoring": 2.0,
        "waiting": 4.0,
    }
    assert sum(time.share for time in found.phases) == pytest.approx(1.0)
    assert found.intensity.compute == 12.0
    assert found.intensity.memory == 4.0
    assert found.intensity.synchronisation == 4.0
    assert found.intensity.r == 12.0 / 8.0
    assert found.intensity.r_sync == 12.0 / 4.0
    assert (found.wall_seconds, found.chain_seconds) == (12.0, 20.0)
    assert found.mean_chains == pytest.approx(20.0 / 12.0)
    assert (found.most_chains, found.untimed, found.undivided) == (2, 0, False)
    assert RunProfile.model_validate_json(found.model_dump_json()) == found


def test_nothing_held_back_gives_no_intensity(make_run: MakeRun) -> None:
    turn = Turn(segments=(segment("target", (ZERO, ZERO, ZERO + 1, ZERO + 3)),))
    found = profile(make_run([chain([turn], 0.0, 3.0)], method="target-only"))
    assert found.intensity.compute == 3.0
    assert (found.intensity.r, found.intensity.r_sync, found.budget) == (None, None, None)


def test_what_a_late_chain_was_late_by_adds_up(make_run: MakeRun) -> None:
    chains = [simple(0, 0.0, 2.0), simple(1, 0.0, 3.0), simple(2, 6.0, 4.0)]
    found = profile(make_run(chains), stragglers=2)
    assert [late.sample for late in found.late_chains] == [2, 1]
    late = found.late_chains[0]
    mean_done = (6.0 + 7.0 + 14.0) / 3
    assert sum(late.excess.values()) == pytest.approx(late.done - mean_done)
    assert late.excess[STARTED_LATER] == pytest.approx(4.0)
    assert late.excess["draft decode"] == pytest.approx(1.0)
    assert late.why == "started later +4.0 s"
    assert (late.turns, late.tokens, late.take_overs, late.seconds) == (1, 10, 0, 8.0)


def test_problems_whose_last_chain_ends_last(make_run: MakeRun) -> None:
    chains = [
        simple(0, 0.0, 1.0, "a"),
        simple(1, 0.0, 2.0, "a"),
        simple(2, 0.0, 9.0, "a"),
        simple(0, 0.0, 3.0, "b"),
    ]
    found = profile(make_run(chains))
    assert [(late.problem_id, late.done, late.median_done) for late in found.late_problems] == [
        ("a", 13.0, 6.0),
        ("b", 7.0, 7.0),
    ]
    assert found.late_problems[0].last.sample == 2


def test_the_tail_is_the_last_twentieth(make_run: MakeRun) -> None:
    chains = [simple(number, 0.0, float(number)) for number in range(40)]
    found = profile(make_run(chains))
    assert found.tail.chains == 2
    assert found.tail.seconds == 2.0
    assert found.tail.share == 2.0 / 43.0


def test_chains_without_times_are_counted_apart(make_run: MakeRun) -> None:
    imported = chain([Turn(segments=(segment("draft", (0, 0, 0, 0)),))], 0.0, 9.0, "q")
    found = profile(make_run([simple(0, 0.0, 6.0), imported]))
    assert (found.chains, found.untimed, found.chain_seconds) == (2, 1, 10.0)
    nothing = profile(make_run([imported]))
    assert (nothing.phases, nothing.late_chains, nothing.most_chains) == ((), (), 0)


def test_a_run_without_chains_has_no_profile(make_run: MakeRun) -> None:
    empty = make_run([simple(0, 0.0, 1.0)])._replace(chains=())
    with pytest.raises(GradingError, match="no finished chain yet"):
        profile(empty)


def decided(sample: int, order: int, take_over: bool, refused: bool = False) -> Chain:
    """A chain whose score arrives at 10 times its number; a take-over ends 15 seconds later."""
    at = ZERO + 10.0 * order
    segments = [segment("draft", (at - 2, at - 2, at - 1, at - 1))]
    if take_over:
        segments.append(segment("target", (at, at, at + 1, at + 15)))
    threshold = 0.4
    made = decision((at - 1, at - 1, at, at), take_over, threshold=threshold, order=order)
    if refused:
        made = made.model_copy(update={"p_value": 0.1})
    turn = Turn(segments=tuple(segments), decision=made)
    return chain([turn], 10.0 * order - 2, 10.0 * order + 15, "ab"[sample % 2], sample // 2)


def test_how_the_budget_was_kept_over_time(make_run: MakeRun) -> None:
    # In the order in which scores arrived: 10 take-overs, 10 without, one of them refused.
    chains = [decided(n, n, take_over=n < 10, refused=n == 19) for n in range(20)][::-1]
    budget = profile(make_run(chains, take_over={"budget": {"per_turn": 6}})).budget
    assert budget
    assert [part.first for part in budget.over_time] == list(range(0, 20, 2))
    assert [part.realised.estimate for part in budget.over_time] == [1.0] * 5 + [0.0] * 5
    assert [part.so_far for part in budget.over_time][4:6] == [1.0, 10 / 12]
    assert budget.over_time[0].until == pytest.approx(10.0, abs=2.0)
    assert budget.realised.estimate == 0.5
    assert budget.largest_deviation == pytest.approx(0.6)
    assert budget.refused == 1
    assert (budget.per_turn.allowed, budget.per_turn.most) == (6, 5)
    assert budget.in_flight
    # Each lasts 15 seconds, and one begins every 10.
    assert (budget.in_flight.allowed, budget.in_flight.most) == (None, 2)
