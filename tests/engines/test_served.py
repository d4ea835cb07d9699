"""Which model a server serves: at first, among several, and after it was away."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from engines.stand_ins import SGLangStandIn, StandIn, VllmStandIn, serve_stand_in, serving
from engines.tiny import END, VOCABULARY, greedy, some_ids, tiny_llama
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from atts.config import ModelOptions
from atts.engines.base import GenerateRequest, ScoreRequest
from atts.engines.http import HttpClient
from atts.engines.remote import RemoteEngine
from atts.engines.replies import UnusableError
from atts.engines.served import chosen_card, model_cards, told
from atts.engines.sglang import SGLangEngine
from atts.engines.vllm import VllmEngine
from atts.errors import ConfigError, EngineConnectionError, EngineReplyError

Card = dict[str, Any]

KINDS: dict[str, tuple[type[RemoteEngine], Callable[[PreTrainedModel], StandIn]]] = {
    "sglang": (SGLangEngine, SGLangStandIn),
    "vllm": (VllmEngine, lambda model: VllmStandIn(model, "v2")),
}
BASE: Card = {"id": "base", "root": "/models/tiny", "parent": None, "max_model_len": 400}
ADAPTER: Card = {"id": "sums", "root": "/adapters/sums", "parent": "base", "max_model_len": None}
OTHER: Card = {"id": "other", "root": "/models/other", "parent": None, "max_model_len": 300}


@pytest.fixture(scope="module")
def tiny() -> PreTrainedModel:
    return tiny_llama(eos_token_id=END)


def engine_at(url: str, kind: str, **changes: object) -> RemoteEngine:
    options = ModelOptions.model_validate({"model": "tiny", "engine": kind, **changes})
    return KINDS[kind][0](HttpClient(url, "tiny"), options, VOCABULARY, frozenset({END}))


@asynccontextmanager
async def server_of(
    tiny: PreTrainedModel, kind: str, *cards: Card, port: int = 0
) -> AsyncIterator[StandIn]:
    """A stand-in that lists these models; SGLang's also names the path of the first."""
    stand_in = KINDS[kind][1](tiny)

    @web.middleware
    async def lists(request: web.Request, handler: Any) -> web.StreamResponse:  # noqa: ANN401
        if request.path == "/v1/models" and cards:
            return web.json_response({"object": "list", "data": cards})
        if request.path == "/server_info" and cards:
            return web.json_response({"version": "0.5.12", "model_path": cards[0]["root"]})
        reply: web.StreamResponse = await handler(request)
        return reply

    stand_in.app.middlewares.append(lists)
    async with serving(stand_in.app, port) as stand_in.url:
        try:
            yield stand_in
        finally:
            await stand_in.engine.aclose()


def paths_asked(stand_in: StandIn) -> list[str]:
    """Grows with every request that it gets."""
    asked: list[str] = []

    @web.middleware
    async def note(request: web.Request, handler: Any) -> web.StreamResponse:  # noqa: ANN401
        asked.append(request.path)
        reply: web.StreamResponse = await handler(request)
        return reply

    stand_in.app.middlewares.append(note)
    return asked


@pytest.mark.parametrize("kind", list(KINDS))
async def test_the_model_is_found_among_adapters_and_others(
    tiny: PreTrainedModel, kind: str
) -> None:
    cards = (BASE, OTHER, ADAPTER) if kind == "sglang" else (ADAPTER, OTHER, BASE)
    async with server_of(tiny, kind, *cards) as server:
        engine = engine_at(server.url, kind)
        facts = await engine.connect()
        assert (facts.model, facts.context_length) == ("/models/tiny", 400)
        await engine.generate(GenerateRequest(some_ids(9), greedy(2)))
        if kind == "vllm":
            assert engine.model_id == "base"
        await engine.aclose()


async def test_an_adapter_is_asked_for_by_its_name_alone(tiny: PreTrainedModel) -> None:
    async with server_of(tiny, "vllm", BASE, ADAPTER) as server:
        engine = engine_at(server.url, "vllm", served_as="sums")
        facts = await engine.connect()
        assert (engine.model_id, facts.context_length) == ("sums", 400)  # that of its model
        await engine.aclose()
    async with server_of(tiny, "sglang", BASE, ADAPTER) as server:
        engine = engine_at(server.url, "sglang", served_as="sums")  # /generate would run the model
        with pytest.raises(ConfigError, match="serves '/models/tiny', the adapter 'sums', and"):
            await engine.connect()
        await engine.aclose()


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("served_as", [None, "base"])
async def test_a_server_that_comes_back_with_another_model_is_noticed(
    tiny: PreTrainedModel, kind: str, served_as: str | None
) -> None:
    """Whether or not a request fails between the two; the other may even use the same name."""
    impostor = OTHER | {"id": "base"}
    for request_fails in (False, True):
        async with server_of(tiny, kind, BASE) as server:
            engine = engine_at(server.url, kind, served_as=served_as)
            await engine.generate(GenerateRequest(some_ids(9), greedy(2)))
            port = int(server.url.rpartition(":")[2])
        if request_fails:
            with pytest.raises(EngineConnectionError):
                await engine.generate(GenerateRequest(some_ids(9), greedy(2)))
        async with server_of(tiny, kind, impostor, port=port) as server:
            for _ in range(2):
                with pytest.raises(ConfigError, match="'/models/other'") as caught:
                    await engine.score(ScoreRequest(some_ids(9), 4))
            assert "served_as to" not in str(caught.value)
            assert len(server.bodies) == (0 if request_fails else 1)
        async with server_of(tiny, kind, BASE, port=port):
            await engine.generate(GenerateRequest(some_ids(9), greedy(2)))
        await engine.aclose()


@pytest.mark.parametrize("kind", list(KINDS))
async def test_a_server_that_comes_back_as_it_was_is_asked_once(
    tiny: PreTrainedModel, kind: str
) -> None:
    async with server_of(tiny, kind, BASE) as server:
        engine = engine_at(server.url, kind)
        facts = await engine.connect()
        port = int(server.url.rpartition(":")[2])
    stand_in = KINDS[kind][1](tiny)
    asked = paths_asked(stand_in)
    async with serving(stand_in.app, port):
        await asyncio.gather(
            *(engine.generate(GenerateRequest(some_ids(9, n), greedy(2))) for n in range(30))
        )
        known = asked.count("/v1/models")
        assert 1 <= known <= 30
        for n in range(5):
            await engine.generate(GenerateRequest(some_ids(9, n), greedy(2)))
        assert asked.count("/v1/models") <= known + 1
        assert (await engine.connect()).model.rpartition("/")[2] == facts.model.rpartition("/")[2]
        await engine.aclose()
    await stand_in.engine.aclose()


@pytest.mark.parametrize("kind", list(KINDS))
async def test_a_server_is_not_asked_again_for_every_request_that_is_cancelled(
    tiny: PreTrainedModel, kind: str
) -> None:
    """Of SGLang the question goes to the scheduler, and who waits for its answer is held up."""
    stand_in = KINDS[kind][1](tiny)
    asked = paths_asked(stand_in)
    async with serving(stand_in.app) as url:
        engine = engine_at(url, kind)
        await engine.generate(GenerateRequest(some_ids(9), greedy(2)))
        known = asked.count("/v1/models")
        for n in range(5):
            sent = len(asked)
            ahead = asyncio.create_task(
                engine.generate(GenerateRequest(some_ids(9, n), greedy(300)))
            )
            while len(asked) == sent:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            ahead.cancel()
            await asyncio.wait([ahead])
            await engine.generate(GenerateRequest(some_ids(9, n), greedy(2)))
        assert asked.count("/v1/models") <= known + 1, "SGLang is told by another connection"
        await engine.aclose()
    await stand_in.engine.aclose()


async def test_those_who_wait_for_an_answer_get_the_error_of_who_asked() -> None:
    """They do not ask one after the other; a server that hangs would hold the last for hours."""
    asked = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.02)
        return web.json_response({"data": []})

    app = web.Application()
    app.router.add_get("/v1/models", answer)
    async with serving(app) as url:
        engine = engine_at(url, "vllm")
        results = await asyncio.gather(
            *(engine.generate(GenerateRequest(some_ids(9), greedy(2))) for _ in range(20)),
            return_exceptions=True,
        )
        assert {type(result) for result in results} == {EngineReplyError}
        assert "names no model" in str(results[0])
        assert asked == 1
        with pytest.raises(EngineReplyError):
            await engine.connect()
        assert asked == 2
        await engine.aclose()


async def test_a_server_of_another_model_that_refuses_is_named_as_such(
    tiny: PreTrainedModel,
) -> None:
    async with serve_stand_in(VllmStandIn(tiny, "v2")) as server:
        engine = engine_at(server.url, "vllm")
        await engine.connect()
        port = int(server.url.rpartition(":")[2])
    app = web.Application()

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [OTHER]})

    app.router.add_get("/v1/models", models)  # and 404 for all else
    async with serving(app, port):
        with pytest.raises(ConfigError, match="serves '/models/other'"):
            await engine.generate(GenerateRequest(some_ids(9), greedy(2)))
    await engine.aclose()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["data", "id", "root", "parent", "max_model_len"]), inner, max_size=4
        )
    ),
    max_leaves=20,
)


@given(JSON | st.lists(JSON, max_size=4).map(lambda each: {"data": each}), st.text(max_size=5))
def test_any_list_of_models_is_one_or_an_error(reply: object, name: str) -> None:
    try:
        cards = model_cards(reply)
    except UnusableError:
        return
    assert len(told(cards)) < 3_000
    assert told(cards).isprintable()
    for served_as in (None, name):
        for adapters in (True, False):
            card = chosen_card(cards, name, served_as, adapters)
            assert card is None or card.name in [each.name for each in cards]
            assert card is None or adapters or card.adapter_of is None
