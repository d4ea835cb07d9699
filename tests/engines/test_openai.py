"""Servers of OpenAI's protocol: what is found out of them, and what is made of their replies."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from engines.stand_ins import Characters, OllamaStandIn, OpenAIKind, OpenAIStandIn, serving
from engines.tiny import CONTEXT, END, VOCABULARY, greedy, sampled, some_ids, tiny_llama
from fakes import byte_tokenizer

from atts.config import ModelOptions, PromptOptions
from atts.engines import loading
from atts.engines.base import GenerateRequest, ScoreRequest
from atts.engines.checks import Check, check_model
from atts.engines.http import HttpClient
from atts.engines.openai import OLLAMA_CONTEXT, PROBE, OpenAIEngine
from atts.errors import (
    ConfigError,
    ContextLengthError,
    EngineReplyError,
    EngineServerError,
    RequestRefusedError,
)


def engine_at(url: str, context: int | None = CONTEXT, **options: Any) -> OpenAIEngine:  # noqa: ANN401
    named = {"model": "tiny", "engine": "openai", "urls": (url,)} | options
    return OpenAIEngine(
        HttpClient(url, "tiny", timeout_seconds=30),
        ModelOptions.model_validate(named),
        VOCABULARY,
        frozenset({END}),
        Characters(),
        context,
    )


@asynccontextmanager
async def served(kind: OpenAIKind) -> AsyncIterator[tuple[OpenAIStandIn, OpenAIEngine]]:
    server = OpenAIStandIn(tiny_llama(eos_token_id=END), kind)
    async with serving(server.app) as url:
        engine = engine_at(url)
        try:
            yield server, engine
        finally:
            await engine.aclose()
            await server.engine.aclose()


@asynccontextmanager
async def scripted(
    reply: dict[str, Any],
    path: str = "/v1/completions",
    **options: Any,  # noqa: ANN401
) -> AsyncIterator[OpenAIEngine]:
    """A server that gives one reply to every request, and counts the tokens of a probe right."""

    async def answer(request: web.Request) -> web.Response:
        prompt = (await request.json())["prompt"]
        counted = {"usage": {"prompt_tokens": len(prompt)}} if prompt == PROBE else {}
        status = reply.get("status", 200)
        if isinstance(prompt, list):
            status = 400
        return web.json_response(counted | reply, status=status)

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "tiny"}]})

    app = web.Application()
    app.router.add_post(path, answer)
    app.router.add_get("/v1/models", models)
    async with serving(app) as url:
        engine = engine_at(url, **options)
        try:
            yield engine
        finally:
            await engine.aclose()


def completion(text: str | None, reason: str | None = "stop") -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": reason}]}


@pytest.mark.parametrize(
    ("kind", "scoring", "remarks"),
    [
        ("llama.cpp", "none: it tells no usable log-probabilities of a given text", []),
        ("text", "none: it takes text alone", ["it takes text, not token ids", "it may sample by"]),
        ("echo", "echo with logprobs", ["every score computes the whole chain"]),
        ("prompt_logprobs", "prompt_logprobs", ["every score computes the whole chain"]),
        ("one off", "none: it tells no usable log-probabilities of a given text", []),
    ],
)
async def test_what_a_server_can_do_is_found_out(
    kind: OpenAIKind, scoring: str, remarks: list[str]
) -> None:
    async with served(kind) as (_, engine):
        facts = await engine.connect()
        assert facts.scoring.startswith(scoring)
        assert [
            a for a, b in zip(remarks, facts.remarks, strict=True) if b.startswith(a)
        ] == remarks
        assert facts.context_length == CONTEXT
        assert (engine.cannot_score is None) is not scoring.startswith("none")


async def test_log_probabilities_of_other_tokens_than_shown_are_refused() -> None:
    async with served("one off") as (_, engine):
        facts = await engine.connect()
        assert "nats off what it says of the same tokens while it writes them" in facts.scoring
        with pytest.raises(RequestRefusedError, match="cannot be a target"):
            await engine.score(ScoreRequest(some_ids(10), 5))


async def test_a_chat_template_around_the_prompt_is_refused() -> None:
    async with served("template") as (_, engine):
        with pytest.raises(ConfigError, match="it puts prompts into a chat template"):
            await engine.connect()


async def test_samplers_of_the_server_are_turned_off_where_it_knows_them() -> None:
    for kind, sent in (("llama.cpp", 0), ("echo", -1), ("text", None)):
        async with served(kind) as (server, engine):  # type: ignore[arg-type]
            await engine.generate(GenerateRequest(some_ids(10), sampled(4, 1)))
            body = server.bodies[-1]
            assert body.get("top_k") == sent
            assert body.get("min_p") == (None if sent is None else 0.0)
            assert (body["temperature"], body["top_p"], body["seed"]) == (1.0, 0.95, 1)


async def test_ids_are_sent_where_they_are_taken_and_text_elsewhere() -> None:
    ids = some_ids(10)
    for kind, sent in (("llama.cpp", ids), ("text", "".join(map(chr, ids)))):
        async with served(kind) as (server, engine):  # type: ignore[arg-type]
            await engine.generate(GenerateRequest(ids, greedy(4)))
            assert server.bodies[-1]["prompt"] == sent


async def test_a_beginning_that_the_server_adds_is_not_sent_twice() -> None:
    sent: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        prompt = (await request.json())["prompt"]
        if isinstance(prompt, list):
            raise web.HTTPBadRequest
        sent.append(prompt)
        return web.json_response(completion("7") | {"usage": {"prompt_tokens": len(prompt) + 1}})

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "tiny"}]})

    app = web.Application()
    app.router.add_post("/v1/completions", answer)
    app.router.add_get("/v1/models", models)
    async with serving(app) as url:
        engine = engine_at(url)
        await engine.generate(GenerateRequest([1, 50, 51], greedy(4)))
        assert sent[-1] == "23"
        await engine.generate(GenerateRequest([50, 1, 51], greedy(4)))  # in the middle it stays
        assert sent[-1] == "2\x013"
        await engine.aclose()


async def test_a_reply_that_is_longer_here_is_cut() -> None:
    async with scripted(completion("ABCDEF", "length")) as engine:
        done = await engine.generate(GenerateRequest(some_ids(10), greedy(4)))
    assert (done.token_ids, done.finish_reason) == (tuple(map(ord, "ABCD")), "length")
    async with scripted(completion("ABCDEF", "stop")) as engine:
        done = await engine.generate(GenerateRequest(some_ids(10), greedy(4)))
    assert (len(done.token_ids), done.finish_reason) == (4, "length")


@pytest.mark.parametrize(
    ("stop", "text", "reason"),
    [(("CD",), "ABCD", "stop"), (("F", "BC"), "ABC", "stop"), (("X",), "ABCDEF", "length")],
)
async def test_stop_strings_are_looked_for_here(
    stop: tuple[str, ...], text: str, reason: str
) -> None:
    async with scripted(completion("ABCDEF", "length")) as engine:
        request = GenerateRequest(some_ids(10), replace(greedy(9), stop=stop))
        done = await engine.generate(request)
    assert ("".join(map(chr, done.token_ids)), done.finish_reason) == (text, reason)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (completion("AB", None), "finish_reason"),
        (completion(None), "in place of a text"),
        ({"choices": []}, "0 choices for one prompt"),
        ({"choices": [{}, {}]}, "2 choices for one prompt"),
    ],
)
async def test_replies_are_checked(reply: dict[str, Any], reason: str) -> None:
    async with scripted(completion("AB")) as engine:
        await engine.connect()
        engine.client.post = lambda *_, **__: _give(reply)  # type: ignore[method-assign]
        with pytest.raises(EngineReplyError, match=reason):
            await engine.generate(GenerateRequest(some_ids(10), greedy(4)))


async def _give(reply: dict[str, Any]) -> dict[str, Any]:
    return reply


async def test_a_server_that_fails_is_not_taken_for_one_that_refuses() -> None:
    async with scripted({"status": 500}) as engine:
        with pytest.raises(EngineServerError):
            await engine.connect()
    async with scripted({"status": 401}) as engine:
        with pytest.raises(RequestRefusedError, match="api_key_env"):
            await engine.connect()
    async with scripted({"status": 400}) as engine:
        with pytest.raises(ConfigError, match="takes neither token ids nor text"):
            await engine.connect()


async def test_the_context_is_that_of_the_server_or_the_model_or_is_asked_for() -> None:
    async with scripted(completion("A")) as engine:
        assert (await engine.connect()).context_length == CONTEXT
    async with scripted(completion("A"), context=None) as engine:
        with pytest.raises(ConfigError, match=r"set server\.context_length"):
            await engine.connect()
    async with scripted(completion("A"), context=None, server={"context_length": 40}) as engine:
        assert (await engine.connect()).context_length == 40
        with pytest.raises(ContextLengthError):
            await engine.generate(GenerateRequest(some_ids(40), greedy(4)))


async def test_a_server_without_a_list_of_models_is_believed() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(completion("A"))

    app = web.Application()
    app.router.add_post("/v1/completions", answer)
    async with serving(app) as url:
        engine = engine_at(url, served_as="somebody/model")
        assert (await engine.connect()).model == "somebody/model"
        await engine.aclose()


async def test_ollama_is_asked_by_its_own_route() -> None:
    server = OllamaStandIn(tiny_llama(eos_token_id=END))
    async with serving(server.app) as url:
        engine = engine_at(url)
        facts = await engine.connect()
        assert facts.version == "Ollama 0.12.3"
        await engine.generate(GenerateRequest(some_ids(10), sampled(4, 1)))
        options = server.bodies[-1]["options"]
        assert (options["top_k"], options["min_p"], options["repeat_penalty"]) == (0, 0.0, 1.0)
        await engine.aclose()
        server.context = OLLAMA_CONTEXT
        engine = engine_at(url, context=100_000)
        assert (await engine.connect()).context_length == OLLAMA_CONTEXT
        await engine.aclose()
    await server.engine.aclose()


@pytest.fixture
def model_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were files of the stand-ins' model."""
    monkeypatch.setattr(loading, "vocabulary_size", lambda _: VOCABULARY)
    monkeypatch.setattr(loading, "end_of_sequence_ids", lambda _: frozenset({END}))
    monkeypatch.setattr(loading, "context_length", lambda _: CONTEXT)
    monkeypatch.setattr("atts.engines.loading.Tokenizer.load", lambda _: Characters())


@pytest.mark.usefixtures("model_files")
async def test_a_target_that_cannot_score_is_refused_before_anything_is_run() -> None:
    server = OpenAIStandIn(tiny_llama(eos_token_id=END), "llama.cpp")
    async with serving(server.app) as url:
        options = ModelOptions(model="tiny", engine="openai", urls=(url,))
        with pytest.raises(ConfigError, match="cannot be the target of this method"):
            await loading.load_engine(options, scores=True)
        await (await loading.load_engine(options)).aclose()
    await server.engine.aclose()


@pytest.mark.usefixtures("model_files")
async def test_an_address_is_needed_and_the_key_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match="engine: openai needs urls"):
        loading.remote_engines(ModelOptions(model="tiny", engine="openai"))
    options = ModelOptions(
        model="tiny", engine="openai", urls=("http://127.0.0.1:9",), api_key_env="MY_KEY"
    )
    with pytest.raises(ConfigError, match="MY_KEY"):
        loading.remote_engines(options)
    monkeypatch.setenv("MY_KEY", "sk-1")
    (engine,) = loading.remote_engines(options)
    assert isinstance(engine, OpenAIEngine)
    await engine.aclose()


async def checks_of(url: str, author: Any, monkeypatch: pytest.MonkeyPatch) -> list[Check]:  # noqa: ANN401
    tokenizer = byte_tokenizer()
    monkeypatch.setattr("atts.engines.checks.Tokenizer.load", lambda _: tokenizer)
    monkeypatch.setattr("atts.engines.checks.remote_engines", lambda _: [engine_at(url)])
    monkeypatch.setattr(tokenizer, "prompt", lambda *_: some_ids(20))
    options = ModelOptions(model="tiny", engine="openai", urls=(url,))
    return [check async for check in check_model(author, options, PromptOptions())]


async def test_the_doctor_says_whether_it_can_be_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    server = OpenAIStandIn(tiny_llama(eos_token_id=END), "llama.cpp")
    async with serving(server.app) as url:
        for author, verdict in (("draft", "good"), ("target", "broken")):
            checks = await checks_of(url, author, monkeypatch)
            by_name = {check.name: check for check in checks}
            assert by_name["scoring"].verdict == verdict
            assert "echo" in by_name["scoring"].found
            assert not by_name.keys() & {"log-probabilities", "prefix cache"}
            assert {by_name[name].verdict for name in ("server", "writes", "seeds")} == {"good"}
            assert by_name["abort"].verdict in ("good", "unknown")
    await server.engine.aclose()
