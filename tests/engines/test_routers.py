"""Through a router: chains stay on their servers, and what a router does not know is not needed.

``StandInRouter`` answers as sglang-router 0.3.2 and vllm-router 0.1.17 do, as seen with
``tests/contract/real_routers.py``.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from engines.stand_ins import SGLangStandIn, StandIn, VllmStandIn, serve_stand_in, serving
from engines.tiny import END, VOCABULARY, greedy, some_ids, tiny_llama
from transformers import PreTrainedModel

from atts.config import ModelOptions, ServerOptions
from atts.engines.base import ChainMark, GenerateRequest
from atts.engines.http import HttpClient
from atts.engines.remote import RemoteEngine
from atts.engines.sglang import SGLangEngine
from atts.engines.vllm import VllmEngine
from atts.errors import EngineReplyError


class StandInRouter:
    """Sends a request on by the header that names its chain, and its answer back."""

    def __init__(self, servers: list[StandIn], header: str, routes: tuple[str, ...]) -> None:
        self._servers = servers
        self._header = header
        self.app = web.Application()
        for route in routes:
            self.app.router.add_post(route, self.send_on)

    async def send_on(self, request: web.Request) -> web.Response:
        key = request.headers.get(self._header, "").encode()
        server = self._servers[zlib.crc32(key) % len(self._servers)]
        async with (
            aiohttp.ClientSession() as session,
            session.post(server.url + request.path, data=await request.read()) as reply,
        ):
            return web.Response(
                body=await reply.read(), status=reply.status, content_type="application/json"
            )


class SGLangRouter(StandInRouter):
    """Answers for its servers what it is asked about them, and knows little."""

    def __init__(self, servers: list[StandIn]) -> None:
        super().__init__(servers, "X-SMG-Routing-Key", ("/generate",))
        self.app.router.add_get("/v1/models", self.models)
        self.app.router.add_get("/get_server_info", self.info)

    async def models(self, _: web.Request) -> web.Response:
        card = {"id": "tiny", "object": "model", "owned_by": "local"}
        return web.json_response({"object": "list", "data": [card]})

    async def info(self, _: web.Request) -> web.Response:
        return web.json_response({"router_manager": True, "routers_count": 1, "workers_count": 2})


class VllmRouter(StandInRouter):
    """Sends questions about a server on to the first."""

    def __init__(self, servers: list[StandIn]) -> None:
        super().__init__(servers, "X-Session-ID", ("/inference/v1/generate",))
        self.app.router.add_get("/v1/models", self.models)

    async def models(self, request: web.Request) -> web.Response:
        assert isinstance(self._servers[0], VllmStandIn)
        return await self._servers[0].models(request)


@pytest.fixture(scope="module")
def tiny() -> PreTrainedModel:
    return tiny_llama(eos_token_id=END)


Router = Callable[[list[StandIn]], StandInRouter]


@asynccontextmanager
async def routed(
    serve: Callable[[], StandIn], router: Router, kind: type[RemoteEngine], options: ModelOptions
) -> AsyncIterator[tuple[RemoteEngine, list[StandIn]]]:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serve_stand_in(serve())) for _ in range(3)]
        url = await stack.enter_async_context(serving(router(servers).app))
        engine = kind(
            HttpClient(url, "tiny", timeout_seconds=30), options, VOCABULARY, frozenset({END})
        )
        stack.push_async_callback(engine.aclose)
        yield engine, servers


@pytest.mark.parametrize("name", ["sglang", "vllm"])
async def test_a_chain_stays_on_one_server_where_its_prefix_is_cached(
    tiny: PreTrainedModel, name: str
) -> None:
    room = tiny.config.max_position_embeddings
    options = ModelOptions(model="tiny", server=ServerOptions(context_length=room))
    serve: Callable[[], StandIn] = lambda: SGLangStandIn(tiny)  # noqa: E731
    router: Router = SGLangRouter
    kind: type[RemoteEngine] = SGLangEngine
    if name == "vllm":
        serve, router, kind = lambda: VllmStandIn(tiny, "v2"), VllmRouter, VllmEngine

    async def chain(engine: RemoteEngine, number: int) -> None:
        mark = ChainMark()
        ids = some_ids(40, seed=100 + number)
        for turn in range(3):
            completion = await engine.generate(GenerateRequest(ids, greedy(9), mark))
            assert completion.cached_tokens >= (len(ids) - 9 - 16 if turn else 0)
            ids += completion.token_ids

    async with routed(serve, router, kind, options) as (engine, servers):
        await engine.connect()
        await asyncio.gather(*(asyncio.create_task(chain(engine, n)) for n in range(12)))
        beginnings = [tuple(some_ids(40, seed=100 + number)) for number in range(12)]
        seen = [
            {tuple((b.get("input_ids") or b["token_ids"])[:40]) for b in server.bodies}
            for server in servers
        ]
        assert [sum(beginning in each for each in seen) for beginning in beginnings] == [1] * 12
        assert sum(any(beginning in each for beginning in beginnings) for each in seen) > 1


async def test_the_context_length_behind_a_router_comes_from_the_configuration(
    tiny: PreTrainedModel,
) -> None:
    told = ModelOptions(model="tiny", server=ServerOptions(context_length=77))
    async with routed(lambda: SGLangStandIn(tiny), SGLangRouter, SGLangEngine, told) as (engine, _):
        facts = await engine.connect()
    assert facts.context_length == 77
    assert "passes no abort on" in facts.remarks[0]
    untold = ModelOptions(model="tiny")
    async with routed(lambda: SGLangStandIn(tiny), SGLangRouter, SGLangEngine, untold) as (
        engine,
        _,
    ):
        with pytest.raises(EngineReplyError, match=r"router.*set server\.context_length"):
            await engine.connect()


async def test_cancelling_through_a_router_that_knows_no_abort_is_quiet(
    tiny: PreTrainedModel, caplog: pytest.LogCaptureFixture
) -> None:
    room = tiny.config.max_position_embeddings
    told = ModelOptions(model="tiny", server=ServerOptions(context_length=room))
    async with routed(lambda: SGLangStandIn(tiny), SGLangRouter, SGLangEngine, told) as (
        engine,
        servers,
    ):
        task = asyncio.create_task(engine.generate(GenerateRequest(some_ids(20), greedy(300))))
        while not any(server.bodies for server in servers):  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await engine.aclose()
    assert "could not abort" not in caplog.text
