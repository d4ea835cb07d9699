"""Every second of a chain belongs to one phase."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from timed_runs import chain, decision, segment

from atts.analysis.spans import PHASES, most_at_a_time, offsets, phase_seconds, requests, spans
from atts.types import Chain, ChainKey, Turn

ZERO = 100.0
"""The clock of the process when the run's stood at 0."""


def turn_at(begin: float) -> Turn:
    """Draft, score, take-over: 1 + 2 + 3, 1 + 1, and 1 + 1 + 2 seconds, with a second between."""
    return Turn(
        segments=(
            segment("draft", (begin, begin + 1, begin + 3, begin + 6)),
            segment("target", (begin + 10, begin + 11, begin + 12, begin + 14)),
        ),
        decision=decision((begin + 7, begin + 8, begin + 9, begin + 9), take_over=True),
    )


def test_the_phases_of_a_turn_by_hand() -> None:
    found = spans(chain([turn_at(ZERO + 1)], 0.0, 17.0), ZERO)
    assert [(span.phase, span.begin, span.end) for span in found] == [
        ("overhead", 0.0, 1.0),
        ("draft queue", 1.0, 2.0),
        ("draft prefill", 2.0, 4.0),
        ("draft decode", 4.0, 7.0),
        ("overhead", 7.0, 8.0),
        ("score queue", 8.0, 9.0),
        ("scoring", 9.0, 10.0),
        ("overhead", 10.0, 11.0),
        ("target queue", 11.0, 12.0),
        ("target prefill", 12.0, 13.0),
        ("target decode", 13.0, 15.0),
        ("overhead", 15.0, 17.0),
    ]


@pytest.mark.parametrize(("waited", "waiting", "overhead"), [(0.4, 0.4, 4.6), (9.0, 3.0, 2.0)])
def test_a_wait_lies_behind_the_decision(waited: float, waiting: float, overhead: float) -> None:
    turn = turn_at(ZERO + 1).model_copy(update={"waited_seconds": waited})
    seconds = phase_seconds(chain([turn], 0.0, 17.0), ZERO)
    # Behind the decision, 1 second before the take-over and 2 after it were without a request.
    assert seconds["waiting"] == pytest.approx(waiting)
    assert seconds["overhead"] == pytest.approx(overhead)


def test_a_wait_after_the_last_request_of_a_turn_belongs_to_it() -> None:
    first = Turn(
        segments=(segment("draft", (ZERO, ZERO, ZERO + 1, ZERO + 2)),),
        decision=decision((ZERO + 2, ZERO + 2, ZERO + 3, ZERO + 3)),
        waited_seconds=4.0,
    )
    second = Turn(segments=(segment("draft", (ZERO + 8, ZERO + 8, ZERO + 9, ZERO + 10)),))
    found = list(spans(chain([first, second], 0.0, 10.0), ZERO))
    assert [(s.phase, s.turn, s.begin, s.end) for s in found if s.phase == "waiting"] == [
        ("waiting", 0, 3.0, 7.0)
    ]
    assert [s.turn for s in found] == [0, 0, 0, 0, 0, 1, 1]


def test_without_a_decision_a_wait_comes_first() -> None:
    turn = Turn(
        segments=(segment("draft", (ZERO + 3, ZERO + 3, ZERO + 4, ZERO + 5)),), waited_seconds=2.0
    )
    found = list(spans(chain([turn], 0.0, 5.0), ZERO))
    assert (found[0].phase, found[0].seconds) == ("waiting", 2.0)


def test_a_draft_that_writes_ahead_counts_from_the_end_of_the_scoring() -> None:
    first = Turn(
        segments=(segment("draft", (ZERO, ZERO, ZERO + 1, ZERO + 2)),),
        decision=decision((ZERO + 2, ZERO + 2, ZERO + 5, ZERO + 5)),
    )
    ahead = Turn(segments=(segment("draft", (ZERO + 2, ZERO + 3, ZERO + 4, ZERO + 9)),))
    seconds = phase_seconds(chain([first, ahead], 0.0, 9.0), ZERO)
    assert seconds["scoring"] == 3.0
    assert seconds["draft decode"] == 1.0 + 4.0
    assert sum(seconds.values()) == 9.0


def test_a_request_that_tells_only_of_its_end_is_not_divided() -> None:
    turn = Turn(segments=(segment("target", (ZERO, ZERO + 1, ZERO + 6, ZERO + 6)),))
    seconds = phase_seconds(chain([turn], 0.0, 6.0), ZERO)
    assert (seconds["target queue"], seconds["target, undivided"]) == (1.0, 5.0)
    one_token = Turn(segments=(segment("target", (ZERO, ZERO + 1, ZERO + 6, ZERO + 6), tokens=1),))
    assert phase_seconds(chain([one_token], 0.0, 6.0), ZERO)["target prefill"] == 5.0


def test_chains_of_one_process_share_an_offset() -> None:
    """The third is of a process that went on 50 seconds later, after 30 seconds of the run."""
    chains = [
        chain([turn_at(ZERO + 1)], 0.0, 16.0, sample=0),
        chain([turn_at(ZERO + 12)], 11.5, 30.0, sample=1),
        chain([turn_at(ZERO + 81.5)], 31.0, 60.0, sample=2),
    ]
    found = offsets(chains)
    # Within half a second: a chain's first request is a bit later than its start.
    assert found[ChainKey("p", 0)] == found[ChainKey("p", 1)] == ZERO + 0.5
    assert found[ChainKey("p", 2)] == ZERO + 50.5


def test_chains_without_times_have_no_offset() -> None:
    imported = chain([Turn(segments=(segment("draft", (0.0, 0.0, 0.0, 0.0)),))], 0.0, 5.0)
    assert offsets([imported, chain([], 0.0, 1.0, sample=1)]) == {}


moments = st.floats(0.0, 10.0)


@st.composite
def chains_of_any_times(draw: st.DrawFn) -> Chain:
    def request() -> tuple[float, float, float, float]:
        queued, started, first, done = sorted(draw(moments) for _ in range(4))
        return (ZERO + queued, ZERO + started, ZERO + first, ZERO + done)

    turns = [
        Turn(
            segments=tuple(segment("draft", request()) for _ in range(draw(st.integers(0, 2)))),
            decision=decision(request()) if draw(st.booleans()) else None,
            waited_seconds=draw(moments),
        )
        for _ in range(draw(st.integers(0, 3)))
    ]
    return chain(turns, 0.0, 10.0)


@given(chains_of_any_times())
def test_a_life_has_no_gap_and_no_overlap(any_chain: Chain) -> None:
    found = list(spans(any_chain, ZERO))
    assert found[0].begin == 0.0
    assert found[-1].end == pytest.approx(10.0)
    for one, next_one in pairwise(found):
        assert one.end == next_one.begin
        assert one.turn <= next_one.turn
    assert all(span.seconds > 0 for span in found)
    assert sum(phase_seconds(any_chain, ZERO).values()) == pytest.approx(10.0)
    assert {span.phase for span in found} <= set(PHASES)


def test_requests_come_in_the_order_of_their_ends() -> None:
    assert [request.what for request in requests(turn_at(ZERO))] == ["draft", "score", "target"]


def test_an_end_and_a_begin_at_one_moment_do_not_overlap() -> None:
    assert most_at_a_time([(0.0, 1.0), (1.0, 2.0)]) == 1
    assert most_at_a_time([]) == 0
