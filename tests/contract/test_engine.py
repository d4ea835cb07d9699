"""What every engine must do, whatever serves the model behind it.

An engine joins by a line in ``SERVED``: a context in which it serves a model. What is right is
decided by plain transformers. The servers of vLLM and SGLang are stand-ins that speak their
protocols; with ``ATTS_VLLM_URLS``, ``ATTS_SGLANG_URLS`` or ``ATTS_OPENAI_URLS`` (``MODEL=URL``,
separated by spaces) real servers join.
"""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from engines.gguf import write_gguf
from engines.stand_ins import (
    Characters,
    OllamaStandIn,
    OpenAIKind,
    OpenAIStandIn,
    SGLangStandIn,
    StandIn,
    VllmStandIn,
    VllmVersion,
    serve_stand_in,
)
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

from atts.config import EngineName, ModelOptions
from atts.engines.base import Completion, Engine, GenerateRequest, Sampling, Scored, ScoreRequest
from atts.engines.http import HttpClient
from atts.engines.inprocess.engine import InProcessEngine, load_model
from atts.engines.loading import remote_engines
from atts.engines.openai import OpenAIEngine
from atts.engines.sglang import SGLangEngine
from atts.engines.vllm import VllmEngine
from atts.errors import ContextLengthError, EmptyInputError, EngineError, TokenIdError
from atts.models.model_files import model_path
from atts.models.prompts import Tokenizer

Serve = Callable[[PreTrainedModel], AbstractAsyncContextManager["Served"]]
InFlight = Callable[[], Awaitable[int | None]]


def as_characters(ids: list[int]) -> str:
    return "".join(map(chr, ids))


class Served(NamedTuple):
    """A model behind an engine, and what is known of it."""

    name: str
    engine: Engine
    model: PreTrainedModel
    vocabulary: int
    context: int
    longest_scored: int
    """Servers need room for a token after what they score."""
    tolerance: float = 1e-4
    """Between log-probabilities, in nats."""
    text: Callable[[list[int]], str] = as_characters
    block: int = 16
    """Engines keep prefixes in blocks; so many tokens may be missing from what they reuse."""
    in_flight: InFlight | None = None
    """How many requests the server works on; None where there is no server."""
    computed: Callable[[], Awaitable[int]] | None = None
    """How many prompt tokens the server has computed, by its own count, over all requests."""
    scores: bool = True
    """Whether it can be a target."""
    reuses: bool = True
    """Whether scores read the prefix cache, and the server tells of it."""
    logprobs: bool = True
    """Whether it gives log-probabilities of what it writes."""
    top: bool = True
    """Whether it gives the largest at each position."""


@asynccontextmanager
async def in_process(tiny: PreTrainedModel) -> AsyncIterator[Served]:
    engine = InProcessEngine(tiny, cache_tokens=10_000, decode=as_characters)
    try:
        yield Served("inprocess", engine, tiny, VOCABULARY, CONTEXT, CONTEXT)
    finally:
        await engine.aclose()


@asynccontextmanager
async def llamacpp(tiny: PreTrainedModel) -> AsyncIterator[Served]:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is compiled by its users")
    from atts.engines.llamacpp import LlamaCppEngine

    with TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.gguf"
        write_gguf(tiny, path)
        engine = LlamaCppEngine(
            path, frozenset({END}), as_characters, cells=10_000, threads=1, exact=True
        )
        try:
            yield Served("llamacpp", engine, tiny, VOCABULARY, CONTEXT, CONTEXT)
        finally:
            await engine.aclose()


@asynccontextmanager
async def behind(
    kind: EngineName, serve: Callable[[PreTrainedModel], StandIn], tiny: PreTrainedModel
) -> AsyncIterator[Served]:
    """A stand-in for a server, and the engine for it."""
    async with serve_stand_in(serve(tiny)) as server:
        options = ModelOptions(model="tiny", engine=kind)
        make = {"sglang": SGLangEngine, "vllm": VllmEngine}[kind]
        engine = make(
            HttpClient(server.url, "tiny", timeout_seconds=30),
            options,
            VOCABULARY,
            frozenset({END}),
        )
        try:
            yield Served(
                kind,
                engine,
                tiny,
                VOCABULARY,
                CONTEXT,
                CONTEXT - (7 if kind == "sglang" else 1),
                in_flight=engine.in_flight,
                computed=server.count_computed,
                top=kind != "vllm",
            )
        finally:
            await engine.aclose()


@asynccontextmanager
async def behind_openai(
    serve: Callable[[PreTrainedModel], StandIn],
    tiny: PreTrainedModel,
    scores: bool = False,
    logprobs: bool = False,
) -> AsyncIterator[Served]:
    """A stand-in for a server of OpenAI's protocol."""
    async with serve_stand_in(serve(tiny)) as server:
        engine = OpenAIEngine(
            HttpClient(server.url, "tiny", timeout_seconds=30),
            ModelOptions(model="tiny", engine="openai", urls=(server.url,)),
            VOCABULARY,
            frozenset({END}),
            Characters(),
            CONTEXT,
        )
        tells = isinstance(server, OpenAIStandIn) and server.kind == "llama.cpp"
        try:
            yield Served(
                "openai",
                engine,
                tiny,
                VOCABULARY,
                CONTEXT,
                CONTEXT - 1,
                in_flight=engine.in_flight if tells else None,
                scores=scores,
                reuses=False,
                logprobs=logprobs,
                top=False,
            )
        finally:
            await engine.aclose()


def openai(kind: OpenAIKind, scores: bool = False, logprobs: bool = False) -> Serve:
    return partial(
        behind_openai, partial(OpenAIStandIn, kind=kind), scores=scores, logprobs=logprobs
    )


@asynccontextmanager
async def real(kind: EngineName, model: str, url: str, _: PreTrainedModel) -> AsyncIterator[Served]:
    """A real server of a bundled model, with float32 weights."""
    options = ModelOptions(model=model, engine=kind, urls=(url,))
    (engine,) = remote_engines(options)
    plain = load_model(ModelOptions(model=model, device="cpu"), model_path(model))
    tokenizer = Tokenizer.load(options)
    context = plain.config.max_position_embeddings

    async def metric(pattern: str) -> int:
        text = await engine.client.get_text("/metrics")
        return sum(int(float(found)) for found in re.findall(f"^{kind}:{pattern}", text, re.M))

    async def computed() -> int:
        cached = "cached_tokens_total" if kind == "sglang" else "prompt_tokens_cached_total"
        sent = await metric(r"prompt_tokens_total{.*} (.*)$")
        return sent - await metric(cached + r"{.*} (.*)$")

    block = (
        r"page_size{.*} (.*)$" if kind == "sglang" else r'cache_config_info{.*\bblock_size="(\d+)"'
    )
    try:
        yield Served(
            f"{kind} {(await engine.connect()).version}",
            engine,
            plain,
            engine.vocab_size,
            context,
            context - (7 if kind == "sglang" else 1),
            tolerance=1e-3,
            block=await metric(block),
            text=tokenizer.decode,
            in_flight=engine.in_flight,
            computed=computed,
            top=kind != "vllm",
        )
    finally:
        await engine.aclose()


@asynccontextmanager
async def real_openai(model: str, url: str, _: PreTrainedModel) -> AsyncIterator[Served]:
    """A real server of OpenAI's protocol that takes token ids, with float32 weights of a bundled
    model.
    """
    options = ModelOptions(model=model, engine="openai", urls=(url,))
    (engine,) = remote_engines(options)
    plain = load_model(ModelOptions(model=model, device="cpu"), model_path(model))
    context = plain.config.max_position_embeddings
    facts = await engine.connect()
    print(facts)  # noqa: T201
    try:
        yield Served(
            f"openai {facts.version}",
            engine,
            plain,
            engine.vocab_size,
            context,
            context - 1,
            tolerance=1e-3,
            text=Tokenizer.load(options).decode,
            in_flight=engine.in_flight if await engine.in_flight() is not None else None,
            scores=engine.cannot_score is None,
            reuses=False,
            top=False,
        )
    finally:
        await engine.aclose()


def vllm(version: VllmVersion) -> Callable[[PreTrainedModel], AbstractAsyncContextManager[Served]]:
    return partial(behind, "vllm", partial(VllmStandIn, version=version))


REAL: dict[str, EngineName] = {"ATTS_VLLM_URLS": "vllm", "ATTS_SGLANG_URLS": "sglang"}
SERVED: dict[str, Serve] = {
    "inprocess": in_process,
    "llamacpp": llamacpp,
    "sglang": partial(behind, "sglang", SGLangStandIn),
    "vllm": vllm("v2"),
    "vllm-0.26": vllm("0.26"),
    "llama.cpp-server": openai("llama.cpp", logprobs=True),
    "openai-text": openai("text"),
    "openai-echo": openai("echo", scores=True),
    "openai-prompt-logprobs": openai("prompt_logprobs", scores=True, logprobs=True),
    "openai-vllm": partial(
        behind_openai, partial(VllmStandIn, version="completions"), scores=True, logprobs=True
    ),
    "ollama": partial(behind_openai, OllamaStandIn),
}
for variable, server in REAL.items():
    for pair in os.environ.get(variable, "").split():
        name, _, address = pair.partition("=")
        SERVED[f"real-{server}-{name}"] = partial(real, server, name, address)


for pair in os.environ.get("ATTS_OPENAI_URLS", "").split():
    name, _, address = pair.partition("=")
    SERVED[f"real-openai-{name}"] = partial(real_openai, name, address)


@pytest.fixture(scope="session")
def tiny() -> PreTrainedModel:
    return tiny_llama(eos_token_id=END)


@pytest.fixture(params=list(SERVED))
async def served(request: pytest.FixtureRequest, tiny: PreTrainedModel) -> AsyncIterator[Served]:
    async with SERVED[request.param](tiny) as served:
        yield served


@pytest.fixture
def engine(served: Served) -> Engine:
    return served.engine


@pytest.fixture
def reference(served: Served) -> PreTrainedModel:
    return served.model


def needs(has: bool, what: str) -> None:
    if not has:
        pytest.skip(f"this engine {what}")


def new_ids(length: int) -> list[int]:
    """A prompt that no server has seen, not even in an earlier session of tests."""
    return some_ids(length, seed=time.time_ns())


async def endless(engine: Engine, max_tokens: int = 200) -> Sampling:
    """A way to continue ``some_ids(20)`` that does not meet an end-of-sequence."""
    for temperature in (1.0, 2.0):  # hotter where the model would rather stop; vLLM ends at 2
        ways = [
            replace(sampled(max_tokens, seed), temperature=temperature, top_p=1.0)
            for seed in range(25)
        ]
        completions = await asyncio.gather(
            *(engine.generate(GenerateRequest(some_ids(20), way)) for way in ways)
        )
        for way, completion in zip(ways, completions, strict=True):
            if completion.finish_reason == "length":
                return way
    raise AssertionError("every text came to its own end")


async def test_text_ends_at_the_limit_or_before_the_end_of_sequence(engine: Engine) -> None:
    requests = [
        engine.generate(GenerateRequest(some_ids(10), sampled(40, seed))) for seed in range(40)
    ]
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
    completion = await engine.generate(GenerateRequest(some_ids(10), greedy(max_tokens)))
    assert len(completion.token_ids) == max_tokens
    assert completion.finish_reason == "length"


async def test_text_ends_where_the_context_is_full(served: Served) -> None:
    # A server may keep a token or more of the context for itself.
    ids = some_ids(served.longest_scored - 3)
    completion = await served.engine.generate(GenerateRequest(ids, greedy(50)))
    assert 3 <= len(completion.token_ids) <= served.context - len(ids)
    assert completion.finish_reason == "length"


async def test_an_end_at_the_very_limit_is_an_end(served: Served) -> None:
    for seed in range(200):
        way = sampled(60, seed)
        whole = await served.engine.generate(GenerateRequest(some_ids(10), way))
        if whole.finish_reason == "stop" and whole.token_ids:
            break
    limited = replace(way, max_tokens=len(whole.token_ids) + 1)
    again = await served.engine.generate(GenerateRequest(some_ids(10), limited))
    assert again.finish_reason == whole.finish_reason == "stop"
    assert again.token_ids == whole.token_ids


async def test_moments_of_a_request_are_in_order(served: Served, engine: Engine) -> None:
    moments = [(await engine.generate(GenerateRequest(some_ids(10), greedy(5)))).timings]
    if served.scores:
        moments.append((await engine.score(ScoreRequest(some_ids(10), 5))).timings)
    for t in moments:
        assert t.queued <= t.started <= t.first_token <= t.done


async def test_the_seed_decides_the_text(engine: Engine) -> None:
    ids = some_ids(30)
    first = [
        (await engine.generate(GenerateRequest(ids, sampled(20, seed)))).token_ids
        for seed in range(5)
    ]
    again = await asyncio.gather(
        *(engine.generate(GenerateRequest(ids, sampled(20, seed))) for seed in range(5))
    )
    assert [c.token_ids for c in again] == first
    assert len(set(first)) == 5


async def test_temperature_zero_takes_the_likeliest_token(
    engine: Engine, reference: PreTrainedModel
) -> None:
    prompts = [some_ids(length) for length in (1, 2, 15, 16, 17, 100)]
    completions = await asyncio.gather(
        *(engine.generate(GenerateRequest(p, greedy(30))) for p in prompts)
    )
    expected = [plain_greedy(reference, prompt, 30) for prompt in prompts]
    assert [c.token_ids for c in completions] == expected


@pytest.mark.parametrize("start", [1, 2, 16, 17, 59])
async def test_scores_are_those_of_a_plain_forward_pass(
    served: Served, engine: Engine, reference: PreTrainedModel, start: int
) -> None:
    needs(served.scores, "cannot be a target")
    ids = some_ids(60)
    expected = plain_scores(reference, ids, start)
    for _ in range(2):  # the second time, everything before start may be cached
        scored = await engine.score(ScoreRequest(ids, start))
        assert scored.logprobs.shape == (60 - start,)
        assert np.abs(scored.logprobs - expected).max() < served.tolerance


async def test_the_largest_log_probabilities_are_those_of_a_plain_forward_pass(
    served: Served, engine: Engine, reference: PreTrainedModel
) -> None:
    needs(served.scores, "cannot be a target")
    ids = some_ids(40)
    scored = await engine.score(ScoreRequest(ids, 30, top=3))
    plain = await engine.score(ScoreRequest(ids, 30))
    assert np.abs(scored.logprobs - plain.logprobs).max() < served.tolerance
    assert plain.top is None
    if not served.top:
        assert scored.top is None
        return
    assert scored.top is not None
    with torch.inference_mode():
        logits = reference(input_ids=torch.tensor([ids], device=reference.device)).logits
    expected = logits[0, 29:39].float().log_softmax(dim=-1).topk(3).values.cpu().numpy()
    assert np.abs(scored.top - expected).max() < served.tolerance


async def test_what_is_written_has_log_probabilities_where_they_are_asked_for(
    served: Served, engine: Engine, reference: PreTrainedModel
) -> None:
    """At temperature 1, whatever the temperature; none for the end-of-sequence."""
    needs(served.logprobs, "does not tell them")
    ids, ends = some_ids(30), set[str]()
    for seed in range(120):
        if seed >= 12 and len(ends) == 2:
            break
        way = replace(sampled(20, seed), temperature=1.0, top_p=1.0)
        if seed % 2 and not isinstance(engine, SGLangEngine):  # which may not know how
            way = replace(way, temperature=0.7)
        plain = await engine.generate(GenerateRequest(ids, way))
        assert plain.logprobs is None
        completion = await engine.generate(GenerateRequest(ids, way, logprobs=True))
        assert completion[:2] == plain[:2]
        ends.add(completion.finish_reason)
        assert completion.logprobs is not None
        assert len(completion.logprobs) == len(completion.token_ids)
        if completion.token_ids:
            whole = [*ids, *completion.token_ids]
            expected = plain_scores(reference, whole, len(ids))
            assert np.abs(np.array(completion.logprobs) - expected).max() < served.tolerance
    assert ends == {"stop", "length"}


async def test_every_token_of_the_vocabulary_can_be_scored(served: Served) -> None:
    needs(served.scores, "cannot be a target")
    ids = [*some_ids(20), *range(served.vocabulary - 30, served.vocabulary), 7]
    scored = await served.engine.score(ScoreRequest(ids, 20))
    assert np.abs(scored.logprobs - plain_scores(served.model, ids, 20)).max() < served.tolerance


async def test_a_whole_context_can_be_scored(served: Served) -> None:
    needs(served.scores, "cannot be a target")
    ids = some_ids(served.longest_scored)
    scored = await served.engine.score(ScoreRequest(ids, 200))
    assert np.abs(scored.logprobs - plain_scores(served.model, ids, 200)).max() < served.tolerance


async def test_a_chain_reuses_what_it_sent_the_turn_before(
    served: Served, engine: Engine, reference: PreTrainedModel
) -> None:
    needs(served.reuses, "tells of no cache")
    chain = new_ids(40)
    sent = 0
    for turn in range(4):
        drafted = some_ids(12, seed=turn)
        scored = await engine.score(ScoreRequest(chain + drafted, len(chain)))
        assert scored.cached_tokens >= sent - served.block
        assert scored.cached_tokens <= len(chain)
        expected = plain_scores(reference, chain + drafted, len(chain))
        assert np.abs(scored.logprobs - expected).max() < served.tolerance
        chain += drafted
        completion = await engine.generate(GenerateRequest(chain, greedy(10)))
        assert len(chain) - served.block <= completion.cached_tokens < len(chain)
        assert completion.token_ids == plain_greedy(reference, chain, 10)
        sent = len(chain)
        chain += completion.token_ids


async def test_nothing_is_cached_of_a_prompt_that_was_never_sent(
    served: Served, engine: Engine
) -> None:
    by_chance = 2  # ids with which one that was sent may begin, too: the vocabulary is small
    completion = await engine.generate(GenerateRequest(new_ids(50), greedy(2)))
    assert completion.cached_tokens <= by_chance
    if not served.scores:
        return
    assert (await engine.score(ScoreRequest(new_ids(70), 60))).cached_tokens <= by_chance


async def test_cancelling_a_request_leaves_the_others_as_they_are(engine: Engine) -> None:
    way = await endless(engine)
    alone = [
        await engine.generate(GenerateRequest(some_ids(30 + i), sampled(60, i))) for i in range(5)
    ]
    cancelled = [
        asyncio.create_task(engine.generate(GenerateRequest(some_ids(20), way))) for _ in range(5)
    ]
    others = [
        asyncio.create_task(engine.generate(GenerateRequest(some_ids(30 + i), sampled(60, i))))
        for i in range(5)
    ]
    await asyncio.sleep(0.02)
    cancelled = [task for task in cancelled if not task.done()]  # a tiny model may be faster
    assert cancelled
    for task in cancelled:
        task.cancel()
    results = await asyncio.gather(*cancelled, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    completions = await asyncio.gather(*others)
    assert [c.token_ids for c in completions] == [c.token_ids for c in alone]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda s: s.engine.generate(GenerateRequest([], greedy(5))), EmptyInputError),
        (lambda s: s.engine.score(ScoreRequest([], 1)), EmptyInputError),
        (lambda s: s.engine.generate(GenerateRequest([5, -1], greedy(5))), TokenIdError),
        (lambda s: s.engine.generate(GenerateRequest([5, s.vocabulary], greedy(5))), TokenIdError),
        (lambda s: s.engine.score(ScoreRequest([5, s.vocabulary, 6], 1)), TokenIdError),
        (lambda s: s.engine.score(ScoreRequest(some_ids(10), 0)), EmptyInputError),
        (lambda s: s.engine.score(ScoreRequest(some_ids(10), 10)), EmptyInputError),
        (lambda s: s.engine.score(ScoreRequest(some_ids(10), -1)), EmptyInputError),
        (
            lambda s: s.engine.generate(GenerateRequest(some_ids(s.context), greedy(5))),
            ContextLengthError,
        ),
        (
            lambda s: s.engine.score(ScoreRequest(some_ids(s.longest_scored + 1), 5)),
            ContextLengthError,
        ),
    ],
)
async def test_a_wrong_request_fails_alone(
    served: Served,
    engine: Engine,
    reference: PreTrainedModel,
    wrong: Callable[[Served], Any],
    error: type[EngineError],
) -> None:
    others = [
        asyncio.create_task(engine.generate(GenerateRequest(some_ids(20 + i), greedy(10))))
        for i in range(2)
    ]
    await asyncio.sleep(0)
    with pytest.raises(error):
        await wrong(served)
    completions = await asyncio.gather(*others)
    expected = [plain_greedy(reference, some_ids(20 + i), 10) for i in range(2)]
    assert [c.token_ids for c in completions] == expected


async def test_many_calls_of_all_kinds_at_once(
    served: Served, engine: Engine, reference: PreTrainedModel
) -> None:
    async def check(i: int) -> None:
        ids = some_ids(5 + 7 * (i % 13), seed=i % 5)
        if i % 2 or not served.scores:
            completion = await engine.generate(GenerateRequest(ids, greedy(1 + i % 25)))
            assert completion.token_ids == plain_greedy(reference, ids, 1 + i % 25)
        else:
            scored: Scored = await engine.score(ScoreRequest(ids, 1 + i % (len(ids) - 1)))
            expected = plain_scores(reference, ids, 1 + i % (len(ids) - 1))
            assert np.abs(scored.logprobs - expected).max() < served.tolerance

    results = await asyncio.gather(*(check(i) for i in range(50)), return_exceptions=True)
    assert results == [None] * 50


async def test_closing_fails_what_is_in_flight_and_what_comes_after(
    served: Served, engine: Engine
) -> None:
    way = await endless(engine)
    tasks = [
        asyncio.create_task(engine.generate(GenerateRequest(some_ids(20), way))) for _ in range(10)
    ]
    await asyncio.sleep(0.01)
    tasks = [task for task in tasks if not task.done()]  # on a busy machine some may be
    assert tasks
    await engine.aclose()
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), timeout=10)
    assert all(isinstance(result, EngineError) for result in results)
    with pytest.raises(EngineError, match="closed"):
        await engine.generate(GenerateRequest(some_ids(5), greedy(5)))
    with pytest.raises(EngineError, match="closed" if served.scores else "closed|cannot be"):
        await engine.score(ScoreRequest(some_ids(5), 2))
    await engine.aclose()  # a second time does no harm


async def test_a_text_ends_after_a_stop_string(served: Served) -> None:
    ids = some_ids(20)
    whole = await served.engine.generate(GenerateRequest(ids, greedy(20)))
    text = served.text(list(whole.token_ids))
    stop = text[len(text) // 2 :][:2]
    stopped = await served.engine.generate(
        GenerateRequest(ids, replace(greedy(20), stop=(stop, "never there")))
    )
    assert stopped.finish_reason == "stop"
    kept = served.text(list(stopped.token_ids))
    assert text.startswith(kept)
    assert stop in kept
    assert stop not in served.text(list(stopped.token_ids[:-1]))


async def test_a_chain_of_ten_turns_is_computed_once(served: Served) -> None:
    needs(served.reuses, "tells of no cache")
    chain = new_ids(60)
    by_replies = 0
    before = await served.computed() if served.computed else 0
    for turn in range(10):
        drafted = new_ids(13 + turn % 3)
        scored = await served.engine.score(ScoreRequest(chain + drafted, len(chain)))
        expected = plain_scores(served.model, chain + drafted, len(chain))
        assert np.abs(scored.logprobs - expected).max() < served.tolerance
        by_replies += len(chain) + len(drafted) - scored.cached_tokens
        chain += drafted
    computed = await served.computed() - before if served.computed else by_replies
    print(  # noqa: T201
        f"{served.name}: {len(chain)} tokens, {computed} computed in 10 scores, in blocks of "
        f"{served.block}"
    )
    # Every token once; and in each turn after the first, again what the turn before left of a
    # block that was not full, or the one block whose last state predicts the first new token.
    assert len(chain) <= by_replies <= computed <= len(chain) + 9 * served.block


async def test_a_cancelled_request_is_aborted_on_the_server(served: Served) -> None:
    if served.in_flight is None:
        pytest.skip("this engine is not behind a server")
    way = await endless(served.engine)
    tasks = [
        asyncio.create_task(
            served.engine.generate(GenerateRequest(some_ids(20), replace(way, seed=way.seed)))
        )
        for _ in range(8)
    ]
    while await served.in_flight() != len(tasks):
        assert not any(task.done() for task in tasks)
        await asyncio.sleep(0.002)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(20):
        while await served.in_flight():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_two_hundred_chains_at_once(served: Served) -> None:
    async def turn(number: int) -> None:
        ids = some_ids(30 + number % 7, seed=number % 40)
        completion = await served.engine.generate(GenerateRequest(ids, sampled(6, number)))
        if not served.scores:
            return
        chain = [*ids, *completion.token_ids, 7, 8]
        scored = await served.engine.score(ScoreRequest(chain, len(chain) - 2))
        assert scored.logprobs.shape == (2,)
        assert (scored.logprobs <= 0).all()

    results = await asyncio.gather(*map(turn, range(200)), return_exceptions=True)
    assert results == [None] * 200
