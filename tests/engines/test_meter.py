"""What engines tell of their load."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from engines.stand_ins import SGLangStandIn, VllmStandIn, serve_stand_in, serving
from engines.test_servers import engine_for
from engines.tiny import sampled, some_ids, tiny_llama
from fakes import FakeEngine

from atts.engines import remote
from atts.engines.base import GenerateRequest, Load, Metered, emptied
from atts.engines.inprocess.engine import InProcessEngine
from atts.engines.limits import LimitedEngine
from atts.engines.replicas import Replicas
from atts.errors import EngineConnectionError, EngineReplyError
from atts.runs import admission as admitting
from atts.runs.admission import Admission, Capacity


class MeteredEngine(FakeEngine):
    def __init__(self, load: Load | None = None, error: Exception | None = None) -> None:
        super().__init__()
        self.now = load
        self.error = error

    async def meter(self) -> Load | None:
        if self.error:
            raise self.error
        return self.now


@pytest.mark.parametrize("kind", ["sglang", "vllm"])
async def test_servers_tell_their_load(kind: str) -> None:
    model = tiny_llama(eos_token_id=None)
    stand_in = SGLangStandIn(model) if kind == "sglang" else VllmStandIn(model, "v2")
    async with serve_stand_in(stand_in) as server:
        engine = engine_for(server.url, kind)
        assert await engine.meter() == Load(0, 0, 0.25)
        await engine.connect()
        work = asyncio.create_task(engine.generate(GenerateRequest(some_ids(9), sampled(200, 1))))
        while await engine.in_flight() != 1:
            assert not work.done()
        work.cancel()
        await asyncio.wait([work])
        await engine.aclose()


VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a \\"b\\" {c}"} 30.0
vllm:num_requests_running{engine="1",model_name="a \\"b\\" {c}"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="a"} 5.0
vllm:num_requests_waiting{engine="1",model_name="a"} 0.0
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="a",reason="capacity"} 5.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="a"} 0.75
vllm:kv_cache_usage_perc{engine="1",model_name="a"} 0.5
# TYPE vllm:prompt_tokens counter
vllm:prompt_tokens_total{engine="0",model_name="a"} 1.0e6
"""
ROOM = """\
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="100"} 1.0
vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="200"} 1.0
"""
SGLANG = """{"loads": [
  {"dp_rank": 0, "num_running_reqs": 30, "num_waiting_reqs": 5, "token_usage": 0.75},
  {"dp_rank": 1, "num_running_reqs": 2, "num_waiting_reqs": 0, "token_usage": 0.5}]}"""


@pytest.mark.parametrize(
    ("kind", "path", "text", "load"),
    [
        ("vllm", "/metrics", VLLM, Load(32, 5, 0.75)),
        ("vllm", "/metrics", VLLM + ROOM, Load(32, 5, 0.75, room=4800)),
        ("vllm", "/metrics", VLLM + ROOM.replace("100", "None"), Load(32, 5, 0.75)),
        (
            "sglang",
            "/v1/loads",
            SGLANG.replace('"dp', '"max_total_num_tokens": 900, "dp'),
            Load(32, 5, 0.75, room=1800),
        ),
        ("sglang", "/v1/loads", SGLANG, Load(32, 5, 0.75)),
        # Of a router, of a server that measures nothing, and none at all.
        ("vllm", "/metrics", "# TYPE router_requests counter\nrouter_requests_total 3\n", None),
        ("vllm", "/metrics", "<html>not found</html>", None),
        ("vllm", "/metrics", "", None),
        ("vllm", "/elsewhere", "", None),
        ("sglang", "/v1/loads", '{"loads": []}', None),
        ("sglang", "/v1/loads", '{"loads": [{"dp_rank": 0}]}', None),
        ("sglang", "/v1/loads", "[1]", None),
        ("sglang", "/elsewhere", "", None),
    ],
)
async def test_loads_are_read_of_all_copies_or_not_at_all(
    kind: str, path: str, text: str, load: Load | None
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=text)

    app = web.Application()
    app.router.add_get(path, answer)
    async with serving(app) as url:
        engine = engine_for(url, kind)
        assert await engine.meter() == load
        await engine.aclose()


@pytest.mark.parametrize("figure", ["+Inf", "-Inf", "NaN", "-1.0"])
@pytest.mark.parametrize("line", [0, 1, 2])
async def test_a_figure_that_is_none_is_an_error_after_which_admission_asks_again(
    figure: str, line: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = ["3.0", "2.0", "0.5"]
    names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    asked = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        given = [figure if n == line and asked < 3 else value for n, value in enumerate(values)]
        lines = [f'vllm:{n}{{engine="0"}} {v}\n' for n, v in zip(names, given, strict=True)]
        return web.Response(text="".join(lines))

    resized = asyncio.Event()

    class Watched(Capacity):
        def resize(self, size: int) -> None:
            super().resize(size)
            resized.set()

    monkeypatch.setattr(admitting, "POLL_SECONDS", 0.0)
    app = web.Application()
    app.router.add_get("/metrics", answer)
    warnings: list[str] = []
    async with serving(app) as url:
        engine = engine_for(url, "vllm")
        with pytest.raises(EngineReplyError, match=r"asked for its load.*its load is"):
            await engine.meter()
        admission = Admission(Watched(4), [engine], least=2, most=8, cache_use=0.85)
        following = asyncio.create_task(admission.follow(warnings.append))
        loaded = asyncio.create_task(resized.wait())
        await asyncio.wait([following, loaded], return_when=asyncio.FIRST_COMPLETED)
        assert loaded.done()
        assert not following.done()
        following.cancel()
        await asyncio.wait([following])
        await engine.aclose()
    assert not warnings


@pytest.mark.parametrize("figure", ["NaN", '"3"', "-1", "null", "true"])
async def test_a_load_of_sglang_that_is_none_is_no_load(figure: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        text = SGLANG.replace("0.75", figure)
        return web.Response(text=text)

    app = web.Application()
    app.router.add_get("/v1/loads", answer)
    async with serving(app) as url:
        engine = engine_for(url, "sglang")
        try:
            load = await engine.meter()
        except EngineReplyError:
            load = None
        assert load is None
        await engine.aclose()


async def test_the_in_process_engine_counts_what_it_works_on() -> None:
    engine = InProcessEngine(tiny_llama(eos_token_id=None), cache_tokens=1000)
    assert await engine.meter() == Load(0, 0, 0.0, room=1000)
    work = [
        asyncio.create_task(
            engine.generate(GenerateRequest(some_ids(40, seed), sampled(200, seed)))
        )
        for seed in range(3)
    ]
    await asyncio.sleep(0)
    load = await engine.meter()
    assert (load.running, load.waiting) == (3, 0)
    assert 0.12 <= load.cache_use <= 0.72
    for task in work:
        task.cancel()
    await asyncio.wait(work)
    assert await engine.meter() == Load(0, 0, 0.0, room=1000)
    await engine.aclose()


async def test_replicas_are_metered_together() -> None:
    def replicas(*engines: FakeEngine) -> Replicas:
        return Replicas(engines)

    one, other = MeteredEngine(Load(3, 1, 0.5)), MeteredEngine(Load(4, 0, 0.25))
    down = MeteredEngine(error=EngineConnectionError("no server"))
    assert isinstance(replicas(one), Metered)
    assert await replicas(one, other).meter() == Load(7, 1, 0.5)
    assert await replicas(down, other).meter() == Load(4, 0, 0.25)
    assert await replicas(one, MeteredEngine(None)).meter() is None
    with pytest.raises(EngineConnectionError, match="no server"):
        await replicas(down, down).meter()


@pytest.mark.parametrize(
    ("kind", "path"), [("sglang", "/flush_cache"), ("vllm", "/reset_prefix_cache")]
)
async def test_a_cache_is_emptied_where_the_server_has_a_route_for_it(kind: str, path: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_route("*", path, answer)
    for served, expected in ((app, True), (web.Application(), False)):
        async with TestServer(served) as server:
            engine = engine_for(str(server.make_url("")).rstrip("/"), kind)
            assert await emptied(LimitedEngine(Replicas([engine]), 1, 1, 0.0)) is expected
            await engine.aclose()
    assert not await emptied(LimitedEngine(FakeEngine(), 1, 1, 0.0))


@pytest.mark.parametrize(("busy", "expected"), [(2, True), (3, False)])
async def test_a_server_that_is_busy_is_asked_again_to_empty_its_cache(
    busy: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM says by its reply that it did not: requests that were aborted still hold blocks."""
    monkeypatch.setattr(remote, "EMPTYING_WAITS", (0.0, 0.0, 0.0))
    asked = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.json_response({"success": asked > busy})

    app = web.Application()
    app.router.add_post("/reset_prefix_cache", answer)
    async with TestServer(app) as server:
        engine = engine_for(str(server.make_url("")).rstrip("/"), "vllm")
        assert await emptied(engine) is expected
        await engine.aclose()
    assert asked == 3
