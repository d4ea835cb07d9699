"""Real routers (sglang-router, vllm-router) before stand-in servers: ``make test-routers``.

    python tests/contract/real_routers.py PYTHON

PYTHON is that of an environment with both routers. Each stands before two stand-ins. Chains go
through it turn by turn; demanded are the right scores, that every chain stays on one server, where
its prefix is cached, and that a cancelled request is aborted there.
"""
# ruff: noqa: T201

import asyncio
import logging
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from engines.stand_ins import SGLangStandIn, StandIn, VllmStandIn, serve_stand_in
from engines.tiny import END, VOCABULARY, greedy, plain_scores, sampled, some_ids, tiny_llama

from atts.config import ModelOptions, ServerOptions
from atts.engines.base import ChainMark, GenerateRequest, ScoreRequest
from atts.engines.http import HttpClient
from atts.engines.remote import RemoteEngine
from atts.engines.sglang import SGLangEngine
from atts.engines.vllm import VllmEngine

CHAINS, TURNS = 8, 5
START_SECONDS = 600.0
ABORT_SECONDS = 30.0


@asynccontextmanager
async def router(python: str, module: str, policy: str, urls: list[str]) -> AsyncIterator[str]:
    """Serve a router in front of ``urls``; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [python, "-m", f"{module}.launch_router", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--policy", policy, "--prometheus-port", str(port + 1), "--worker-urls", *urls]
    process = subprocess.Popen(  # noqa: ASYNC220
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def behind_sglang_router(model: PreTrainedModel) -> StandIn:
    server = SGLangStandIn(model)
    server.through_a_router = True
    return server


async def connect(engine: RemoteEngine) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            facts = await engine.connect()
        except Exception as error:  # whatever a router says until it knows its servers
            if time.monotonic() > until:
                raise SystemExit(f"the router does not answer: {error}") from error
            await asyncio.sleep(0.5)
        else:
            print(f"  context {facts.context_length}, version {facts.version}, {facts.scoring}")
            for remark in facts.remarks:
                print(f"  remark: {remark}")
            return


async def chain(engine: RemoteEngine, model: PreTrainedModel, number: int) -> int:
    """A chain of some turns; how many tokens of it the servers had cached."""
    mark = ChainMark()
    ids, cached = some_ids(40, seed=1000 + number), 0
    for turn in range(TURNS):
        drafted = some_ids(17, seed=100 * number + turn)
        scored = await engine.score(ScoreRequest(ids + drafted, len(ids), mark))
        expected = plain_scores(model, ids + drafted, len(ids))
        if np.abs(scored.logprobs - expected).max() > 1e-4:
            raise SystemExit("wrong scores")
        cached += scored.cached_tokens
        ids += drafted
        completion = await engine.generate(GenerateRequest(ids, greedy(8), mark))
        cached += completion.cached_tokens
        ids += completion.token_ids
    return cached


def servers_of_chains(servers: list[StandIn]) -> list[int]:
    """For each chain, how many servers have seen it."""
    beginnings = [tuple(some_ids(40, seed=1000 + number)) for number in range(CHAINS)]
    seen = [
        {tuple((r.get("input_ids") or r.get("token_ids") or ())[:40]) for r in server.bodies}
        for server in servers
    ]
    return [sum(beginning in each for each in seen) for beginning in beginnings]


async def abort(engine: RemoteEngine, servers: list[StandIn]) -> float:
    """Seconds from a cancellation to the abort on the server."""
    mark = ChainMark()
    request = GenerateRequest(some_ids(20), sampled(3000, seed=1), mark)
    task = asyncio.create_task(engine.generate(request))
    while not any(server.working for server in servers):
        if task.done():
            raise SystemExit("the request was too short to be cancelled")
        await asyncio.sleep(0.001)
    began = time.monotonic()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    while not any(server.aborted for server in servers):
        if not any(server.working for server in servers):
            print("  the request came to its end")
            break
        if time.monotonic() - began > ABORT_SECONDS:
            raise SystemExit("the request was never aborted")
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def check(
    python: str,
    module: str,
    policy: str,
    serve: Callable[[PreTrainedModel], StandIn],
    kind: type[RemoteEngine],
) -> None:
    print(f"{module}, --policy {policy}", flush=True)
    model = tiny_llama(eos_token_id=END)
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serve_stand_in(serve(model))) for _ in range(2)]
        url = await stack.enter_async_context(
            router(python, module, policy, [server.url for server in servers])
        )
        room = model.config.max_position_embeddings
        options = ModelOptions(
            model="tiny", engine="sglang", server=ServerOptions(context_length=room)
        )
        engine = kind(
            HttpClient(url, "tiny", timeout_seconds=60), options, VOCABULARY, frozenset({END})
        )
        stack.push_async_callback(engine.aclose)
        await connect(engine)
        cached = await asyncio.gather(*(chain(engine, model, n) for n in range(CHAINS)))
        spread = servers_of_chains(servers)
        print(f"  cached tokens of each chain: {cached}")
        print(f"  servers that saw each chain: {spread}")
        print(f"  requests to each server: {[len(server.bodies) for server in servers]}")
        print(f"  aborted after {await abort(engine, servers):.2f} s", flush=True)
        if policy != "cache_aware" and max(spread) > 1:
            raise SystemExit("a chain did not stay on its server")


async def main() -> None:
    python = sys.argv[1]
    logging.disable()  # the routers first try whether the stand-ins speak gRPC
    for policy in ("manual", "cache_aware"):
        await check(python, "sglang_router", policy, behind_sglang_router, SGLangEngine)
    for policy in ("consistent_hash", "cache_aware"):
        await check(
            python, "vllm_router", policy, lambda model: VllmStandIn(model, "v2"), VllmEngine
        )
    print("all is well")


if __name__ == "__main__":
    asyncio.run(main())
