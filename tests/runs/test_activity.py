"""Counters of what chains are doing, looked at while they do it."""

import asyncio
from dataclasses import replace

import pytest
from fakes import NOW, FakeEngine, byte_tokenizer

from atts.config import Config
from atts.engines.base import GenerateRequest, Sampling, ScoreRequest
from atts.errors import EngineError
from atts.methods import METHODS
from atts.methods.chain import Model, OpenChain
from atts.runs.activity import RECENT, Activity
from atts.types import Author, ChainEnd, Decision, Problem, Segment, Turn


class HeldEngine(FakeEngine):
    """Answers when it is let."""

    def __init__(self) -> None:
        super().__init__(write=lambda _: "\\boxed{4}")
        self.gate = asyncio.Event()

    async def _work(self) -> None:
        await self.gate.wait()


def segment(author: Author, kept: bool = True) -> Segment:
    return Segment(
        author=author,
        text="x",
        tokens=1,
        finish_reason="length",
        cached_tokens=0,
        timings=NOW,
        kept=kept,
    )


def turn(take_over: bool | None) -> Turn:
    if take_over is None:
        return Turn(segments=())
    decision = Decision(
        score=1.0, p_value=0.2, take_over=take_over, scored_tokens=1, cached_tokens=0, timings=NOW
    )
    return Turn(segments=(), decision=decision)


def test_the_rate_of_the_moment_is_that_of_the_last_decisions() -> None:
    activity = Activity()
    assert (activity.recent_rate, activity.rate) == (None, None)
    activity.turn_done(turn(None))
    assert (activity.turns, activity.decisions, activity.recent_rate) == (1, 0, None)
    for take_over in [True] * 3 + [False]:
        activity.decided(take_over)
    assert activity.recent_rate == activity.rate == 3 / 4
    for number in range(RECENT):
        activity.decided(number % 4 == 0)
    assert activity.recent_rate == 1 / 4
    assert activity.rate == (3 + RECENT / 4) / (4 + RECENT)
    for _ in range(RECENT):
        activity.decided(take_over=True)
    assert activity.recent_rate == 1.0


def test_a_turn_counts_once() -> None:
    activity = Activity()
    activity.takes_over = True
    activity.decided(take_over=True)
    activity.turn_done(turn(take_over=True))  # has been decided before it ended
    assert (activity.turns, activity.decisions) == (1, 1)
    # Where no score decides, the target wrote on or not.
    written = [segment("draft", kept=False), segment("target")]
    activity.turn_done(Turn(segments=tuple(written)))
    activity.turn_done(Turn(segments=(segment("draft"),)))
    activity.turn_done(Turn(segments=(segment("target"),)))  # the draft had no say
    assert (activity.turns, activity.decisions, activity.take_overs) == (4, 3, 2)
    activity.takes_over = False
    activity.turn_done(Turn(segments=(segment("draft"),)))  # with one model there is no rate
    assert (activity.turns, activity.decisions) == (5, 3)


async def test_requests_are_counted_while_they_are_on_their_way() -> None:
    activity = Activity()
    held = {"draft": HeldEngine(), "target": HeldEngine()}
    models = activity.watched_models(
        {
            "draft": Model(held["draft"], byte_tokenizer()),
            "target": Model(held["target"], byte_tokenizer()),
        }
    )
    sampling = Sampling(max_tokens=4, temperature=1.0, top_p=1.0, seed=0)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(2):
            tasks.create_task(models["draft"].engine.generate(GenerateRequest([1], sampling)))
        tasks.create_task(models["target"].engine.generate(GenerateRequest([1], sampling)))
        tasks.create_task(models["target"].engine.score(ScoreRequest([1, 2], 1)))
        await asyncio.sleep(0)
        assert activity.at_work == {"drafting": 2, "scoring": 1, "target writing": 1}
        assert activity.written == {"draft": 0, "target": 0}
        held["draft"].gate.set()
        held["target"].gate.set()
    assert set(activity.at_work.values()) == {0}
    assert activity.written == {"draft": 8, "target": 4}
    await models["draft"].engine.aclose()
    assert held["draft"].closed


class Broken(FakeEngine):
    async def _work(self) -> None:
        raise EngineError("lost")


async def test_what_fails_or_is_cancelled_is_no_longer_at_work(config: Config) -> None:
    activity = Activity()
    models = activity.watched_models(
        {
            "draft": Model(Broken(), byte_tokenizer()),
            "target": Model(HeldEngine(), byte_tokenizer()),
        }
    )
    problem = Problem(id="p", question="1?", answer="1")
    with pytest.raises(EngineError):
        await activity.watched_method(METHODS["draft-only"]).solve(
            OpenChain(problem, 0, models, config)
        )
    chain = OpenChain(problem, 0, models, config)
    alone = activity.watched_method(METHODS["target-only"])
    task = asyncio.ensure_future(alone.solve(chain))
    await asyncio.sleep(0)
    assert (activity.in_flight, activity.waiting_for_others) == (1, 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (activity.in_flight, activity.turns) == (0, 0)
    assert set(activity.at_work.values()) == {0}


async def test_chains_in_flight_without_a_request_wait_for_others(config: Config) -> None:
    activity = Activity()
    barrier = asyncio.Barrier(4)

    async def solve(chain: OpenChain) -> ChainEnd:
        await chain.generate("draft", 4)
        chain.end_turn()
        async with barrier:
            await barrier.wait()
        return "turns"

    method = activity.watched_method(replace(METHODS["sync-ranking"], solve=solve))
    models = activity.watched_models({"draft": Model(FakeEngine(), byte_tokenizer())})
    problem = Problem(id="p", question="1?", answer="1")
    chains = [
        asyncio.ensure_future(method.solve(OpenChain(problem, sample, models, config)))
        for sample in range(3)
    ]
    async with barrier:  # all three have come to it
        assert (activity.turns, activity.in_flight, activity.waiting_for_others) == (3, 3, 3)
        await barrier.wait()
    await asyncio.gather(*chains)
    assert (activity.in_flight, activity.waiting_for_others) == (0, 0)
