"""Runs chains: one bounded pool over all problems, so that nothing waits for a slow problem."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from atts.config import Config
from atts.engines.base import Engine
from atts.engines.limits import LimitedEngine
from atts.engines.outage import Outage, Waited
from atts.errors import AttsError, ConfigError, ContextLengthError, EngineGoneError
from atts.methods import Method
from atts.methods.chain import ChainOverError, OpenChain
from atts.runs.admission import POLL_SECONDS, Capacity, adapting_capacity
from atts.runs.setup import PlannedChain
from atts.runs.stopping import Settled, Stopping
from atts.types import Chain, ChainEnd

SELDOM = (50_000, 20, 1_000)


@contextmanager
def collected_seldom() -> Iterator[None]:
    """Let the collector look at young objects seldom, and at all objects practically never.

    Chains are not part of cycles, and are freed without it. Each full search looks at every
    token id of every open chain; with more chains there are more searches, and each takes longer
    (``benchmarks/overhead.py``).
    """
    before = gc.get_threshold()
    gc.set_threshold(*SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)


class Clock:
    """The run's seconds, which go on where an interrupted run stopped."""

    def __init__(self, already_run: float = 0.0, now: Callable[[], float] = time.monotonic) -> None:
        """``now`` is the time of the event loop, which a simulation makes jump."""
        self._now = now
        self._zero = now() - already_run

    def __call__(self) -> float:
        return self._now() - self._zero


async def make_chains(
    groups: Iterable[Sequence[PlannedChain]],
    method: Method,
    config: Config,
    engines: Sequence[Engine],
    clock: Clock,
    finished: Callable[[Chain], None],
    stopping: Stopping | None = None,
    warn: Callable[[str], None] | None = None,
) -> None:
    """Solve every chain, as many at a time as the configuration says and the engines can take.

    Args:
        groups, method, clock, finished, stopping: see ``run_chains``.
        config: of the run.
        engines: those of the run's models, whose load the number of chains in flight follows.
        warn: is told if a load cannot be followed.
    """
    with collected_seldom():
        async with adapting_capacity(config, engines, warn) as capacity:
            outages = outages_of(engines)
            await run_chains(groups, method, capacity, clock, finished, stopping, outages)


def outages_of(engines: Iterable[Engine]) -> list[Outage]:
    """What says of each engine whether it answers, where anything does."""
    return [engine.outage for engine in engines if isinstance(engine, LimitedEngine)]


async def run_chains(
    groups: Iterable[Sequence[PlannedChain]],
    method: Method,
    in_flight: int | Capacity,
    clock: Clock,
    finished: Callable[[Chain], None],
    stopping: Stopping | None = None,
    outages: Sequence[Waited] = (),
) -> None:
    """Solve every chain, at most ``in_flight`` at a time, and hand each over when it is done.

    A chain that fails is handed over as failed; the others go on. When this task is
    cancelled, the configuration is found to be wrong, an engine is gone, or ``finished`` raises,
    every chain in flight is cancelled before this returns.

    Args:
        groups: chains that start together, when all of them may: one by itself, or those of a
            problem that wait for each other. Opened when they start, so a run of many chains
            stays small.
        method: how to solve a chain.
        in_flight: size of the pool; or a capacity, which may change. A group that is larger has
            the pool for itself.
        clock: the run's seconds.
        finished: takes finished chains, e.g. to write them down.
        stopping: ends the chains of problems that are settled.
        outages: of the engines; no chain begins while there is one.

    Raises:
        ConfigError: the configuration does not fit the models, which shows only now.
        EngineGoneError: an engine was waited for in vain.
    """
    capacity = in_flight if isinstance(in_flight, Capacity) else Capacity(in_flight)

    async def make(planned: PlannedChain) -> Chain:
        return await solve(planned, method, clock, stopping)

    await run_pool(groups, make, capacity, finished, stopping, outages)


async def run_pool(
    groups: Iterable[Sequence[PlannedChain]],
    make: Callable[[PlannedChain], Awaitable[Chain]],
    capacity: Capacity,
    finished: Callable[[Chain], None],
    stopping: Stopping | None,
    outages: Sequence[Waited],
) -> None:
    """The pool of ``run_chains``, whose chains are solved by ``make``, wherever that is."""

    async def one(planned: PlannedChain) -> None:
        try:
            chain = await make(planned)
            finished(chain)
            if stopping:
                await stopping.chains_done([chain])
        finally:
            capacity.leave()

    try:
        async with asyncio.TaskGroup() as pool:
            for group in groups:
                await capacity.take(len(group))
                # Those in flight find out whether it is over; where there are none, these do.
                while capacity.taken > len(group) and (on := [o for o in outages if o.is_on]):
                    await on[0].ends_within(POLL_SECONDS)
                for planned in group:
                    pool.create_task(one(planned))
    except* AttsError as errors:
        raise errors.exceptions[0] from None


async def solve(
    planned: PlannedChain,
    method: Method,
    clock: Clock,
    stopping: Settled | None = None,
) -> Chain:
    """Run one chain to its end, whatever the end is.

    Raises:
        ConfigError, EngineGoneError: see ``run_chains``.
    """
    started = clock()
    chain: OpenChain | None = None
    error: str | None = None
    end: ChainEnd
    scope = asyncio.timeout(None)
    try:
        async with scope:
            chain = planned.open()
            if stopping is None:
                end = await method.solve(chain)
            elif stopping.is_settled(planned.key.problem_id):
                end = "not-needed"
            else:
                with stopping.may_end(planned.key.problem_id, scope):
                    end = await method.solve(chain)
    except ContextLengthError:
        end = "context"
    except ChainOverError as over:
        end = over.end
    except (
        ConfigError,
        EngineGoneError,
    ):  # fails every chain alike, and is no property of this one
        raise
    except Exception as failure:  # a failed chain is data: it is recorded, the run goes on
        if scope.expired():
            end = "not-needed"
        else:
            end, error = "failed", f"{type(failure).__name__}: {failure}"
    if chain:
        return chain.record(end, started, clock(), error)
    return Chain(
        problem_id=planned.key.problem_id,
        sample=planned.key.sample,
        end=end,
        answer=None,
        turns=(),
        started=started,
        done=clock(),
        error=error,
    )
