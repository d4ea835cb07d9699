"""What a token costs that the draft writes, and that the target scores, in tokens that the target
writes: measured, and simulated.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from following import EndlessSGLang, prompt_ids
from measuring import all_of, connected, load_of, to_write
from models import SPECIAL, VOCABULARY
from servers import Placement, Server

from atts.engines.base import ChainMark, ScoreRequest
from atts.simulation import server as simulated
from atts.simulation.engine import SimulatedClient
from atts.simulation.hardware import SharedGpus
from atts.simulation.simulate import run_virtually
from atts.simulation.workload import Workload
from atts.types import Author

PREFIX = 500
"""Tokens before what is written or scored, where the cache holds so many for all."""
WRITTEN = 64
SEGMENTS = 3


class Costs(NamedTuple):
    """What tokens cost with so many requests in flight on one server of each model."""

    in_flight: int
    segment: int
    """Tokens of those that are scored. What the client has to do for each request is part of the
    cost: with short segments on small models most of it.
    """
    method: str = "costs"

    async def measure(
        self, _: Placement, ports: Mapping[Server, int], __: Workload, seconds: float
    ) -> dict[str, Any]:
        """Microseconds a token, all requests together; their prefixes are cached."""
        found: dict[str, Any] = {}
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), connected(ports) as servers:
                room = min(
                    [(await load_of(each))["max_total_num_tokens"] for each in all_of(servers)]
                )
                # Also for what is written and scored, with a tenth to spare.
                most = int(0.9 * room / self.in_flight) - WRITTEN - SEGMENTS * self.segment
                found["prefix"] = min(PREFIX, max(16, most))
                prefixes = [prompt_ids(20_000 + n, found["prefix"]) for n in range(self.in_flight)]
                for author in ("draft", "target"):
                    found[author] = await _writing(servers[author][0], prefixes)
                others = [prompt_ids(30_000 + n, found["prefix"]) for n in range(self.in_flight)]
                await _scoring(servers["target"][0], others, self.segment, 1)  # compiles kernels
                found["scored"] = await _scoring(
                    servers["target"][0], prefixes, self.segment, SEGMENTS
                )
                found["d"] = found["draft"] / found["target"]
                found["s"] = found["scored"] / found["target"]
        return found if "s" in found else {"stopped": True, **found}


async def _writing(server: EndlessSGLang, prefixes: Sequence[list[int]]) -> float:
    await asyncio.gather(*(server.generate(to_write(ids, 1)) for ids in prefixes))
    works = [server.generate(to_write(ids, WRITTEN)) for ids in prefixes]
    return await _timed(works) / (len(prefixes) * WRITTEN)


async def _scoring(
    server: EndlessSGLang, prefixes: Sequence[list[int]], segment: int, segments: int
) -> float:
    """Of segments that follow one another, each chain at its own pace."""

    async def one(number: int, ids: list[int]) -> None:
        mark, growing, draws = ChainMark(), list(ids), random.Random(number)
        for _ in range(segments):
            start = len(growing)
            growing += draws.choices(range(len(SPECIAL), VOCABULARY), k=segment)
            await server.score(ScoreRequest(growing, start, mark))

    works = [one(number, ids) for number, ids in enumerate(prefixes)]
    return await _timed(works) / (len(prefixes) * segments * segment)


async def _timed(works: Sequence[Awaitable[object]]) -> float:
    """Microseconds until all are done."""
    began = time.perf_counter()
    await asyncio.gather(*works)
    return 1e6 * (time.perf_counter() - began)


def predicted(
    row: Mapping[str, Any], servers: Mapping[Author, simulated.Server], client_seconds: float
) -> dict[str, float]:
    """The same of simulated servers: microseconds a token, d and s."""
    key, prefix = row["row"], row["prefix"]
    segment = key.get("segment") or row["segment"]
    found: dict[str, float] = {
        author: run_virtually(_simulated(server, client_seconds, key["in_flight"], prefix, 0))
        for author, server in servers.items()
    }
    found["scored"] = run_virtually(
        _simulated(servers["target"], client_seconds, key["in_flight"], prefix, segment)
    )
    return {**found, "d": found["draft"] / found["target"], "s": found["scored"] / found["target"]}


async def _simulated(
    like: simulated.Server, client_seconds: float, in_flight: int, prefix: int, segment: int
) -> float:
    """Of writing, or of scoring segments of so many tokens."""
    server = simulated.Server(like.costs, like.options, SharedGpus())
    client, loop = SimulatedClient(client_seconds), asyncio.get_running_loop()

    async def one(number: int) -> None:
        for start in range(prefix, prefix + (SEGMENTS * segment or 1), segment or 1):
            await client.work()
            request = simulated.SimulatedRequest(
                chain=number,
                problem=-1 - number,
                prompt=1,
                ids=range(start + segment),
                scored_from=start if segment else None,
                write=0 if segment else WRITTEN,
                max_tokens=1 if segment else WRITTEN,
                last_id=-1,
                future=loop.create_future(),
                queued=loop.time(),
                known_cached=start,
            )
            server.submit(request)
            await request.future

    await asyncio.gather(*map(one, range(in_flight)))
    return 1e6 * loop.time() / (in_flight * (SEGMENTS * segment or WRITTEN))
