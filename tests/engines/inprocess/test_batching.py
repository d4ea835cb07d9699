"""The in-process engine's batches: what requests share, and what they must not."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from engines.tiny import (
    CONTEXT,
    VOCABULARY,
    greedy,
    plain_greedy,
    plain_scores,
    sampled,
    some_ids,
    tiny_llama,
)
from transformers import PreTrainedModel

from atts.engines.base import Completion, GenerateRequest, ScoreRequest
from atts.engines.inprocess.batching import Batcher
from atts.engines.inprocess.engine import InProcessEngine
from atts.engines.inprocess.kv_cache import Row, Window
from atts.errors import EngineError, EngineGoneError, EngineUnavailableError

POISON = VOCABULARY - 1
"""An id that ``some_ids`` never gives."""


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_llama()  # without an end-of-sequence, so that lengths are known


@asynccontextmanager
async def serving(model: PreTrainedModel, cache_tokens: int = 10_000) -> AsyncIterator[Any]:
    engine = InProcessEngine(model, cache_tokens)
    try:
        yield engine
    finally:
        await engine.aclose()


@contextmanager
def before_each_pass(
    model: PreTrainedModel, hook: Callable[[torch.Tensor], None]
) -> Iterator[None]:
    """Call ``hook`` with the ids of every forward pass, (rows, new tokens)."""

    def call(_module: object, _args: object, kwargs: dict[str, torch.Tensor]) -> None:
        hook(kwargs["input_ids"])

    handle = model.register_forward_pre_hook(call, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another thread
            await asyncio.sleep(0.001)


async def test_text_and_scores_do_not_depend_on_the_batch(model: PreTrainedModel) -> None:
    prompts = [some_ids(3 + 9 * i, seed=i) for i in range(20)]
    async with serving(model) as engine:
        alone = [
            await engine.generate(GenerateRequest(p, sampled(30, i))) for i, p in enumerate(prompts)
        ]
        scored = [await engine.score(ScoreRequest(p, 2)) for p in prompts]
    async with serving(model) as engine:
        calls = [engine.generate(GenerateRequest(p, sampled(30, i))) for i, p in enumerate(prompts)]
        calls += [engine.score(ScoreRequest(p, 2)) for p in prompts]
        together = await asyncio.gather(*calls)
    assert [c.token_ids for c in together[:20]] == [c.token_ids for c in alone]
    for one, other in zip(together[20:], scored, strict=True):
        assert np.abs(one.logprobs - other.logprobs).max() < 1e-4


async def test_a_request_joins_and_leaves_while_another_runs(model: PreTrainedModel) -> None:
    passes: list[int] = []
    async with serving(model) as engine:
        with before_each_pass(model, lambda ids: passes.append(len(ids))):
            long = asyncio.create_task(
                engine.generate(GenerateRequest(some_ids(10), sampled(200, 1)))
            )
            await until(lambda: len(passes) > 5)
            short = await engine.generate(GenerateRequest(some_ids(150), sampled(5, 2)))
            assert not long.done()
            completion = await long
        assert 2 in passes  # they did share steps
        assert (
            completion.token_ids
            == (await engine.generate(GenerateRequest(some_ids(10), sampled(200, 1))))[0]
        )
        assert (
            short.token_ids
            == (await engine.generate(GenerateRequest(some_ids(150), sampled(5, 2))))[0]
        )


async def test_a_shared_prompt_is_computed_once(model: PreTrainedModel) -> None:
    computed: list[int] = []
    prompt, samples, written = some_ids(64), 16, 8
    async with serving(model) as engine:
        with before_each_pass(model, lambda ids: computed.append(ids.numel())):
            completions = await asyncio.gather(
                *(
                    engine.generate(GenerateRequest(prompt, sampled(written, seed)))
                    for seed in range(samples)
                )
            )
    # The other samples compute the last token of the prompt, to have its distribution; the
    # last token that a request writes is never computed.
    assert sum(computed) == 64 + (samples - 1) + samples * (written - 1)
    assert sorted(c.cached_tokens for c in completions) == [0] + [63] * (samples - 1)


async def test_a_turn_computes_only_what_is_new(model: PreTrainedModel) -> None:
    computed: list[int] = []
    async with serving(model) as engine:
        prompt = some_ids(50)
        first = await engine.generate(GenerateRequest(prompt, greedy(10)))
        with before_each_pass(model, lambda ids: computed.append(ids.numel())):
            scored = await engine.score(ScoreRequest([*prompt, *first.token_ids, 7, 8, 9], 60))
    assert scored.cached_tokens == 59  # the last token was written but never computed
    assert computed == [4]


async def test_without_a_cache_the_text_is_the_same(model: PreTrainedModel) -> None:
    async with serving(model, cache_tokens=0) as engine:
        completions: list[Completion] = await asyncio.gather(
            *(engine.generate(GenerateRequest(some_ids(40), greedy(12))) for _ in range(5))
        )
    expected = plain_greedy(model, some_ids(40), 12)
    assert [(c.token_ids, c.cached_tokens) for c in completions] == [(expected, 0)] * 5


async def test_cancelled_requests_cost_nothing_more(model: PreTrainedModel) -> None:
    passes: list[torch.Size] = []
    async with serving(model) as engine:
        with before_each_pass(model, lambda ids: passes.append(ids.shape)):
            tasks = [
                asyncio.create_task(engine.generate(GenerateRequest(some_ids(10 + i), greedy(200))))
                for i in range(3)
            ]
            await until(lambda: len(passes) > 8)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            # Served after the cancellations were seen, by steps that only it takes part in.
            await engine.generate(GenerateRequest(some_ids(100), greedy(2)))
            assert passes[-1] == (1, 1)
            before = len(passes)
            await asyncio.sleep(0.05)
            assert len(passes) == before < 100


async def test_a_pass_that_fails_fails_only_its_own_requests(model: PreTrainedModel) -> None:
    passes: list[int] = []

    def fail(ids: torch.Tensor) -> None:
        passes.append(len(ids))
        if (ids == POISON).any():
            raise RuntimeError("poisoned")

    async with serving(model) as engine:
        with before_each_pass(model, fail):
            running = asyncio.create_task(
                engine.generate(GenerateRequest(some_ids(10), greedy(100)))
            )
            await until(lambda: len(passes) > 3)
            with pytest.raises(EngineError, match="RuntimeError: poisoned"):
                await engine.generate(GenerateRequest([*some_ids(20), POISON], greedy(5)))
            with pytest.raises(EngineError, match="RuntimeError: poisoned"):
                await engine.score(ScoreRequest([*some_ids(20), POISON], 5))
            completion = await running
            later = await engine.generate(GenerateRequest(some_ids(20), greedy(5)))
    assert completion.token_ids == plain_greedy(model, some_ids(10), 100)
    assert later.token_ids == plain_greedy(model, some_ids(20), 5)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("broken"), EngineError),
        (torch.OutOfMemoryError("full"), EngineUnavailableError),
    ],
)
async def test_a_step_that_fails_loses_its_batch_and_no_more(
    model: PreTrainedModel, error: Exception, expected: type[EngineError]
) -> None:
    failures = [error]

    def fail(ids: torch.Tensor) -> None:
        if ids.shape == (3, 1) and failures:
            raise failures.pop()

    async with serving(model) as engine:
        with before_each_pass(model, fail):
            results = await asyncio.gather(
                *(engine.generate(GenerateRequest(some_ids(20 + i), greedy(50))) for i in range(3)),
                return_exceptions=True,
            )
        assert [type(result) for result in results] == [expected] * 3
        assert len({id(result) for result in results}) == 3
        later = await asyncio.gather(
            *(engine.generate(GenerateRequest(some_ids(20 + i), greedy(10))) for i in range(3))
        )
    assert [c.token_ids for c in later] == [
        plain_greedy(model, some_ids(20 + i), 10) for i in range(3)
    ]


async def test_a_failure_between_the_passes_leaves_no_one_waiting(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory can run out while a joined request is copied into the running batch."""
    plain_add = Window.add
    failures = ["memory"]

    def add(self: Window, row: Row | None, length: int) -> None:
        plain_add(self, row, length)
        if len(self) == 2 and failures:
            raise torch.OutOfMemoryError(failures.pop())

    monkeypatch.setattr(Window, "add", add)
    passes: list[int] = []
    async with serving(model) as engine:
        with before_each_pass(model, lambda ids: passes.append(len(ids))):
            running = asyncio.create_task(
                engine.generate(GenerateRequest(some_ids(10), greedy(200)))
            )
            await until(lambda: len(passes) > 3)
            joining = asyncio.create_task(engine.generate(GenerateRequest(some_ids(20), greedy(5))))
            async with asyncio.timeout(10):
                results = await asyncio.gather(running, joining, return_exceptions=True)
        assert [type(result) for result in results] == [EngineUnavailableError] * 2
        later = await engine.generate(GenerateRequest(some_ids(20), greedy(5)))
    assert later.token_ids == plain_greedy(model, some_ids(20), 5)


async def test_numbers_that_are_not_finite_stay_with_their_request() -> None:
    """A model that overflows on one chain must not spoil the chains beside or after it."""
    model = tiny_llama(tie_word_embeddings=False)
    with torch.no_grad():
        next(model.parameters())[POISON] = torch.nan  # the embedding
    poisoned = [POISON, *some_ids(60)]

    async def attempt(engine: InProcessEngine) -> None:
        with pytest.raises(EngineError, match="not finite"):
            await engine.generate(GenerateRequest(poisoned, greedy(50)))

    async with serving(model) as engine:
        running = [
            asyncio.create_task(engine.generate(GenerateRequest(some_ids(100 + i), greedy(40))))
            for i in range(3)
        ]
        await asyncio.gather(*(attempt(engine) for _ in range(3)))
        after = [engine.generate(GenerateRequest(some_ids(5 + i), greedy(10))) for i in range(6)]
        completions = await asyncio.gather(*running, *after)
    expected = [plain_greedy(model, some_ids(100 + i), 40) for i in range(3)]
    expected += [plain_greedy(model, some_ids(5 + i), 10) for i in range(6)]
    assert [c.token_ids for c in completions] == expected


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_if_the_engines_thread_dies_no_caller_hangs(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(_self: Batcher) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(Batcher, "step", step)
    async with serving(model) as engine, asyncio.timeout(10):
        with pytest.raises(EngineGoneError, match="unforeseen"):
            await engine.generate(GenerateRequest(some_ids(5), greedy(5)))
        with pytest.raises(EngineGoneError, match="unforeseen"):
            await engine.generate(GenerateRequest(some_ids(5), greedy(5)))


async def test_long_requests_do_not_keep_short_ones_waiting_for_ever(
    model: PreTrainedModel,
) -> None:
    """A steady stream of other lengths must not hold back a request that was there first."""
    async with serving(model, cache_tokens=0) as engine:
        odd = asyncio.create_task(engine.score(ScoreRequest(some_ids(4), 1)))
        finished_before = 0
        for i in range(5):
            batch = [
                engine.score(ScoreRequest(some_ids(200, seed=20 * i + j), 1)) for j in range(20)
            ]
            await asyncio.gather(*batch)
            finished_before += not odd.done()
        scored = await odd
    assert finished_before == 0
    assert np.abs(scored.logprobs - plain_scores(model, some_ids(4), 1)).max() < 1e-4


async def test_a_full_context_is_reached_turn_by_turn(model: PreTrainedModel) -> None:
    chain = some_ids(30)
    async with serving(model) as engine:
        while len(chain) < CONTEXT:
            chain += (await engine.generate(GenerateRequest(chain, greedy(50)))).token_ids
    assert tuple(chain[30:]) == plain_greedy(model, some_ids(30), CONTEXT - 30)
