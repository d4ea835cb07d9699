"""Every fault of a server's replies, for every engine and route, once and always.

Each server replays what a stand-in answered, and spoils replies to what is written and scored. A
fault that passes leaves the result as it was; one that stays is an error that names the server, the
request and what is wrong, after the last try.
"""

import base64
import gzip
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
from aiohttp import web
from engines.stand_ins import (
    Characters,
    OpenAIStandIn,
    SGLangStandIn,
    StandIn,
    VllmStandIn,
    serving,
)
from engines.tiny import CONTEXT, END, VOCABULARY, sampled, some_ids, tiny_llama
from transformers import PreTrainedModel

from atts.config import ModelOptions
from atts.engines.base import Completion, GenerateRequest, Scored, ScoreRequest
from atts.engines.http import HttpClient
from atts.engines.limits import LimitedEngine
from atts.engines.openai import OpenAIEngine
from atts.engines.remote import RemoteEngine
from atts.engines.sglang import SGLangEngine
from atts.engines.vllm import VllmEngine
from atts.errors import (
    EngineBusyError,
    EngineConnectionError,
    EngineError,
    EngineReplyError,
    EngineServerError,
    EngineUnavailableError,
    RequestRefusedError,
)

Json = Any
Kind = Literal["sglang", "vllm tokens", "vllm rows", "vllm completions", "openai"]
Act = Literal["write", "score"]

KINDS: dict[Kind, Callable[[PreTrainedModel], StandIn]] = {
    "sglang": SGLangStandIn,
    "vllm tokens": lambda model: VllmStandIn(model, "v2"),
    "vllm rows": lambda model: VllmStandIn(model, "v1"),
    "vllm completions": lambda model: VllmStandIn(model, "completions"),
    "openai": lambda model: OpenAIStandIn(model, "prompt_logprobs"),
}
WRITE = GenerateRequest(some_ids(20), sampled(6, 3), logprobs=True)
SCORE = ScoreRequest(some_ids(40), 21)
ROUTES = ("/generate", "/inference/v1/generate", "/v1/completions")
ATTEMPTS = 3

Answers = dict[tuple[str, str, str], tuple[int, bytes]]
"""To each request: its method, path and body without its random id."""


class Recording(NamedTuple):
    answers: Answers
    written: Completion
    scored: Scored


_recordings: dict[Kind, Recording] = {}


def engine_at(url: str, kind: Kind) -> RemoteEngine:
    name = kind.partition(" ")[0]
    options = ModelOptions.model_validate({"model": "tiny", "engine": name})
    if name == "openai":
        client = HttpClient(url, "tiny", timeout_seconds=30)
        return OpenAIEngine(client, options, VOCABULARY, frozenset({END}), Characters(), CONTEXT)
    make = SGLangEngine if name == "sglang" else VllmEngine
    return make(HttpClient(url, "tiny", timeout_seconds=30), options, VOCABULARY, frozenset({END}))


async def key_of(request: web.Request) -> tuple[str, str, str]:
    body = json.loads(await request.text() or "{}")
    body.pop("rid", None)
    return request.method, request.path, json.dumps(body, sort_keys=True)


async def recording(kind: Kind) -> Recording:
    """What the stand-in answers, and what the engine makes of that."""
    if kind not in _recordings:
        answers: Answers = {}
        stand_in = KINDS[kind](tiny_llama(eos_token_id=END))

        @web.middleware
        async def keep(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            reply = await handler(request)
            assert isinstance(reply, web.Response)
            assert isinstance(reply.body, bytes)
            answers.setdefault(await key_of(request), (reply.status, reply.body))
            return reply

        stand_in.app.middlewares.append(keep)
        async with serving(stand_in.app) as url:
            engine = engine_at(url, kind)
            written, scored = await engine.generate(WRITE), await engine.score(SCORE)
            await engine.score(SCORE)  # by now too much of it is cached, which asks otherwise
            await engine.aclose()
        await stand_in.engine.aclose()
        _recordings[kind] = Recording(answers, written, scored)
    return _recordings[kind]


class Spoiled(NamedTuple):
    engine: LimitedEngine
    url: str
    spoiled: list[bytes]


Spoil = Callable[[web.Request, Kind, bytes], Awaitable[web.StreamResponse] | web.StreamResponse]


@asynccontextmanager
async def spoiling(kind: Kind, spoil: Spoil, times: float) -> AsyncIterator[Spoiled]:
    """A server that spoils its next replies, so many, to what is written and scored."""
    recorded = await recording(kind)
    spoiled: list[bytes] = []
    is_on = False

    async def answer(request: web.Request) -> web.StreamResponse:
        status, body = recorded.answers.get(await key_of(request), (404, b"{}"))
        if not is_on or status != 200 or request.path not in ROUTES or len(spoiled) >= times:
            return web.Response(status=status, body=body)
        spoiled.append(body)
        reply = spoil(request, kind, body)
        return reply if isinstance(reply, web.StreamResponse) else await reply

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with serving(app) as url:
        engine = engine_at(url, kind)
        await engine.connect()
        is_on = True
        try:
            yield Spoiled(LimitedEngine(engine, 1, ATTEMPTS, 0.0), url, spoiled)
        finally:
            await engine.aclose()


class Fault(NamedTuple):
    name: str
    spoil: Spoil
    says: str
    error: type[EngineError] = EngineReplyError


def tree(change: Callable[[Kind, Json], Json]) -> Spoil:
    """The reply with a change; what is no JSON is written as Python writes it."""

    def spoil(_: web.Request, kind: Kind, body: bytes) -> web.Response:
        return web.Response(body=json.dumps(change(kind, json.loads(body))).encode())

    return spoil


def at(places: dict[str, tuple[str | int, ...]], value: Json) -> Spoil:
    """The reply with a value at the place that the engine reads; None takes it away."""

    def change(kind: Kind, reply: Json) -> Json:
        place = reply
        *path, last = places.get(kind) or places[kind.partition(" ")[0]]
        for step in path:
            place = place[step]
        place[last] = value(place[last]) if callable(value) else value
        return reply

    return tree(change)


IDS: dict[str, tuple[str | int, ...]] = {
    "sglang": ("output_ids",),
    "vllm": ("choices", 0, "token_ids"),
    "openai": ("choices", 0, "token_ids"),
}
FINISH: dict[str, tuple[str | int, ...]] = {
    "sglang": ("meta_info", "finish_reason"),
    "vllm": ("choices", 0, "finish_reason"),
    "openai": ("choices", 0, "finish_reason"),
}
CACHED: dict[str, tuple[str | int, ...]] = {
    "sglang": ("meta_info", "cached_tokens"),
    "vllm": ("usage", "prompt_tokens_details", "cached_tokens"),
    "openai": ("usage", "prompt_tokens_details", "cached_tokens"),
}
WRITTEN: dict[str, tuple[str | int, ...]] = {
    "sglang": ("meta_info", "output_token_logprobs"),
    "vllm": ("choices", 0, "logprobs", "content"),
    "vllm completions": ("choices", 0, "logprobs", "token_logprobs"),
    "openai": ("choices", 0, "logprobs", "token_logprobs"),
}
SCORED: dict[str, tuple[str | int, ...]] = {
    "sglang": ("meta_info", "input_token_logprobs"),
    "vllm tokens": ("prompt_token_id_logprobs",),
    "vllm rows": ("prompt_logprobs",),
    "vllm completions": ("choices", 0, "prompt_logprobs"),
    "openai": ("choices", 0, "prompt_logprobs"),
}


def first_id(value: Json) -> Callable[[list[Json]], list[Json]]:
    return lambda ids: [value, *ids[1:]]


def one(value: Json) -> Callable[[Json], Json]:
    """Another value in the place of one log-probability, however they are written."""

    def change(found: Json) -> Json:
        if isinstance(found, str):  # an array in base64
            rows = np.load(io.BytesIO(base64.b64decode(found)))
            rows[3] = np.nan if value is None or isinstance(value, str | bool) else value
            return encoded(rows)
        entry = found[3] if len(found) == 6 else found[-3]
        if isinstance(entry, list):
            entry[0] = value
        elif isinstance(entry, dict):
            for each in [entry] if "logprob" in entry else entry.values():
                each["logprob"] = value
        else:
            found[3] = value
        return found

    return change


def fewer(found: Json) -> Json:
    if isinstance(found, str):
        return encoded(np.load(io.BytesIO(base64.b64decode(found)))[1:])
    return found[:2]


def encoded(rows: np.ndarray[Any, Any]) -> str:
    file = io.BytesIO()
    np.save(file, rows)
    return base64.b64encode(file.getvalue()).decode()


def header(description: str, content: bytes = b"") -> str:
    """An array file with a header of any text."""
    text = description.encode()
    raw = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content
    return base64.b64encode(raw).decode()


def text(content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Spoil:
    return lambda *_: web.Response(body=content, status=status, headers=headers)


async def reset(request: web.Request, _: Kind, __: bytes) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def cut_off(request: web.Request, _: Kind, body: bytes) -> web.StreamResponse:
    reply = web.StreamResponse(headers={"Content-Length": str(len(body))})
    await reply.prepare(request)
    await reply.write(body[:-10])
    assert request.transport is not None
    request.transport.close()
    return reply


def long_words(_: Kind, reply: Json) -> Json:
    return reply | {"text": "x" * 2_000_000}


GZIP = {"Content-Encoding": "gzip"}
BOMB = gzip.compress(b" " * 40_000_000)
NO_NUMBER = b'{"error": {"message": "Out of range float values are not JSON compliant: nan"}}'
WORDS = b'{"error": {"message": "no memory \\u001b[31m' + b"x" * 5_000 + b'", "code": 500}}'

ANY = [
    Fault("NaN", tree(lambda _, reply: [reply, float("nan")]), "holds NaN where a number"),
    Fault("infinity", tree(lambda _, reply: [reply, float("-inf")]), "holds Infinity where a"),
    Fault("no end of a number", text(b'{"a": -1e999}'), "holds -?1e999 where a number"),
    Fault("refused for NaN", text(NO_NUMBER, 400), "that is NaN or an infinity"),
    Fault("failed for NaN", text(NO_NUMBER, 500), "that is NaN or an infinity"),
    Fault("an error with status 200", text(WORDS), r"yet an error: .*no memory .{,5}u001b\[31mx"),
    Fault("an error in one word", text(b'{"error": "overloaded"}'), "overloaded"),
    Fault("an error page", text(b"<html>Bad gateway</html>"), "not JSON.*Bad gateway"),
    Fault("half of it", text(b'{"output_ids": [1, '), "not JSON"),
    Fault("nothing", text(b""), "an unusable reply"),
    Fault("null", text(b"null"), "an unusable reply"),
    Fault("a list", text(b"[1, 2]"), "an unusable reply"),
    Fault("a text", text(b'"done"'), "an unusable reply"),
    Fault("without end", text(b"[" * 100_000), "not JSON"),
    Fault("too long", tree(long_words), r"longer than 1,\d+,\d+ bytes"),
    Fault("a bomb", text(BOMB, headers=GZIP), r"longer than 1,\d+,\d+ bytes"),
    Fault(
        "packed by br", text(b"\x0b\x02\x80no\x03", headers={"Content-Encoding": "br"}), "by 'br'"
    ),
    Fault("packed badly", text(b"[1, 2]", headers=GZIP), "cannot be unpacked"),
    Fault("reset", reset, "is the server running", EngineConnectionError),
    Fault("cut off", cut_off, "is the server running", EngineConnectionError),
    Fault("500", text(b"CUDA error", 500), "CUDA error.*server's log", EngineServerError),
    Fault("429", text(b"slow down", 429), "slow down.*no capacity", EngineBusyError),
    Fault(
        "a redirect",
        text(b"", 307, {"Location": "https://elsewhere/v1"}),
        "redirects to 'https://elsewhere/v1'",
        RequestRefusedError,
    ),
    Fault("404", text(b"no such route", 404), "right server", RequestRefusedError),
    Fault("cached: negative", at(CACHED, -1), "cached_tokens is '-1', which is no count"),
    Fault("cached: a text", at(CACHED, "all"), "cached_tokens is 'all'"),
    Fault("cached: half a token", at(CACHED, 0.5), "cached_tokens is '0.5'"),
    Fault("cached: true", at(CACHED, True), "cached_tokens is 'True'"),
    Fault("cached: a list", at(CACHED, [0]), r"cached_tokens is '\[0\]'"),
]
OF_WRITING = [
    Fault("more tokens", at(IDS, lambda ids: [*ids, *[7] * 20]), "more than were asked for"),
    Fault("an id past the vocabulary", at(IDS, first_id(VOCABULARY)), f"id is '{VOCABULARY}', wh"),
    Fault("an id past all bounds", at(IDS, first_id(2**63)), "id is '9223372036854775808'"),
    Fault("a negative id", at(IDS, first_id(-1)), "id is '-1'"),
    Fault("half an id", at(IDS, first_id(2.5)), "id is '2.5'"),
    Fault("a text as id", at(IDS, first_id("x\x1b[31m" * 999)), r"id is 'x\\x1b\[31mx.{,999}',"),
    Fault("null as id", at(IDS, first_id(None)), "id is null"),
    Fault("true as id", at(IDS, first_id(True)), "id is 'True'"),
    Fault("a list as id", at(IDS, lambda ids: [*ids[1:], [1]]), r"id is '\[1\]'"),
    Fault("ids that are no list", at(IDS, {"0": 1}), "no (output_ids|token_ids)"),
    Fault("no ids", at(IDS, None), "no (output_ids|token_ids)"),
    Fault("no token at its limit", at(IDS, []), "no token, and says that their limit was reached"),
    Fault("no reason to end", at(FINISH, None), "finish_reason is"),
    Fault("a long reason", at(FINISH, "y" * 9_999), "finish_reason is 'y{300}...'"),
    Fault("a list as reason", at(FINISH, [1]), r"finish_reason is '\[1\]'"),
    Fault("a positive logprob", at(WRITTEN, one(0.01)), "log-probability of 0.01, above zero"),
    Fault("a logprob of NaN", at(WRITTEN, one(float("nan"))), "holds NaN"),
    Fault("a logprob of null", at(WRITTEN, one(None)), "log-probability is null"),
    Fault("a logprob of text", at(WRITTEN, one("-1.0")), "log-probability is '-1.0'"),
    Fault("a logprob of false", at(WRITTEN, one(False)), "log-probability is 'False'"),
    Fault("too few logprobs", at(WRITTEN, fewer), "2 log-probabilities for 6 tokens"),
    Fault("no logprobs", at(WRITTEN, None), "null in place of log-probabilities"),
    Fault("logprobs that are none", at(WRITTEN, 5), "in place of log-probabilities"),
]
NOT_FINITE = "holds (NaN|Infinity) where|18 of them finite"
OF_SCORING = [
    Fault("a positive logprob", at(SCORED, one(2.5)), "log-probability of 2.5, above zero"),
    Fault("a logprob of NaN", at(SCORED, one(float("nan"))), NOT_FINITE),
    Fault("a logprob of -infinity", at(SCORED, one(float("-inf"))), NOT_FINITE),
    Fault("a logprob of null", at(SCORED, one(None)), "is null|18 of them finite"),
    Fault("a logprob of text", at(SCORED, one("-1.0")), "is '-1.0'|18 of them finite"),
    Fault("a logprob of true", at(SCORED, one(True)), "is 'True'|18 of them finite"),
    Fault("too few logprobs", at(SCORED, fewer), "were asked for"),
    Fault("no logprobs", at(SCORED, None), "no input_token|too few|no prompt log-pro|null"),
    Fault("logprobs that are none", at(SCORED, 5), "no input_token|too few|is not an array"),
]
OF_ARRAYS = [
    Fault(
        "a huge array",
        at(
            SCORED,
            header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 1), }\n"),
        ),
        "where 19 rows of one number were asked for",
    ),
    Fault("an array of two columns", at(SCORED, encoded(np.zeros((19, 2)))), "19 rows of one"),
    Fault(
        "an array of objects",
        at(
            SCORED,
            header(
                "{'descr': '|O', 'fortran_order': False, 'shape': (19, 1), }\n", b"cos\nsystem\n"
            ),
        ),
        "19 rows of one number",
    ),
    Fault("an array of numbers of text", at(SCORED, encoded(np.full((19, 1), "x"))), "19 rows of"),
    Fault(
        "an array that is too short",
        at(
            SCORED,
            header("{'descr': '<f4', 'fortran_order': False, 'shape': (19, 1), }\n", b"1234"),
        ),
        "4 bytes",
    ),
    Fault("a header that is none", at(SCORED, header("(" * 900)), "not an array"),
    Fault("no array", at(SCORED, base64.b64encode(b"PK\x03\x04" * 9).decode()), "not an array"),
    Fault("no base64", at(SCORED, "%%%"), "not an array"),
]

CASES = [
    *((kind, "write", fault) for kind in KINDS for fault in [*ANY, *OF_WRITING]),
    *((kind, "score", fault) for kind in KINDS for fault in [*ANY, *OF_SCORING]),
    *(("vllm tokens", "score", fault) for fault in OF_ARRAYS),
]


@pytest.mark.parametrize("times", [1, 1_000], ids=["once", "always"])
@pytest.mark.parametrize(
    ("kind", "act", "fault"), CASES, ids=["-".join([kind, act, f.name]) for kind, act, f in CASES]
)
async def test_a_fault_once_changes_nothing_and_always_is_named(
    kind: Kind, act: Act, fault: Fault, times: int
) -> None:
    recorded = await recording(kind)
    is_retried = issubclass(fault.error, EngineUnavailableError)
    async with spoiling(kind, fault.spoil, times) as server:

        async def ask() -> None:
            if act == "write":
                written = await server.engine.generate(WRITE)
                assert written.token_ids == recorded.written.token_ids
                assert written.logprobs == recorded.written.logprobs
            else:
                scored = await server.engine.score(SCORE)
                assert scored.logprobs.tolist() == recorded.scored.logprobs.tolist()

        if is_retried and times == 1:
            await ask()
            assert len(server.spoiled) == 1
            return
        with pytest.raises(EngineError, match=f"(?s){fault.says}") as caught:
            await ask()
        assert type(caught.value) is fault.error
        message = str(caught.value)
        assert len(server.spoiled) >= (ATTEMPTS if is_retried else 1)
        assert server.url in message
        assert "tiny" in message
        assert message.isprintable()
        assert len(message) < 1_000
        if fault.error is EngineReplyError:
            asked = "write 6 tokens after 20" if act == "write" else "score 19 tokens after 21"
            assert f"asked to {asked}" in message
            assert any(mend in message for mend in ("atts doctor", "look at", "is this", "does a"))
