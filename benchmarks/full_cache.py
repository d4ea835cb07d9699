"""Does a server grow slower as finished chains fill its cache? The same work, again and again.

    python benchmarks/full_cache.py URL [URL] --tokens 400_000 [--rounds 3] [--flush]

Fills the cache of each server (SGLang's or vLLM's) with so many tokens of chains of random ids, in
short pieces: each piece a request of its own with all tokens before it, and a part of them
abandoned, as a chain does that the target takes over. Before the first piece and after each round
it measures the same work: chains that write in short segments. With ``--flush`` the cache is
emptied before each measurement, so that the difference between the two ways is what a full cache
costs. With two URLs both are filled and measured side by side, as a draft and a target are.

SGLang (0.5.12) looks at every evictable leaf of its prefix tree whenever it must evict, which is in
nearly every step once the cache is full; each abandoned segment is a leaf. To compare, run both
ways on servers that were just started, or begin with ``--flush``. Filling is prefill, so it is
fast: the pieces of a chain are sent one after the other, without writing more than a token.
"""

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, NamedTuple

from atts.engines.http import HttpClient
from atts.errors import AttsError, EngineError, RequestRefusedError

BEGINNING = 150
"""Tokens with which a chain begins."""


class Server(NamedTuple):
    """One server, and what it is."""

    client: HttpClient
    is_sglang: bool
    model: str
    room: int | None
    """Tokens that its cache holds, if it tells."""

    async def write(self, ids: Sequence[int], tokens: int) -> list[int]:
        """Continue ids by so many."""
        if self.is_sglang:
            sampling = {"max_new_tokens": tokens, "temperature": 1.0, "ignore_eos": True}
            body: dict[str, Any] = {"input_ids": list(ids), "sampling_params": sampling}
            reply = await self.client.post("/generate", body)
            written = reply["output_ids"]
        else:
            body = {"model": self.model, "prompt": list(ids), "max_tokens": tokens}
            body |= {"temperature": 1.0, "ignore_eos": True, "return_token_ids": True}
            reply = await self.client.post("/v1/completions", body)
            written = reply["choices"][0]["token_ids"]
        if not isinstance(written, list) or len(written) < tokens:
            raise EngineError(f"{self.client.url} wrote {written!r:.80} where {tokens} were due")
        return [int(token) for token in written[:tokens]]

    async def flush(self) -> bool:
        """Have it forget everything; whether it did."""
        try:
            if self.is_sglang:
                await self.client.get_text("/flush_cache", 60.0)
                return True
            reply = await self.client.post("/reset_prefix_cache", {}, 60.0)
        except RequestRefusedError:
            return False
        return not isinstance(reply, dict) or reply.get("success") is not False


async def opened(url: str, seconds: float) -> Server:
    """Ask a server what it is.

    Raises:
        EngineError: it does not answer.
    """
    client = HttpClient(url, "", timeout_seconds=seconds)
    cards = await client.get("/v1/models", 60.0)
    try:
        info = await client.get("/server_info", 60.0)
    except RequestRefusedError:
        info = None
    is_sglang = isinstance(info, dict) and "model_path" in info
    room = info.get("max_total_num_tokens") if isinstance(info, dict) else None
    name = cards["data"][0]["id"]
    return Server(client, is_sglang, name, room if isinstance(room, int) else None)


async def fill(server: Server, args: argparse.Namespace, number: int) -> None:
    """Put so many tokens into its cache, in short pieces of finished chains."""
    length = BEGINNING + args.segments * args.segment
    rngs = [random.Random(f"fill {number} {i}") for i in range(-(-args.tokens // length))]

    async def one(rng: random.Random) -> None:
        ids = [rng.randrange(100, args.vocabulary) for _ in range(BEGINNING)]
        for _ in range(args.segments):
            piece = [rng.randrange(100, args.vocabulary) for _ in range(args.segment)]
            await server.write([*ids, *piece], 1)
            if rng.random() < args.abandoned:  # another piece stays in its place
                piece = [rng.randrange(100, args.vocabulary) for _ in piece]
                await server.write([*ids, *piece], 1)
            ids += piece

    await at_most(args.in_flight, [partial(one, rng) for rng in rngs])


async def measure(server: Server, args: argparse.Namespace, name: str) -> list[float]:
    """The seconds of each segment of chains that are written now."""
    seconds: list[float] = []

    async def one(rng: random.Random) -> None:
        ids = [rng.randrange(100, args.vocabulary) for _ in range(BEGINNING)]
        for _ in range(args.measured):
            began = time.perf_counter()
            written = await server.write(ids, args.segment)
            seconds.append(time.perf_counter() - began)
            ids += written

    rngs = [random.Random(f"measure {name} {i}") for i in range(args.in_flight)]
    await at_most(args.in_flight, [partial(one, rng) for rng in rngs])
    return sorted(seconds)


async def at_most(count: int, works: Sequence[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """Do all of it, so many at a time; the first failure ends it."""
    free = asyncio.Semaphore(count)

    async def one(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with free:
            await work()

    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(one(work))
    except* AttsError as errors:
        raise errors.exceptions[0] from None


async def rounds(server: Server, args: argparse.Namespace) -> None:
    """Print a line for each measurement as it comes."""
    filled = 0
    await measure(server, args, "warm")  # connections, and what is compiled at first use
    for number in range(args.rounds + 1):
        began = time.perf_counter()
        if number:
            await fill(server, args, number)
            filled += args.tokens
        filling = time.perf_counter() - began
        flushed = "no"
        if args.flush:
            flushed = "yes" if await server.flush() else "refused"
        began = time.perf_counter()
        times = await measure(server, args, f"{server.client.url} {number}")
        took = time.perf_counter() - began
        print(
            f"{server.client.url}: {filled:9,} tokens in (in {filling:.1f} s), emptied: {flushed}; "
            f"the work {took:6.2f} s, a segment {1000 * times[len(times) // 2]:5.0f} ms "
            f"(95th {1000 * times[int(0.95 * len(times))]:5.0f})",
            flush=True,
        )


async def main(args: argparse.Namespace) -> None:
    """Find out what the servers are, and measure them side by side."""
    servers: list[Server] = []
    try:
        for url in args.urls:
            servers.append(await opened(url, args.timeout))
            kind, room = "SGLang" if servers[-1].is_sglang else "vLLM", servers[-1].room
            size = f"a cache of {room:,} tokens" if room else "a cache of unknown size"
            print(f"{url}: {kind}, {servers[-1].model}, {size}", flush=True)
            if room and room > args.tokens * args.rounds:
                print(f"  {args.rounds} x {args.tokens:,} tokens do not fill it; see --tokens")
        if args.flush:
            for server in servers:
                await server.flush()
        await asyncio.gather(*(rounds(server, args) for server in servers))
    finally:
        for server in servers:
            await server.client.aclose()


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("urls", nargs="+", metavar="URL", help="of one or two servers")
    parser.add_argument("--tokens", type=int, default=400_000, help="to put in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--in-flight", type=int, default=64, help="requests at a time")
    parser.add_argument("--segments", type=int, default=40, help="of a chain that fills")
    parser.add_argument("--segment", type=int, default=48, help="tokens")
    parser.add_argument("--measured", type=int, default=8, help="segments of a measured chain")
    parser.add_argument("--abandoned", type=float, default=0.4, help="share of the segments")
    parser.add_argument("--vocabulary", type=int, default=150_000, help="ids are 100 to below it")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for a request")
    parser.add_argument("--flush", action="store_true", help="empty before each measurement")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        asyncio.run(main(parsed()))
    except AttsError as error:
        sys.exit(f"full_cache.py: {error}")
