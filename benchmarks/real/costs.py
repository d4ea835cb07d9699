"""What drafting and scoring cost on the servers of a pair, in tokens that the target writes.

    python benchmarks/real/costs.py -c PAIR.yaml [--in-flight 1 16 64 256] [--out costs.json]

With n requests in flight, after a cached prefix of 500 tokens: the time of a token that the draft
writes, that the target writes, and that the target scores, in segments of ``--segment`` tokens. The
first over the second is d, the last over the second s (docs/simulation.md). Servers are up; no
other work is on them.
"""

import argparse
import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from atts.config import load_config
from atts.engines.base import ChainMark, Engine, GenerateRequest, Sampling, ScoreRequest
from atts.engines.loading import load_engine

PREFIX = 500
WRITTEN = 96
ROUNDS = 6
IDS = (1_000, 20_000)
"""Ordinary tokens of any vocabulary of today's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-c", "--config", type=Path, required=True)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--segment", type=int, default=48)
    parser.add_argument("--out", type=Path, default=Path("costs.json"))
    options = parser.parse_args()
    found = asyncio.run(measure(options))
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("in flight  draft us/token  target us/token  scored us/token     d     s")
    for each in found:
        print(
            f"{each['in_flight']:>9}  {each['draft']:>14.1f}  {each['target']:>15.1f}  "
            f"{each['scored']:>15.1f}  {each['d']:.2f}  {each['s']:.2f}",
        )


async def measure(options: argparse.Namespace) -> list[dict[str, float]]:
    config = load_config(options.config)
    draft, target = await load_engine(config.draft), await load_engine(config.target)
    found = []
    try:
        for in_flight in options.in_flight:
            chains = [prefix(number) for number in range(in_flight)]
            draft_us = await writing(draft, chains)
            target_us = await writing(target, chains)
            scored_us = await scoring(target, chains, options.segment)
            found.append(
                {
                    "in_flight": in_flight,
                    "segment": options.segment,
                    "draft": draft_us,
                    "target": target_us,
                    "scored": scored_us,
                    "d": draft_us / target_us,
                    "s": scored_us / target_us,
                }
            )
    finally:
        await draft.aclose()
        await target.aclose()
    return found


def prefix(number: int) -> list[int]:
    return random.Random(number).choices(range(*IDS), k=PREFIX)


async def writing(engine: Engine, chains: Sequence[list[int]]) -> float:
    """Microseconds a token, all chains together, their prefixes being cached."""

    def request(ids: list[int], tokens: int) -> GenerateRequest:
        sampling = Sampling(max_tokens=tokens, temperature=0.8, top_p=1.0, seed=sum(ids))
        return GenerateRequest(ids, sampling)

    await asyncio.gather(*(engine.generate(request(ids, 1)) for ids in chains))
    began = time.perf_counter()
    done = await asyncio.gather(*(engine.generate(request(ids, WRITTEN)) for ids in chains))
    return 1e6 * (time.perf_counter() - began) / sum(len(each.token_ids) for each in done)


async def scoring(engine: Engine, chains: Sequence[list[int]], segment: int) -> float:
    """Microseconds a token of segments that follow one another, each chain at its own pace."""

    async def one(ids: list[int]) -> None:
        mark, growing = ChainMark(), list(ids)
        for number in range(ROUNDS):
            start = len(growing)
            growing += random.Random(start + number + ids[0]).choices(range(*IDS), k=segment)
            await engine.score(ScoreRequest(growing, start, mark))

    return await timed(one, chains) / (len(chains) * ROUNDS * segment)


async def timed(one: Callable[[list[int]], Awaitable[None]], chains: Sequence[list[int]]) -> float:
    began = time.perf_counter()
    await asyncio.gather(*map(one, chains))
    return 1e6 * (time.perf_counter() - began)


if __name__ == "__main__":
    main()
