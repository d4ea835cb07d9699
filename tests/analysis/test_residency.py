"""Tokens held by the target, against hand counts and against sampling in time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atts.analysis.tokens import peak_target_tokens
from atts.types import Author, Chain, Decision, Rating, Segment, Timings, Turn


def at(begin: float, end: float, queued: float | None = None) -> Timings:
    return Timings(
        queued=begin if queued is None else queued, started=begin, first_token=begin, done=end
    )


def segment(author: Author, tokens: int, timings: Timings, kept: bool = True) -> Segment:
    return Segment(
        author=author,
        text="",
        tokens=tokens,
        finish_reason="length",
        cached_tokens=0,
        timings=timings,
        kept=kept,
    )


def decision(tokens: int, timings: Timings) -> Decision:
    return Decision(
        score=1.0,
        p_value=0.5,
        take_over=False,
        scored_tokens=tokens,
        cached_tokens=0,
        timings=timings,
    )


def chain(*turns: Turn, started: float, done: float) -> Chain:
    return Chain(
        problem_id="p", sample=0, end="stop", answer=None, turns=turns, started=started, done=done
    )


def writes(begin: float, end: float, tokens: int, clock: float = 1000.0) -> Chain:
    """Of ``target-only``, on a process's clock that is ``clock`` ahead of the run's."""
    turn = Turn(segments=(segment("target", tokens, at(clock + begin, clock + end)),))
    return chain(turn, started=begin, done=end)


def test_the_draft_alone_leaves_the_target_empty() -> None:
    alone = chain(
        Turn(segments=(segment("draft", 9, at(0.0, 1.0)),)),
        started=0.0,
        done=1.0,
    )
    assert peak_target_tokens([alone]) == 0
    assert peak_target_tokens([]) == 0


def test_chains_side_by_side_add_up_and_chains_one_after_the_other_do_not() -> None:
    assert peak_target_tokens([writes(0, 10, 100), writes(0, 10, 50)]) == 150
    assert peak_target_tokens([writes(0, 10, 100), writes(11, 20, 50)]) == 100
    # The second is half done when the first ends.
    assert peak_target_tokens([writes(0, 10, 100), writes(5, 15, 100)]) == 150


def test_processes_with_other_clocks_are_one_run() -> None:
    assert peak_target_tokens([writes(0, 10, 100, clock=5.0), writes(0, 10, 50)]) == 150
    assert peak_target_tokens([writes(0, 10, 100, clock=5.0), writes(11, 20, 50)]) == 100


def test_a_chain_is_held_between_its_requests_until_it_ends() -> None:
    first = Turn(
        segments=(segment("draft", 11, at(0, 1)), segment("target", 5, at(2, 3))),
        decision=decision(10, at(1, 2)),
    )
    second = Turn(segments=(segment("draft", 8, at(3, 9)),), decision=decision(7, at(9, 10)))
    held = chain(first, second, started=0, done=10)
    assert peak_target_tokens([held]) == 10 + 5 + 7
    # 15 are held while the draft writes again; the other comes and goes meanwhile.
    assert peak_target_tokens([held, writes(4, 8, 20)]) == 15 + 20


def test_a_replaced_segment_is_held_while_it_is_scored() -> None:
    turn = Turn(
        segments=(segment("draft", 11, at(0, 1), kept=False), segment("target", 6, at(2, 3))),
        decision=decision(10, at(1, 2)),
    )
    assert peak_target_tokens([chain(turn, started=0, done=3)]) == 10
    longer = turn.model_copy(
        update={"segments": (turn.segments[0], segment("target", 16, at(2, 3)))}
    )
    assert peak_target_tokens([chain(longer, started=0, done=3)]) == 16


def test_a_cut_is_held_while_it_is_scored() -> None:
    cut = segment("draft", 20, at(0, 1)).model_copy(update={"cut": "...", "cut_tokens": 5})
    turn = Turn(
        segments=(cut, segment("target", 2, at(2, 3))),
        decision=decision(12, at(1, 2)),  # 3 of which are those 5
    )
    assert peak_target_tokens([chain(turn, started=0, done=3)]) == 12
    longer = turn.model_copy(update={"segments": (cut, segment("target", 8, at(2, 3)))})
    assert peak_target_tokens([chain(longer, started=0, done=3)]) == 12 - 3 + 8


def test_a_draft_that_is_not_scored_comes_with_the_next_request() -> None:
    turn = Turn(segments=(segment("draft", 11, at(0, 1)), segment("target", 6, at(2, 3))))
    assert peak_target_tokens([chain(turn, started=0, done=3)]) == 17


def rating(read: int, timings: Timings) -> Rating:
    return Rating(value=5.0, read_tokens=read, cached_tokens=0, timings=timings)


def test_a_rating_holds_its_request_while_it_lasts() -> None:
    kept = Turn(segments=(segment("draft", 11, at(0, 1)),), rating=rating(30, at(1, 2)))
    more = Turn(segments=(segment("target", 40, at(3, 4)),))
    assert peak_target_tokens([chain(kept, started=0, done=3)]) == 30
    assert peak_target_tokens([chain(kept, more, started=0, done=4)]) == 11 + 40
    rejected = segment("draft", 11, at(0, 1), kept=False)
    again = kept.model_copy(update={"segments": (rejected, segment("target", 33, at(3, 4)))})
    assert peak_target_tokens([chain(again, started=0, done=4)]) == 33


def test_what_the_target_wrote_is_not_held_twice_when_it_is_rated() -> None:
    turn = Turn(segments=(segment("target", 40, at(0, 1)),), rating=rating(41, at(1, 2)))
    assert peak_target_tokens([chain(turn, started=0, done=2)]) == 41


def test_a_segment_that_was_begun_ahead_comes_after_the_decision() -> None:
    first = Turn(segments=(segment("draft", 11, at(0, 1)),), decision=decision(10, at(1.5, 4)))
    second = Turn(segments=(segment("draft", 9, at(1.2, 2)),), decision=decision(8, at(4, 5)))
    assert peak_target_tokens([chain(first, second, started=0, done=5)]) == 18


def test_waiting_for_the_target_holds_nothing() -> None:
    turn = Turn(segments=(segment("target", 6, at(5, 6, queued=0)),))
    late = chain(turn, started=0, done=6)
    assert peak_target_tokens([late, writes(0, 4, 100)]) == 100


MOMENTS = st.integers(0, 40)


@given(st.lists(st.tuples(MOMENTS, st.integers(1, 9), st.integers(1, 50)), min_size=1, max_size=8))
def test_it_is_the_highest_of_all_moments(chains: list[tuple[int, int, int]]) -> None:
    """Sums of ramps are highest where one ends, so a fine grid of moments meets the peak."""
    found = peak_target_tokens([writes(b, b + length, n) for b, length, n in chains])
    grid = np.arange(0.0, 50.0, 1.0)
    held = np.zeros_like(grid)
    for begin, length, tokens in chains:
        there = (grid >= begin) & (grid <= begin + length)
        held += np.where(there, tokens * (grid - begin) / length, 0.0)
    assert found == pytest.approx(held.max(), abs=0.5 + 1e-9)
