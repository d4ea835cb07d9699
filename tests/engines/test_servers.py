"""What the engines of SGLang and vLLM make of servers old and new, and of wrong replies."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from aiohttp import web
from engines.stand_ins import (
    SGLangStandIn,
    StandIn,
    VllmStandIn,
    VllmVersion,
    serve_stand_in,
    serving,
)
from engines.tiny import END, VOCABULARY, greedy, plain_greedy, plain_scores, some_ids, tiny_llama
from transformers import PreTrainedModel

from atts.config import ModelOptions
from atts.engines.base import GenerateRequest, ScoreRequest
from atts.engines.http import HttpClient
from atts.engines.loading import load_engine, remote_engines
from atts.engines.remote import RemoteEngine
from atts.engines.sglang import SGLangEngine
from atts.engines.vllm import Scoring, VllmEngine
from atts.errors import (
    ConfigError,
    EngineConnectionError,
    EngineReplyError,
    EngineTimeoutError,
    EngineUnavailableError,
)
from atts.models.model_files import vocabulary_size

Json = Any

KINDS: dict[str, tuple[type[RemoteEngine], Callable[[PreTrainedModel], StandIn]]] = {
    "sglang": (SGLangEngine, SGLangStandIn),
    "vllm": (VllmEngine, lambda model: VllmStandIn(model, "v1")),
}


@pytest.fixture(scope="module")
def tiny() -> PreTrainedModel:
    return tiny_llama(eos_token_id=END)


def engine_for(url: str, kind: str, timeout_seconds: float = 30.0) -> RemoteEngine:
    options = ModelOptions.model_validate({"model": "tiny", "engine": kind})
    client = HttpClient(url, "tiny", timeout_seconds=timeout_seconds)
    return KINDS[kind][0](client, options, VOCABULARY, frozenset({END}))


@pytest.mark.parametrize(
    ("version", "scoring", "remark"),
    [
        ("v2", Scoring.TOKEN_IDS, None),
        ("v1", Scoring.PROMPT_LOGPROBS, None),
        ("v1-nan", Scoring.PROMPT_LOGPROBS, None),  # rows without meaning may be no JSON
        ("0.26", Scoring.PROMPT_LOGPROBS, None),
        ("no-details", Scoring.RECOMPUTED, "--enable-prompt-tokens-details"),
        ("completions", Scoring.COMPLETIONS, "--enable-scale-out"),
    ],
)
async def test_the_best_way_that_a_vllm_server_knows_is_used(
    tiny: PreTrainedModel, version: VllmVersion, scoring: Scoring, remark: str | None
) -> None:
    async with serve_stand_in(VllmStandIn(tiny, version)) as server:
        engine = engine_for(server.url, "vllm")
        facts = await engine.connect()
        assert facts.scoring == scoring.value
        assert [remark in known for known in facts.remarks] == [True] if remark else not facts[-1]
        ids = some_ids(60)
        for start in (32, 20):  # 32: the cached blocks may end exactly there
            expected = plain_scores(tiny, ids, start)
            for _ in range(2):  # the second time, more is cached than may be
                scored = await engine.score(ScoreRequest(ids, start))
                assert np.abs(scored.logprobs - expected).max() < 1e-4
        completion = await engine.generate(GenerateRequest(ids, greedy(12)))
        assert completion.token_ids == plain_greedy(tiny, ids, 12)
        await engine.aclose()


async def test_sglang_requests_have_ids_of_one_length(tiny: PreTrainedModel) -> None:
    async with serve_stand_in(SGLangStandIn(tiny)) as server:
        engine = engine_for(server.url, "sglang")
        await asyncio.gather(
            *(engine.generate(GenerateRequest(some_ids(9), greedy(2))) for _ in range(20))
        )
        rids = {request["rid"] for request in server.requests}
        assert len(rids) == 20
        assert {len(rid) for rid in rids} == {32}
        await engine.aclose()


@asynccontextmanager
async def spoiled(
    tiny: PreTrainedModel, kind: str, spoil: Callable[[Json], Json], seconds: float = 30.0
) -> AsyncIterator[RemoteEngine]:
    """A server whose replies to requests, but not to probes, go through ``spoil``."""
    stand_in = KINDS[kind][1](tiny)
    spoiling = False

    @web.middleware
    async def middleware(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        reply = await handler(request)
        if not spoiling or not request.path.endswith("/generate"):
            return reply
        assert isinstance(reply, web.Response)
        assert isinstance(reply.body, bytes)
        tree = spoil(orjson.loads(reply.body))
        if tree == "hang":
            await asyncio.sleep(60)
        return web.json_response(tree)

    app = web.Application(middlewares=[middleware])
    app.add_routes(
        [
            web.RouteDef(r.method, r.resource.canonical, r.handler, {})
            for r in stand_in.app.router.routes()
            if r.resource and r.method != "HEAD"
        ]
    )
    async with serving(app) as url:
        engine = engine_for(url, kind, seconds)
        await engine.connect()
        spoiling = True
        try:
            yield engine
        finally:
            await engine.aclose()
            await stand_in.engine.aclose()


def without(key: str, *path: str | int) -> Callable[[Json], Json]:
    """Take a key out of the mapping at a path."""

    def spoil(tree: Json) -> Json:
        place = tree
        for step in path:
            place = place[step]
        place[key] = None
        return tree

    return spoil


def shorter(*path: str | int) -> Callable[[Json], Json]:
    """Leave the list at a path with two entries, the first of which has no logprob."""

    def spoil(tree: Json) -> Json:
        place = tree
        for step in path:
            place = place[step]
        del place[2:]
        return tree

    return spoil


def sglang_null(tree: Json) -> Json:
    tree["meta_info"]["input_token_logprobs"][3][0] = None
    return tree


def sglang_other_tokens(tree: Json) -> Json:
    tree["meta_info"]["input_token_logprobs"][3][1] += 1
    return tree


def sglang_positive(tree: Json) -> Json:
    tree["meta_info"]["input_token_logprobs"][3][0] = 2.5
    return tree


def vllm_null(tree: Json) -> Json:
    for entry in tree["prompt_logprobs"][-1].values():
        entry["logprob"] = None
    return tree


LOGPROBS = ("meta_info", "input_token_logprobs")


@pytest.mark.parametrize(
    ("kind", "spoil", "says"),
    [
        ("sglang", without(LOGPROBS[1], "meta_info"), "no input_token_logprobs, 31 were asked"),
        ("sglang", shorter(*LOGPROBS), "2 input_token_logprobs, 31 were asked for"),
        ("sglang", sglang_null, "null"),
        ("sglang", sglang_other_tokens, "other tokens"),
        ("sglang", sglang_positive, "above zero"),
        ("sglang", without("finish_reason", "meta_info"), "finish_reason"),
        ("sglang", lambda _: [], "finish_reason"),
        ("vllm", without("prompt_logprobs"), "too few rows; 30 were asked for"),
        ("vllm", shorter("prompt_logprobs"), "too few rows; 30 were asked for"),
        ("vllm", vllm_null, "null"),
        ("vllm", lambda _: None, "too few rows"),
    ],
)
async def test_scores_that_are_none_are_refused(
    tiny: PreTrainedModel, kind: str, spoil: Callable[[Json], Json], says: str
) -> None:
    async with spoiled(tiny, kind, spoil) as engine:
        with pytest.raises(EngineReplyError, match=says):
            await engine.score(ScoreRequest(some_ids(50), 20))


@pytest.mark.parametrize(
    ("kind", "spoil", "says"),
    [
        ("sglang", without("output_ids"), "no output_ids"),
        ("vllm", without("token_ids", "choices", 0), "no token_ids"),
        ("vllm", without("finish_reason", "choices", 0), "finish_reason"),
        ("vllm", lambda _: {}, "no token_ids"),
    ],
)
async def test_texts_that_are_none_are_refused(
    tiny: PreTrainedModel, kind: str, spoil: Callable[[Json], Json], says: str
) -> None:
    async with spoiled(tiny, kind, spoil) as engine:
        with pytest.raises(EngineReplyError, match=says):
            await engine.generate(GenerateRequest(some_ids(20), greedy(4)))


async def test_a_last_token_that_is_none_is_refused_where_an_end_is_told_by_it(
    tiny: PreTrainedModel,
) -> None:
    def spoil(tree: Json) -> Json:
        choice = tree["choices"][0] | {"finish_reason": "stop", "token_ids": [5, [6]]}
        del choice["stop_reason"]
        return tree | {"choices": [choice]}

    async with spoiled(tiny, "vllm", spoil) as engine:
        with pytest.raises(EngineReplyError):
            await engine.generate(GenerateRequest(some_ids(20), replace(greedy(4), stop=("x",))))


@pytest.mark.parametrize("kind", list(KINDS))
async def test_a_server_that_gives_a_request_up_is_asked_again(
    tiny: PreTrainedModel, kind: str
) -> None:
    def give_up(tree: Json) -> Json:
        if kind == "sglang":
            tree["meta_info"]["finish_reason"] = {"type": "abort", "message": "shutting down"}
        else:
            tree["choices"][0]["finish_reason"] = "abort"
        return tree

    async with spoiled(tiny, kind, give_up) as engine:
        with pytest.raises(EngineUnavailableError, match="gave"):
            await engine.generate(GenerateRequest(some_ids(20), greedy(4)))


async def test_sglang_aborts_what_took_too_long(tiny: PreTrainedModel) -> None:
    async with spoiled(tiny, "sglang", lambda _: "hang", seconds=0.3) as engine:
        with pytest.raises(EngineTimeoutError):
            await engine.generate(GenerateRequest(some_ids(20), greedy(4)))


@pytest.mark.parametrize("kind", list(KINDS))
async def test_another_model_than_configured_is_refused(tiny: PreTrainedModel, kind: str) -> None:
    async with serve_stand_in(KINDS[kind][1](tiny)) as server:
        options = ModelOptions.model_validate({"model": "Qwen/QwQ-32B", "engine": kind})
        engine = KINDS[kind][0](HttpClient(server.url, "x"), options, VOCABULARY, frozenset({END}))
        with pytest.raises(
            ConfigError, match="tiny', and the configuration says Qwen/QwQ"
        ) as caught:
            await engine.generate(GenerateRequest(some_ids(5), greedy(1)))
        assert "start a server of that model" in str(caught.value)
        assert "served_as to" not in str(caught.value)  # it would run the wrong model
        await engine.aclose()
        options = options.model_copy(update={"served_as": "tiny"})
        engine = KINDS[kind][0](HttpClient(server.url, "x"), options, VOCABULARY, frozenset({END}))
        await engine.generate(GenerateRequest(some_ids(5), greedy(1)))
        await engine.aclose()


def remote(**changes: Json) -> ModelOptions:
    tree = {"model": "bundled/draft", "engine": "vllm", "served_as": "tiny"}
    return ModelOptions.model_validate(tree | changes)


async def test_one_of_several_servers_is_enough_to_begin_with(tiny: PreTrainedModel) -> None:
    nobody = "http://127.0.0.1:9"
    async with serve_stand_in(VllmStandIn(tiny, "v1")) as server:
        engine = await load_engine(remote(urls=(nobody, server.url)))
        for _ in range(4):
            await engine.generate(GenerateRequest(some_ids(5), greedy(1)))
        await engine.aclose()
    with pytest.raises(EngineConnectionError, match="is the server running"):
        await load_engine(remote(urls=(nobody, nobody)))


def test_the_api_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("A_KEY", raising=False)
    with pytest.raises(ConfigError, match="A_KEY"):
        remote_engines(remote(api_key_env="A_KEY"))
    monkeypatch.setenv("A_KEY", "secret")
    assert len(remote_engines(remote(api_key_env="A_KEY"))) == 1


def test_the_vocabulary_is_read_from_the_models_own_configuration() -> None:
    assert vocabulary_size(remote().model) == 512
    with pytest.raises(ConfigError, match="there is no such folder"):
        vocabulary_size("/no/such/model")
