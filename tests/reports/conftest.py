"""Runs to report on."""

from collections.abc import Callable

import pytest
from timed_runs import MakeRun, make_timed_run

from atts.types import Chain, ChainEnd, Decision, Segment, Timings, Turn

TIMINGS = Timings(queued=0.0, started=0.1, first_token=0.2, done=0.3)

MakeChain = Callable[..., Chain]


@pytest.fixture
def make_chain() -> MakeChain:
    """A chain whose turns take over as told: one draft segment each, and one of the target."""

    def make(
        problem_id: str,
        sample: int,
        answer: str | None,
        take_overs: tuple[bool, ...] = (),
        end: ChainEnd = "answer",
        done: float = 1.0,
    ) -> Chain:
        def segment(author: str, tokens: int) -> Segment:
            return Segment.model_validate(
                {
                    "author": author,
                    "text": "x",
                    "tokens": tokens,
                    "finish_reason": "length",
                    "cached_tokens": 3,
                    "timings": TIMINGS,
                    "kept": author == "target",
                }
            )

        turns = tuple(
            Turn(
                segments=(segment("draft", 10), segment("target", 7))
                if take_over
                else (segment("draft", 10),),
                decision=Decision(
                    score=1.0,
                    p_value=0.5,
                    take_over=take_over,
                    scored_tokens=8,
                    cached_tokens=5,
                    timings=TIMINGS,
                ),
            )
            for take_over in take_overs
        )
        return Chain(
            problem_id=problem_id,
            sample=sample,
            end=end,
            answer=answer,
            turns=turns,
            started=0.0,
            done=done,
            error="lost" if end == "failed" else None,
        )

    return make


@pytest.fixture
def make_run() -> MakeRun:
    return make_timed_run
