"""Runs chains: one bounded pool over all problems, so that nothing waits for a slow problem."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

from atts.engines.replicas import start_chain
from atts.errors import AttsError, ContextLengthError
from atts.methods import Method
from atts.methods.chain import OpenChain
from atts.types import Chain, ChainEnd


class Clock:
    """The run's seconds, which go on where an interrupted run stopped."""

    def __init__(self, already_run: float = 0.0) -> None:
        self._zero = time.monotonic() - already_run

    def __call__(self) -> float:
        return time.monotonic() - self._zero


async def run_chains(
    groups: Iterable[Sequence[Callable[[], OpenChain]]],
    method: Method,
    in_flight: int,
    clock: Clock,
    finished: Callable[[Chain], None],
) -> None:
    """Solve every chain, at most ``in_flight`` at a time, and hand each over when it is done.

    A chain that fails is handed over as failed; the others go on. When this task is
    cancelled, or ``finished`` raises, every chain in flight is cancelled before this returns.

    Args:
        groups: chains that start together, when there is room for all of them: one by itself, or
            those of a problem that wait for each other. Opened as there is room, so a run of
            many chains stays small.
        method: how to solve a chain.
        in_flight: size of the pool, no smaller than any group.
        clock: the run's seconds.
        finished: takes finished chains, e.g. to write them down.
    """
    room = asyncio.Semaphore(in_flight)

    async def one(open_chain: Callable[[], OpenChain]) -> None:
        try:
            finished(await solve(open_chain, method, clock))
        finally:
            room.release()

    try:
        async with asyncio.TaskGroup() as pool:
            for group in groups:
                # Nobody else asks for room, so two groups cannot each hold what the other needs.
                for _ in group:
                    await room.acquire()
                for open_chain in group:
                    pool.create_task(one(open_chain))
    except* AttsError as errors:
        raise errors.exceptions[0] from None


async def solve(open_chain: Callable[[], OpenChain], method: Method, clock: Clock) -> Chain:
    """Run one chain to its end, whatever the end is."""
    started = clock()
    start_chain()
    chain = open_chain()
    error: str | None = None
    end: ChainEnd
    try:
        end = await method.solve(chain)
    except ContextLengthError:
        end = "context"
    except Exception as failure:  # a failed chain is data: it is recorded, the run goes on
        end, error = "failed", f"{type(failure).__name__}: {failure}"
    return chain.record(end, started, clock(), error)
