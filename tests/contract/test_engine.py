"""What every engine must do, whatever serves the model behind it.

An engine joins by a line in ``ENGINES``: a function that serves the model of the fixture
``reference`` and gives the engine. What is right is decided by plain transformers.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
from engines.tiny import (
    CONTEXT,
    END,
    VOCABULARY,
    greedy,
    plain_greedy,
    plain_scores,
    sampled,
    some_ids,
    tiny_llama,
)
from transformers import PreTrainedModel

from atts.engines.base import Completion, Engine, Sampling, Scored
from atts.engines.inprocess import InProcessEngine
from atts.errors import ContextLengthError, EmptyInputError, EngineError, TokenIdError

ENGINES: dict[str, Callable[[PreTrainedModel], Engine]] = {
    "inprocess": lambda model: InProcessEngine(model, cache_tokens=10_000),
}

BLOCK = 16
"""Engines keep prefixes in blocks; this many tokens may be missing from what they reuse."""


@pytest.fixture(scope="session")
def reference() -> PreTrainedModel:
    return tiny_llama(eos_token_id=END)


@pytest.fixture(params=list(ENGINES))
async def engine(
    request: pytest.FixtureRequest, reference: PreTrainedModel
) -> AsyncIterator[Engine]:
    engine = ENGINES[request.param](reference)
    yield engine
    await engine.aclose()


async def endless(engine: Engine, max_tokens: int = 200) -> Sampling:
    """A way to continue ``some_ids(20)`` that does not meet an end-of-sequence."""
    ways = [sampled(max_tokens, seed) for seed in range(25)]
    completions = await asyncio.gather(*(engine.generate(some_ids(20), way) for way in ways))
    return next(w for w, c in zip(ways, completions, strict=True) if c.finish_reason == "length")


async def test_text_ends_at_the_limit_or_before_the_end_of_sequence(engine: Engine) -> None:
    requests = [engine.generate(some_ids(10), sampled(40, seed)) for seed in range(40)]
    completions: list[Completion] = await asyncio.gather(*requests)
    assert {c.finish_reason for c in completions} == {"stop", "length"}
    for completion in completions:
        assert END not in completion.token_ids
        if completion.finish_reason == "length":
            assert len(completion.token_ids) == 40
        else:
            assert len(completion.token_ids) < 40


@pytest.mark.parametrize("max_tokens", [1, 2])
async def test_the_smallest_limits_are_respected(engine: Engine, max_tokens: int) -> None:
    completion = await engine.generate(some_ids(10), greedy(max_tokens))
    assert len(completion.token_ids) == max_tokens
    assert completion.finish_reason == "length"


async def test_text_ends_where_the_context_is_full(engine: Engine) -> None:
    completion = await engine.generate(some_ids(CONTEXT - 3), greedy(50))
    assert len(completion.token_ids) == 3
    assert completion.finish_reason == "length"


async def test_moments_of_a_request_are_in_order(engine: Engine) -> None:
    completion = await engine.generate(some_ids(10), greedy(5))
    scored = await engine.score(some_ids(10), 5)
    for t in (completion.timings, scored.timings):
        assert t.queued <= t.started <= t.first_token <= t.done


async def test_the_seed_decides_the_text(engine: Engine) -> None:
    ids = some_ids(30)
    first = [(await engine.generate(ids, sampled(20, seed))).token_ids for seed in range(5)]
    again = await asyncio.gather(*(engine.generate(ids, sampled(20, seed)) for seed in range(5)))
    assert [c.token_ids for c in again] == first
    assert len(set(first)) == 5


async def test_temperature_zero_takes_the_likeliest_token(
    engine: Engine, reference: PreTrainedModel
) -> None:
    prompts = [some_ids(length) for length in (1, 2, 15, 16, 17, 100)]
    completions = await asyncio.gather(*(engine.generate(p, greedy(30)) for p in prompts))
    expected = [plain_greedy(reference, prompt, 30) for prompt in prompts]
    assert [c.token_ids for c in completions] == expected


@pytest.mark.parametrize("start", [1, 2, 16, 17, 59])
async def test_scores_are_those_of_a_plain_forward_pass(
    engine: Engine, reference: PreTrainedModel, start: int
) -> None:
    ids = some_ids(60)
    expected = plain_scores(reference, ids, start)
    for _ in range(2):  # the second time, everything before start may be cached
        scored = await engine.score(ids, start)
        assert scored.logprobs.shape == (60 - start,)
        assert np.abs(scored.logprobs - expected).max() < 1e-4


async def test_a_whole_context_can_be_scored(engine: Engine, reference: PreTrainedModel) -> None:
    ids = some_ids(CONTEXT)
    scored = await engine.score(ids, 200)
    assert np.abs(scored.logprobs - plain_scores(reference, ids, 200)).max() < 1e-4


async def test_a_chain_reuses_what_it_sent_the_turn_before(
    engine: Engine, reference: PreTrainedModel
) -> None:
    chain = some_ids(40)
    sent = 0
    for turn in range(4):
        drafted = some_ids(12, seed=turn)
        scored = await engine.score(chain + drafted, len(chain))
        assert scored.cached_tokens >= sent - BLOCK
        assert scored.cached_tokens < len(chain)
        expected = plain_scores(reference, chain + drafted, len(chain))
        assert np.abs(scored.logprobs - expected).max() < 1e-4
        chain += drafted
        completion = await engine.generate(chain, greedy(10))
        assert len(chain) - BLOCK <= completion.cached_tokens < len(chain)
        assert completion.token_ids == plain_greedy(reference, chain, 10)
        sent = len(chain)
        chain += completion.token_ids


async def test_nothing_is_cached_of_a_prompt_that_was_never_sent(engine: Engine) -> None:
    assert (await engine.generate(some_ids(50), greedy(2))).cached_tokens == 0
    assert (await engine.score(some_ids(70), 60)).cached_tokens == 0


async def test_cancelling_a_request_leaves_the_others_as_they_are(engine: Engine) -> None:
    way = await endless(engine)
    alone = [await engine.generate(some_ids(30 + i), sampled(60, i)) for i in range(5)]
    cancelled = [asyncio.create_task(engine.generate(some_ids(20), way)) for _ in range(5)]
    others = [
        asyncio.create_task(engine.generate(some_ids(30 + i), sampled(60, i))) for i in range(5)
    ]
    await asyncio.sleep(0.02)
    for task in cancelled:
        task.cancel()
    results = await asyncio.gather(*cancelled, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    completions = await asyncio.gather(*others)
    assert [c.token_ids for c in completions] == [c.token_ids for c in alone]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda e: e.generate([], greedy(5)), EmptyInputError),
        (lambda e: e.score([], 1), EmptyInputError),
        (lambda e: e.generate([5, -1], greedy(5)), TokenIdError),
        (lambda e: e.generate([5, VOCABULARY], greedy(5)), TokenIdError),
        (lambda e: e.score([5, VOCABULARY, 6], 1), TokenIdError),
        (lambda e: e.score(some_ids(10), 0), EmptyInputError),
        (lambda e: e.score(some_ids(10), 10), EmptyInputError),
        (lambda e: e.score(some_ids(10), -1), EmptyInputError),
        (lambda e: e.generate(some_ids(CONTEXT), greedy(5)), ContextLengthError),
        (lambda e: e.score(some_ids(CONTEXT + 1), 5), ContextLengthError),
    ],
)
async def test_a_wrong_request_fails_alone(
    engine: Engine,
    reference: PreTrainedModel,
    wrong: Callable[[Engine], Any],
    error: type[EngineError],
) -> None:
    others = [asyncio.create_task(engine.generate(some_ids(20 + i), greedy(10))) for i in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(error):
        await wrong(engine)
    completions = await asyncio.gather(*others)
    expected = [plain_greedy(reference, some_ids(20 + i), 10) for i in range(2)]
    assert [c.token_ids for c in completions] == expected


async def test_many_calls_of_all_kinds_at_once(engine: Engine, reference: PreTrainedModel) -> None:
    async def check(i: int) -> None:
        ids = some_ids(5 + 7 * (i % 13), seed=i % 5)
        if i % 2:
            completion = await engine.generate(ids, greedy(1 + i % 25))
            assert completion.token_ids == plain_greedy(reference, ids, 1 + i % 25)
        else:
            scored: Scored = await engine.score(ids, 1 + i % (len(ids) - 1))
            expected = plain_scores(reference, ids, 1 + i % (len(ids) - 1))
            assert np.abs(scored.logprobs - expected).max() < 1e-4

    results = await asyncio.gather(*(check(i) for i in range(50)), return_exceptions=True)
    assert results == [None] * 50


async def test_closing_fails_what_is_in_flight_and_what_comes_after(engine: Engine) -> None:
    way = await endless(engine)
    tasks = [asyncio.create_task(engine.generate(some_ids(20), way)) for _ in range(10)]
    await asyncio.sleep(0.01)
    await engine.aclose()
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), timeout=10)
    assert all(isinstance(result, EngineError) for result in results)
    with pytest.raises(EngineError, match="closed"):
        await engine.generate(some_ids(5), greedy(5))
    with pytest.raises(EngineError, match="closed"):
        await engine.score(some_ids(5), 2)
    await engine.aclose()  # a second time does no harm
