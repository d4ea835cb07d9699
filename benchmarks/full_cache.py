"""Does a server grow slower as finished chains fill its cache? The same work, again and again.

    python benchmarks/full_cache.py http://127.0.0.1:40000 --rounds 6 [--flush] [--segment 48]

Each round writes new chains in short segments, each sent with all tokens before it, and abandons a
part of the segments, as a chain does that the target takes over. Rounds differ in tokens alone.
SGLang (0.5.12) looks at every evictable leaf of its prefix tree whenever it must evict, which is in
nearly every step once the cache is full; each abandoned segment is a leaf. With ``--flush``
the cache is emptied before each round. To compare, run both on servers that were just started.
"""

import argparse
import asyncio
import random
import time

import aiohttp


async def chain(
    session: aiohttp.ClientSession, url: str, rng: random.Random, args: argparse.Namespace
) -> None:
    """One chain, whose abandoned segments are forgotten here and kept there."""
    ids = [rng.randrange(100, args.vocabulary) for _ in range(150)]
    for _ in range(args.segments):
        body = {
            "input_ids": ids,
            "sampling_params": {
                "max_new_tokens": args.segment,
                "temperature": 1.0,
                "ignore_eos": True,
            },
        }
        async with session.post(f"{url}/generate", json=body) as reply:
            reply.raise_for_status()
            written = (await reply.json())["output_ids"]
        if rng.random() < args.abandoned:
            written = [rng.randrange(100, args.vocabulary) for _ in range(16)]
        ids = ids + written


async def main(args: argparse.Namespace) -> None:
    """Print a line a round."""
    limit = aiohttp.TCPConnector(limit=args.in_flight)
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(connector=limit, timeout=timeout) as session:
        for number in range(args.rounds):
            if args.flush:
                async with session.post(f"{args.url}/flush_cache") as reply:
                    reply.raise_for_status()
            rngs = [random.Random(f"{number} {i}") for i in range(args.chains)]
            began = time.perf_counter()
            await asyncio.gather(*(chain(session, args.url, rng, args) for rng in rngs))
            seconds = time.perf_counter() - began
            requests = args.chains * args.segments
            each = seconds / requests * min(args.in_flight, args.chains)
            print(f"round {number + 1}: {seconds:.1f} s, {each:.3f} s a segment", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--chains", type=int, default=128)
    parser.add_argument("--in-flight", type=int, default=128)
    parser.add_argument("--segments", type=int, default=40)
    parser.add_argument("--segment", type=int, default=48, help="tokens")
    parser.add_argument("--abandoned", type=float, default=0.4, help="share of the segments")
    parser.add_argument("--vocabulary", type=int, default=150_000)
    parser.add_argument("--flush", action="store_true", help="empty the cache before each round")
    asyncio.run(main(parser.parse_args()))
