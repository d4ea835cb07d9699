"""What SGLang's prefix cache takes to make room once it is full: its own code, on a processor.

    python benchmarks/evicting.py SITE [--chains 100 400 1600 6400] [--room 64]

SITE is the folder that holds the package ``sglang`` (0.5.12), of which the cache alone is run,
without kernels and metrics. It holds finished chains, either as ATTS leaves them (short segments,
of which some were cut and written anew) or in one piece each. A server makes room so before nearly
every step once its cache is full. The many tuples of a call also set off the collection of garbage,
which looks at the whole tree.
"""

import argparse
import gc
import importlib
import random
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

PACKAGES = ("sglang", "sglang.srt", "sglang.srt.mem_cache")
ABSENT = (
    "triton",
    "triton.language",
    "sglang.jit_kernel",
    "sglang.jit_kernel.utils",
    "sglang.srt.environ",
    "sglang.srt.disaggregation",
    "sglang.srt.disaggregation.kv_events",
    "sglang.srt.mem_cache.allocator",
    "sglang.srt.mem_cache.memory_pool",
    "sglang.srt.observability",
    "sglang.srt.observability.metrics_collector",
)
PROMPT, TURNS, DRAFT, TARGET, RATE = 100, 16, 48, 16, 0.7
"""Tokens, turns and take-overs of a chain: those of the real pair (docs/advise.md)."""
CALLS = 20


class Memory:
    """Takes back what is evicted."""

    device = "cpu"

    def free(self, tokens: object) -> None:
        """They are nowhere."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("site", type=Path)
    parser.add_argument("--chains", type=int, nargs="+", default=[100, 400, 1_600, 6_400])
    parser.add_argument("--room", type=int, default=64, help="tokens that a step needs")
    options = parser.parse_args()
    radix, base = loaded(options.site)
    print("| chains | pieces | tokens | leaves | a call, ms | without collecting garbage, ms |")
    print("|---|---|---|---|---|---|")
    for chains in options.chains:
        for short in (True, False):
            cache = filled(radix, base, chains, short)
            tokens, leaves = cache.evictable_size(), len(cache.evictable_leaves)
            room = base.EvictParams(num_tokens=options.room)
            took = milliseconds(cache, room)
            gc.disable()
            alone = milliseconds(cache, room)
            gc.enable()
            pieces = "as of ATTS" if short else "one a chain"
            print(
                f"| {chains:,} | {pieces} | {tokens:,} | {leaves:,} | {took:.2f} | {alone:.2f} |",
                flush=True,
            )


def milliseconds(cache: Any, room: object) -> float:  # noqa: ANN401
    """Of a call, in the mean."""
    began = time.perf_counter()
    for _ in range(CALLS):
        cache.evict(room)
    return 1_000 * (time.perf_counter() - began) / CALLS


def loaded(site: Path) -> tuple[ModuleType, ModuleType]:
    """The cache's modules, without the packages around them."""
    for name in PACKAGES:
        package = ModuleType(name)
        package.__path__ = [str(site / name.replace(".", "/"))]
        sys.modules[name] = package
    sys.modules.update({name: MagicMock() for name in ABSENT})
    names = ("radix_cache", "base_prefix_cache")
    radix, base = (importlib.import_module(f"sglang.srt.mem_cache.{name}") for name in names)
    return radix, base


def filled(radix: Any, base: Any, chains: int, short: bool) -> Any:  # noqa: ANN401
    """A cache with so many finished chains."""
    numbers = random.Random(0)
    cache = radix.RadixCache.create_simulated(mock_allocator=Memory())

    def written(tokens: int) -> list[int]:
        return [numbers.randrange(100_000) for _ in range(tokens)]

    def keep(ids: list[int]) -> None:
        cache.insert(base.InsertParams(key=radix.RadixKey(ids)))

    for chain in range(chains):
        ids = [1_000_000 + chain, *written(PROMPT)]
        for _ in range(TURNS):
            segment = written(DRAFT)
            if short:
                keep(ids + segment)
            if numbers.random() < RATE:
                segment = segment[: numbers.randrange(DRAFT)] + written(TARGET)
            ids += segment
        keep(ids)
    return cache


if __name__ == "__main__":
    main()
