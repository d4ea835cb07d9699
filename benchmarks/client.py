"""HTTP clients side by side, against a server that answers at once: requests/s and CPU per request.

    python benchmarks/client.py

The server runs in a process of its own, so the CPU time is the client's alone. Each request
carries a chain of 2,000 token ids and brings back 500, as a turn does. The sides are timed in
turn, round after round, and the best round of each counts: load by others can only slow one down.
"""

import argparse
import asyncio
import multiprocessing
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import aiohttp
import httpx
import orjson
from rich.console import Console
from rich.table import Table

from atts.engines.http import HttpClient

IDS = [100_000 + i for i in range(2_000)]
REPLY = orjson.dumps({"token_ids": IDS[:500]})
IN_FLIGHT = (16, 256, 2_000)

Post = Callable[[dict[str, Any]], Awaitable[Any]]


class Figures(NamedTuple):
    """What one round of one client took."""

    requests_per_second: float
    cpu_milliseconds: float


class AnswersAtOnce(asyncio.Protocol):
    """Reads a request of a known length and writes the reply; nothing else."""

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while True:
            head, found, rest = self._received.partition(b"\r\n\r\n")
            if not found:
                return
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            if len(rest) < length:
                return
            self._received = rest[length:]
            self._transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
                + str(len(REPLY)).encode()
                + b"\r\n\r\n"
                + REPLY
            )


def serve(ready: Connection) -> None:
    """The body of the server's process."""

    async def forever() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(AnswersAtOnce, "127.0.0.1", 0, backlog=4_096)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(forever())


async def with_atts(stack: AsyncExitStack, url: str) -> Post:
    client = HttpClient(url, model="benchmark")
    stack.push_async_callback(client.aclose)
    return lambda body: client.post("/", body)


async def with_aiohttp(stack: AsyncExitStack, url: str) -> Post:
    session = await stack.enter_async_context(
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    )

    async def post(body: dict[str, Any]) -> Any:  # noqa: ANN401
        async with session.post(url, data=orjson.dumps(body)) as reply:
            return orjson.loads(await reply.read())

    return post


async def with_httpx(stack: AsyncExitStack, url: str) -> Post:
    client = await stack.enter_async_context(
        httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=600.0)
    )

    async def post(body: dict[str, Any]) -> Any:  # noqa: ANN401
        reply = await client.post(url, content=orjson.dumps(body))
        return orjson.loads(reply.content)

    return post


CLIENTS: dict[str, Callable[[AsyncExitStack, str], Awaitable[Post]]] = {
    "atts": with_atts,
    "aiohttp": with_aiohttp,
    "httpx": with_httpx,
}


async def measure(post: Post, in_flight: int, requests: int) -> Figures:
    """``requests`` requests by ``in_flight`` callers, after one request each to connect."""
    body = {"token_ids": IDS, "sampling_params": {"max_tokens": 500}}
    await asyncio.gather(*(post(body) for _ in range(in_flight)))
    left = iter(range(requests))

    async def caller() -> None:
        for _ in left:
            reply = await post(body)
            if len(reply["token_ids"]) != 500:
                raise ValueError("a reply was not whole")

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Figures(requests / wall, 1_000 * cpu / requests)


async def compare(url: str, rounds: int, requests: int) -> dict[tuple[str, int], Figures]:
    """The best round of each client at each number of requests in flight."""
    best: dict[tuple[str, int], Figures] = {}
    for in_flight in IN_FLIGHT:
        for _ in range(rounds):
            for name in CLIENTS:
                async with AsyncExitStack() as stack:
                    post = await CLIENTS[name](stack, url)
                    figures = await measure(post, in_flight, max(requests, in_flight))
                print(
                    f"{name}, {in_flight} in flight: {figures.requests_per_second:,.0f}/s, "
                    f"{figures.cpu_milliseconds:.2f} ms of CPU a request",
                    flush=True,
                )
                known = best.get((name, in_flight), figures)
                best[name, in_flight] = Figures(
                    max(figures.requests_per_second, known.requests_per_second),
                    min(figures.cpu_milliseconds, known.cpu_milliseconds),
                )
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=2_000)
    arguments = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    try:
        url = f"http://127.0.0.1:{ours.recv()}"
        best = asyncio.run(compare(url, arguments.rounds, arguments.requests))
    finally:
        server.terminate()
    table = Table("client", *(f"{n} in flight" for n in IN_FLIGHT))
    for name in dict.fromkeys(name for name, _ in best):
        cells = (best[name, n] for n in IN_FLIGHT)
        table.add_row(
            name, *(f"{c.requests_per_second:,.0f}/s, {c.cpu_milliseconds:.2f} ms" for c in cells)
        )
    Console().print(table)


if __name__ == "__main__":
    main()
