"""Warming up: let servers compile their kernels once, so that the first run does not pay.

SGLang, FlashInfer, Triton and torch.compile keep what they compile on disk, per model, GPU and
version. Much of it is compiled only at the first request of a new kind or size, so a warm-up
sends a few of each kind and size that a run sends.
"""

import asyncio
import itertools
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from atts.config import ModelOptions
from atts.engines.base import Engine, GenerateRequest, Sampling, ScoreRequest
from atts.engines.loading import remote_engines
from atts.engines.servers.plan import MODULES, ServerPlan
from atts.engines.servers.processes import tail
from atts.errors import ServerError

AT_ONCE = (1, 4, 16, 64, 128)
LENGTHS = (16, 256, 1024)
DEEP_GEMM = "sglang.compile_deep_gemm"
LOG_LINES = 25


async def warm_up(options: ModelOptions) -> float:
    """Send a model's servers what a run sends: to write, to score, alone and many at once.

    Returns:
        The seconds that it took.

    Raises:
        EngineError: a request failed.
    """
    began = time.monotonic()
    for engine in remote_engines(options):
        try:
            facts = await engine.connect()
            for length, at_once in _sizes(facts.context_length):
                await asyncio.gather(
                    *(_turn(engine, length, engine.vocab_size, seed) for seed in range(at_once))
                )
        finally:
            await engine.aclose()
    return time.monotonic() - began


def compile_deep_gemm(plan: ServerPlan, directory: Path) -> float:
    """Have SGLang compile DeepGEMM's kernels for a server, in every shape; its GPUs must be free.

    Returns:
        The seconds that it took.

    Raises:
        ServerError: it failed, with the end of its log.
    """
    began = time.monotonic()
    command = [DEEP_GEMM if word == MODULES["sglang"] else word for word in plan.command]
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / f"{plan.author}-deep-gemm.log"
    with log.open("wb") as file:
        done = subprocess.run(  # noqa: S603 - the configuration's own Python
            command,
            env=os.environ | plan.environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        raise ServerError(
            f"{DEEP_GEMM} for the {plan.author} ended with status {done.returncode}; what it had "
            f"compiled is kept, so it may be run again. The end of {log}:\n{tail(log, LOG_LINES)}"
        )
    return time.monotonic() - began


def _sizes(context_length: int) -> Iterator[tuple[int, int]]:
    lengths = [length for length in LENGTHS if length + 64 < context_length] or [4]
    return itertools.product(lengths, AT_ONCE)


async def _turn(engine: Engine, length: int, vocab_size: int, seed: int) -> None:
    """A turn of a chain of random tokens, which no prefix cache holds."""
    random_ids = random.Random(f"{length} {seed}")  # noqa: S311 - not a secret
    chain = [random_ids.randrange(vocab_size) for _ in range(length)]
    sampling = Sampling(max_tokens=8, temperature=0.8, top_p=1.0, seed=seed)
    completion = await engine.generate(GenerateRequest(chain, sampling))
    chain += [*completion.token_ids, 1]
    await engine.score(ScoreRequest(chain, length))
