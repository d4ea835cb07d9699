"""``atts serve`` under its clients: when text arrives, and what is left when clients leave.

    python benchmarks/serving.py latency [--engines bundled] [--clients 1 --clients 64]
    python benchmarks/serving.py leaving [--clients 500] [--seconds 60] [--slower 10]

A server in a process of its own, and clients in this one. Its engines are the bundled pair, or
stand-ins that take the time of a 1.5B and a 32B model on a GPU each: 6 ms a draft token, 40 ms to
score a segment, 25 ms a target token, or all of it ``--slower`` times; a chain has 20 turns. Their
requests do not slow each other down, so what more clients cost is the server's own work; the last
column is its processor time for a chain.

``latency``: to the first text, to the last, and between two pieces, streamed and not, the same
questions. ``leaving``: so many clients ask again and again, and of their requests a tenth is broken
off in the middle of its stream; then nothing may be left on the engines, and memory must be flat.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import numpy as np
import psutil

from atts.config import load_config
from atts.engines.base import Completion, GenerateRequest, Scored, ScoreRequest
from atts.models.prompts import Tokenizer
from atts.types import Author, Timings

DRAFT_TOKEN, SCORE, TARGET_TOKEN = 0.006, 0.040, 0.025
"""Seconds."""
TURNS = 20
QUESTION = "Ivan has 43 points in a game. He wins 8 rounds of 9 points each. How many has he now?"


class StandIn:
    """Writes numbers, in the time that a model of its size would take."""

    in_flight = 0
    aborted = 0
    """Of all of them."""

    def __init__(self, author: Author, tokenizer: Tokenizer, slower: float) -> None:
        self._seconds = DRAFT_TOKEN if author == "draft" else TARGET_TOKEN
        self._slower = slower
        self._tokens = tokenizer.encode(" 7 + 8 = 15, and 3 more are 18;" * 40)
        self._answer = tokenizer.encode(" so \\boxed{18}.")

    async def generate(self, request: GenerateRequest) -> Completion:
        is_last = request.turn >= TURNS - 1
        at = request.sampling.seed % 100
        count = request.sampling.max_tokens
        tokens = self._answer if is_last else self._tokens[at : at + count]
        timings = await self._take(len(tokens) * self._seconds)
        return Completion(tuple(tokens), "stop" if is_last else "length", 0, timings)

    async def score(self, request: ScoreRequest) -> Scored:
        timings = await self._take(SCORE)
        count = len(request.token_ids) - request.start
        rng = np.random.default_rng(len(request.token_ids))
        return Scored(-rng.gamma(2.0, 0.3, count), 0, timings)

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _take(self, seconds: float) -> Timings:
        began = time.monotonic()
        StandIn.in_flight += 1
        try:
            await asyncio.sleep(seconds * self._slower * random.uniform(0.8, 1.2))
        except asyncio.CancelledError:
            StandIn.aborted += 1
            raise
        finally:
            StandIn.in_flight -= 1
        now = time.monotonic()
        return Timings(queued=began, started=began, first_token=now, done=now)


async def server(engines: str, slower: float, directory: str) -> None:
    """Serve; standard output gets the address, and a line of figures for each line of input."""
    import uvicorn

    from atts.gateway.server import ServeOptions, open_gateway
    from atts.methods.chain import Model, Models

    limits = {"chains": 512, "chains_min": 512, "draft_requests": 512, "target_requests": 512}
    settings = [f"limits.{key}={value}" for key, value in limits.items()]
    config = load_config(settings=[*settings, "limits.overlap=off"])
    models: Models | None = None
    if engines == "stand-ins":
        options: dict[Author, Any] = {"draft": config.draft, "target": config.target}
        models = {}
        for author, each in options.items():
            tokenizer = Tokenizer.load(each)
            models[author] = Model(StandIn(author, tokenizer, slower), tokenizer)
    async with open_gateway(config, ServeOptions(directory=Path(directory)), models) as opened:
        serving = uvicorn.Server(
            uvicorn.Config(opened.app, port=0, lifespan="off", log_config=None, backlog=2048)
        )
        task = asyncio.create_task(serving.serve())
        while not serving.started:  # noqa: ASYNC110  (it has no event for that)
            await asyncio.sleep(0.01)
        port = serving.servers[0].sockets[0].getsockname()[1]
        print(f"http://127.0.0.1:{port}", flush=True)
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, sys.stdin.readline):
            left = {
                "on the engines": StandIn.in_flight,
                "open chains": opened.solver.open_chains,
                "open questions": len(opened.solver._asked),
                "tasks": len(asyncio.all_tasks()),
                "aborted": StandIn.aborted,
            }
            print(json.dumps(left), flush=True)
        serving.should_exit = True
        await task


class Server:
    """The server's process."""

    def __init__(self, engines: str, slower: float) -> None:
        self._folder = tempfile.TemporaryDirectory()
        command = [sys.executable, __file__, "server", engines, str(slower), self._folder.name]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        if not self._process.stdin or not self._process.stdout:
            raise SystemExit("the server's process has no pipes")
        self._to, self._from = self._process.stdin, self._process.stdout
        self.url = self._from.readline().strip()
        self.about = psutil.Process(self._process.pid)

    def processor(self) -> float:
        """Seconds of processor time that it has had."""
        times = self.about.cpu_times()
        return times.user + times.system

    def left(self) -> dict[str, int]:
        """What is open there."""
        self._to.write("\n")
        self._to.flush()
        found: dict[str, int] = json.loads(self._from.readline())
        return found

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate("")
        self._folder.cleanup()


class Reply(NamedTuple):
    """When the text of a reply came, in seconds from the request."""

    pieces: list[float]
    done: float


async def ask(
    session: aiohttp.ClientSession, seed: int, stream: bool, leave_after: int | None = None
) -> Reply:
    body = {"model": "atts", "seed": seed, "stream": stream}
    body["messages"] = [{"role": "user", "content": QUESTION}]
    began = time.monotonic()
    pieces = []
    async with session.post("/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        if not stream:
            await response.read()
            now = time.monotonic() - began
            return Reply([now], now)
        async for line in response.content:
            if b'"content":"' in line and b'"content":""' not in line:
                pieces.append(time.monotonic() - began)
                if leave_after is not None and len(pieces) >= leave_after:
                    response.close()
                    break
            if b'"error"' in line:
                raise SystemExit(line.decode())
    return Reply(pieces, time.monotonic() - began)


def session_for(server: Server) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        server.url,
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(total=None),
    )


async def latency(engines: str, slower: float, counts: list[int]) -> None:
    heads = (("first text", 18), ("last text", 18), ("gap", 18), ("processor", 10))
    print(f"{'clients':>8} {'reply':>10}", *(f"{head:>{width}}" for head, width in heads))
    with Server(engines, slower) as server:
        async with session_for(server) as session:
            await ask(session, 0, stream=True)  # what is loaded at the first request
            for count in counts:
                for stream in (True, False):
                    before = server.processor()
                    replies = await asyncio.gather(
                        *(ask(session, seed, stream) for seed in range(count))
                    )
                    spent = (server.processor() - before) / count
                    gaps = [gap for reply in replies for gap in np.diff(reply.pieces).tolist()]
                    print(
                        f"{count:>8} {'streamed' if stream else 'whole':>10} "
                        f"{quantiles([reply.pieces[0] for reply in replies]):>18} "
                        f"{quantiles([reply.pieces[-1] for reply in replies]):>18} "
                        f"{quantiles(gaps):>18} {spent * 1000:>7.0f} ms"
                    )


def quantiles(seconds: list[float]) -> str:
    """Median, and the 95th percentile."""
    if not seconds:
        return "-"
    return f"{np.median(seconds):.2f} s ({np.quantile(seconds, 0.95):.2f})"


async def leaving(engines: str, slower: float, clients: int, seconds: float) -> None:
    rng = random.Random(0)
    ended = left = 0
    with Server(engines, slower) as server:
        until = time.monotonic() + seconds

        async def client(session: aiohttp.ClientSession) -> None:
            nonlocal ended, left
            while time.monotonic() < until:
                after = rng.randint(1, TURNS // 2) if rng.random() < 0.1 else None
                await ask(session, rng.randrange(2**50), stream=True, leave_after=after)
                ended, left = ended + (after is None), left + (after is not None)

        async with session_for(server) as session:
            asking = asyncio.gather(*(client(session) for _ in range(clients)))
            began = time.monotonic()
            while not asking.done():
                await asyncio.wait([asking], timeout=seconds / 6)
                memory = server.about.memory_info().rss / 2**20
                print(
                    f"after {time.monotonic() - began:4.0f} s: {ended} replies, {left} broken off; "
                    f"{memory:.0f} MiB, processor {server.about.cpu_percent():.0f} %"
                )
            await asking
        for _ in range(50):
            found = server.left()
            if not found["on the engines"] and not found["open chains"]:
                break
            await asyncio.sleep(0.1)
        print(f"afterwards: {found}, {server.about.memory_info().rss / 2**20:.0f} MiB")
        if found["on the engines"] or found["open chains"] or found["open questions"]:
            raise SystemExit("something was left")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, default in (("latency", [1, 64]), ("leaving", [500])):
        command = commands.add_parser(name)
        command.add_argument("--engines", choices=("stand-ins", "bundled"), default="stand-ins")
        command.add_argument("--clients", type=int, action="append", default=None)
        command.add_argument("--seconds", type=float, default=60.0)
        command.add_argument("--slower", type=float, default=1.0)
        command.set_defaults(default=default)
    serving = commands.add_parser("server")
    serving.add_argument("engines")
    serving.add_argument("slower", type=float)
    serving.add_argument("directory")
    given = parser.parse_args()
    if given.command == "server":
        asyncio.run(server(given.engines, given.slower, given.directory))
    elif given.command == "latency":
        asyncio.run(latency(given.engines, given.slower, given.clients or given.default))
    else:
        (clients,) = given.clients or given.default
        asyncio.run(leaving(given.engines, given.slower, clients, given.seconds))


if __name__ == "__main__":
    main()
