"""Writing ahead of a decision: nothing changes but the time, and nothing is left running."""

import asyncio
import hashlib
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
from fakes import NOW, FakeEngine, by_control, byte_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from atts.config import Config, parse_config
from atts.conformal.calibration import Calibration
from atts.conformal.control import Control, Verdict
from atts.conformal.split import SplitControl
from atts.engines.base import Completion, GenerateRequest, Prefetch, Sampling, Scored, ScoreRequest
from atts.engines.limits import LimitedEngine
from atts.errors import ContextLengthError, EngineError, EngineUnavailableError
from atts.methods import METHODS
from atts.methods.atts import take_turns
from atts.methods.chain import Model, Models, OpenChain
from atts.runs.pool import Clock, run_chains, solve
from atts.runs.setup import PlannedChain
from atts.types import Chain, ChainKey, Discarded, Problem

PROBLEM = Problem(id="p", question="1+1?", answer="2")
SAMPLING = Sampling(max_tokens=8, temperature=0.8, top_p=1.0, seed=1)

BUSY = 9
"""A delay of a random engine, after which it asks to be called again; there are at most 120."""
BUSY_TIMES = 121


class Scripted(Control):
    """Takes over in the given turns."""

    def __init__(self, *turns: int) -> None:
        self.turns = turns

    def decide(self, problem_id: str, turn: int, score: float, u: float) -> Verdict:  # noqa: ARG002
        return Verdict(0.5, 0.5, turn in self.turns)


class RandomEngine:
    """Text and scores that depend on what is sent and the seed alone, after any delay."""

    def __init__(self, name: str, delays: Sequence[float]) -> None:
        self._name = name
        self._delays = list(delays)
        self.in_flight = 0

    async def generate(self, request: GenerateRequest) -> Completion:
        token_ids, sampling = request.token_ids, request.sampling
        await self._work()
        numbers = self._numbers(token_ids, sampling.seed)
        end = numbers.random()
        if end < 0.1:
            raise ContextLengthError("full") if end < 0.02 else EngineError("lost")
        text = "\\boxed{2}" if end < 0.2 else "".join(numbers.choice(list("ab{} é"), 12))
        ids = text.encode()[: sampling.max_tokens]
        if numbers.random() < 0.1:
            return Completion(tuple(ids[:3]), "stop", 0, NOW)
        return Completion(tuple(ids), "length", 0, NOW)

    async def score(self, request: ScoreRequest) -> Scored:
        token_ids, start = request.token_ids, request.start
        await self._work()
        numbers = self._numbers(token_ids, start)
        if numbers.random() < 0.05:
            raise EngineError("lost")
        return Scored(-numbers.random(len(token_ids) - start), start, NOW)

    async def aclose(self) -> None:
        pass

    def _numbers(self, token_ids: Sequence[int], seed: int) -> np.random.Generator:
        place = repr((self._name, bytes(token_ids), seed)).encode()
        return np.random.default_rng(list(hashlib.blake2b(place).digest()))

    async def _work(self) -> None:
        self.in_flight += 1
        delay = self._delays.pop() if self._delays else 0
        try:
            for _ in range(int(delay)):
                await asyncio.sleep(0)
            if delay == BUSY:
                raise EngineUnavailableError("busy")
        finally:
            self.in_flight -= 1


def with_overlap(config: Config, overlap: str) -> Config:
    limits = config.limits.model_copy(update={"overlap": overlap})
    return config.model_copy(update={"limits": limits})


def with_mode(config: Config, mode: str) -> Config:
    take_over = config.take_over.model_copy(update={"mode": mode})
    return config.model_copy(update={"take_over": take_over})


def open_chain(config: Config, draft: FakeEngine, target: FakeEngine, *turns: int) -> OpenChain:
    models: Models = {
        "draft": Model(draft, byte_tokenizer()),
        "target": Model(target, byte_tokenizer()),
    }
    return OpenChain(PROBLEM, 0, models, with_overlap(config, "on"), by_control(Scripted(*turns)))


def planned(config: Config, draft: FakeEngine, target: FakeEngine) -> PlannedChain:
    return PlannedChain(ChainKey(PROBLEM.id, 0), lambda: open_chain(config, draft, target))


def without_times(chain: Chain) -> Chain:
    """What must not depend on when anything was done, or done in vain."""
    turns = []
    for turn in chain.turns:
        decision = turn.decision
        changes = {
            "segments": tuple(
                segment.model_copy(update={"timings": NOW}) for segment in turn.segments
            ),
            "decision": decision and decision.model_copy(update={"order": 0, "timings": NOW}),
            "discarded": None,
        }
        turns.append(turn.model_copy(update=changes))
    return chain.model_copy(update={"turns": tuple(turns), "started": 0.0, "done": 0.0})


BYTES = byte_tokenizer()
PROBLEMS = [Problem(id=f"p{i}", question=f"{i}?", answer="2") for i in range(3)]
CALIBRATION = Calibration(
    version=2,
    fingerprint={},
    coverage="marginal",
    scores={"c": tuple((0.3 + i / 50, 0.4 + i / 50) for i in range(10))},
)


async def run_all(config: Config, delays: Sequence[Sequence[float]]) -> list[Chain]:
    """All chains of some problems, in the order of their identities."""
    engines = RandomEngine("draft", delays[0]), RandomEngine("target", delays[1])
    draft = LimitedEngine(engines[0], config.limits.draft_requests, BUSY_TIMES, 0.0)
    target = LimitedEngine(engines[1], config.limits.target_requests, BUSY_TIMES, 0.0)
    models: Models = {"draft": Model(draft, BYTES), "target": Model(target, BYTES)}
    control = SplitControl(CALIBRATION, rate=0.4)
    chains = [
        [
            PlannedChain(
                ChainKey(problem.id, sample),
                partial(
                    OpenChain, problem, sample, models, config, by_control(control, problem.id)
                ),
            )
        ]
        for problem in PROBLEMS
        for sample in range(config.samples)
    ]
    done: list[Chain] = []
    await run_chains(chains, METHODS["atts"], 4, Clock(), done.append)
    assert [engine.in_flight for engine in engines] == [0, 0]
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return sorted(map(without_times, done), key=lambda chain: chain.key)


delays = st.lists(st.integers(0, BUSY), max_size=120)
places = st.tuples(st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=60)
@given(
    delays=st.tuples(delays, delays, delays, delays),
    places=st.tuples(places, places),
    mode=st.sampled_from(["continue", "replace", "rewind"]),
    seed=st.integers(0, 1000),
)
def test_chains_are_the_same_with_and_without_writing_ahead(
    delays: tuple[list[int], ...], places: tuple[tuple[int, int], ...], mode: str, seed: int
) -> None:
    tree = {
        "samples": 3,
        "seed": seed,
        "turns": {"max_turns": 5, "draft_tokens": 8, "target_tokens": 8},
        "take_over": {"mode": mode, "score": {"kind": "largest-surprise"}},
    }

    def run(
        overlap: str, delays: Sequence[Sequence[float]], places: tuple[int, int]
    ) -> list[Chain]:
        limits = dict(zip(("draft_requests", "target_requests"), places, strict=True))
        config = parse_config(tree | {"limits": limits | {"overlap": overlap}}, "a test")
        return asyncio.run(run_all(config, delays))

    assert run("on", delays[:2], places[0]) == run("off", delays[2:], places[1])


async def test_the_draft_writes_while_the_target_scores(config: Config) -> None:
    during: list[int] = []
    draft = FakeEngine(write=lambda _: "on and on and")
    target = FakeEngine()

    async def score(request: ScoreRequest) -> Scored:
        await asyncio.sleep(0)
        during.append(draft.in_flight + len(draft.generated))
        return await FakeEngine.score(target, request)

    target.score = score  # type: ignore[method-assign]
    chain = open_chain(config, draft, target)
    record = chain.record(await take_turns(chain), 0.0, 1.0)
    assert [turn.discarded for turn in record.turns] == [None] * 4
    assert len(draft.generated) == 4  # nothing beyond the last turn
    # The next segment is being written, except during the last turn.
    assert [count - number for number, count in enumerate(during, 1)] == [2, 2, 2, 0]


@pytest.mark.parametrize("mode", ["continue", "replace"])
async def test_a_take_over_aborts_what_was_begun(config: Config, mode: str) -> None:
    draft = FakeEngine(write=lambda _: "on and on and")
    target = FakeEngine(write=lambda _: "so it is, so")
    chain = open_chain(with_mode(config, mode), draft, target, 0, 1, 2, 3)

    async def slowly(request: GenerateRequest) -> Completion:
        draft.seconds = 0.0 if len(draft.generated) % 2 == 0 else 60.0
        return await FakeEngine.generate(draft, request)

    draft.generate = slowly  # type: ignore[method-assign]
    record = chain.record(await take_turns(chain), 0.0, 1.0)
    assert (draft.aborted, draft.in_flight, len(draft.generated)) == (3, 0, 7)
    lost = [turn.discarded for turn in record.turns]
    assert [each and each.tokens for each in lost] == [None] * 4
    assert [each is not None for each in lost] == [True, True, True, False]
    kept = "on and oso it is" if mode == "continue" else "so it is"
    assert record.text.startswith(kept)


async def test_what_was_written_for_nothing_is_counted(config: Config) -> None:
    draft = FakeEngine(write=lambda _: "on and on and")
    target = FakeEngine(write=lambda _: "so it is, so", seconds=0.01)
    chain = open_chain(config, draft, target, 1)
    record = chain.record(await take_turns(chain), 0.0, 1.0)
    lost = [turn.discarded for turn in record.turns]
    assert [each and each.tokens for each in lost] == [None, 8, None, None]
    assert lost[1]
    assert lost[1].seconds >= 0.009


async def test_what_has_not_begun_is_not_written_for_nothing() -> None:
    draft = FakeEngine(seconds=60.0)
    limited = LimitedEngine(draft, in_flight=1, attempts=1, backoff_seconds=0.0)
    other = asyncio.create_task(limited.generate(GenerateRequest(b"other", SAMPLING)))
    await asyncio.sleep(0)
    ahead = Prefetch()
    ahead.start(limited, GenerateRequest(b"ahead", SAMPLING))
    await asyncio.sleep(0)
    assert await ahead.drop() is None
    other.cancel()
    await asyncio.wait([other])
    ahead.start(limited, GenerateRequest(b"ahead", SAMPLING))
    await asyncio.sleep(0)
    assert await ahead.drop() is not None
    assert [text for text, _ in draft.generated] == ["other", "ahead"]
    assert draft.aborted == 2


@pytest.mark.parametrize("text", ["\\boxed{2}", "the end"])
async def test_nothing_is_begun_where_the_chain_could_end(config: Config, text: str) -> None:
    turns = config.turns.model_copy(update={"draft_tokens": 9})
    config = config.model_copy(update={"turns": turns})
    for write in (text, text.ljust(20)):
        draft = FakeEngine(write=lambda _, write=write: write)  # type: ignore[misc]
        chain = open_chain(config, draft, FakeEngine())
        await take_turns(chain)
        # The answer ends it even where the segment is cut; other text does only where it stops.
        if write == text or "boxed" in text:
            assert len(draft.generated) == 1


async def test_a_failing_score_leaves_nothing_running(config: Config) -> None:
    def lost(_: str) -> float:
        raise EngineError("lost")

    draft = FakeEngine(write=lambda _: "on and on and")
    target = FakeEngine(logprob=lost)

    async def slowly(request: GenerateRequest) -> Completion:
        draft.seconds = 60.0 if draft.generated else 0.0
        return await FakeEngine.generate(draft, request)

    draft.generate = slowly  # type: ignore[method-assign]
    chain = await solve(planned(config, draft, target), METHODS["atts"], Clock())
    assert (chain.end, chain.error) == ("failed", "EngineError: lost")
    assert (draft.aborted, draft.in_flight) == (1, 0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("scoring", [True, False])
async def test_cancelling_a_chain_cancels_what_it_wrote_ahead(
    config: Config, scoring: bool
) -> None:
    draft = FakeEngine(write=lambda _: "on and on and")
    target = FakeEngine(seconds=60.0 if scoring else 0.0)

    async def slowly(request: GenerateRequest) -> Completion:
        draft.seconds = 60.0 if draft.generated else 0.0
        return await FakeEngine.generate(draft, request)

    draft.generate = slowly  # type: ignore[method-assign]
    task = asyncio.create_task(solve(planned(config, draft, target), METHODS["atts"], Clock()))
    # Until the second segment is being written, and the first scored or still being scored.
    for _ in range(100):
        if draft.in_flight and target.in_flight == scoring and len(draft.generated) == 2:
            break
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (draft.aborted, draft.in_flight, target.in_flight) == (1, 0, 0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_only_the_very_same_request_is_taken() -> None:
    engine, ahead = FakeEngine(write=lambda _: "text"), Prefetch()
    assert await ahead.take(GenerateRequest([1, 2], SAMPLING)) is None
    ahead.start(engine, GenerateRequest([1, 2], SAMPLING))
    assert await ahead.take(GenerateRequest([1, 3], SAMPLING)) is None
    assert await ahead.take(GenerateRequest([1, 2], Sampling(8, 0.8, 1.0, seed=2))) is None
    taken = await ahead.take(GenerateRequest([1, 2], SAMPLING))
    assert taken
    assert bytes(taken.token_ids) == b"text"
    assert await ahead.drop() is None
    assert len(engine.generated) == 1


async def test_a_failure_counts_only_where_its_result_is_needed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_: str) -> str:
        raise EngineError("lost")

    ahead = Prefetch()
    ahead.start(FakeEngine(write=fail), GenerateRequest([1], SAMPLING))
    with pytest.raises(EngineError, match="lost"):
        await ahead.take(GenerateRequest([1], SAMPLING))
    assert await ahead.drop() is None
    ahead.start(FakeEngine(write=fail), GenerateRequest([1], SAMPLING))
    await asyncio.sleep(0.001)
    dropped = await ahead.drop()
    assert isinstance(dropped, Discarded)
    assert dropped.tokens is None
    assert not caplog.messages


async def test_a_bug_in_what_is_written_ahead_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: str) -> str:
        raise ValueError("a bug")

    ahead = Prefetch()
    ahead.start(FakeEngine(write=fail), GenerateRequest([1], SAMPLING))
    await asyncio.sleep(0.001)
    await ahead.drop()
    assert caplog.messages == ["writing ahead failed: ValueError: a bug"]


@pytest.mark.parametrize(
    ("engines", "rate", "overlap", "overlaps"),
    [
        (("inprocess", "inprocess"), 0.1, "auto", False),
        (("sglang", "inprocess"), 0.1, "auto", True),
        (("sglang", "vllm"), 0.5, "auto", True),
        (("sglang", "vllm"), 0.7, "auto", False),
        (("sglang", "vllm"), 0.7, "on", True),
        (("inprocess", "inprocess"), 0.1, "on", True),
        (("sglang", "vllm"), 0.1, "off", False),
    ],
)
def test_auto_is_on_where_most_stays_and_the_models_do_not_share_cores(
    engines: tuple[str, str], rate: float, overlap: str, overlaps: bool
) -> None:
    tree = {
        "draft": {"engine": engines[0]},
        "target": {"engine": engines[1]},
        "take_over": {"rate": rate},
        "limits": {"overlap": overlap},
    }
    assert parse_config(tree, "a test").overlaps is overlaps
