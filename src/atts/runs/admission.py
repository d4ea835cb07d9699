"""How many chains are in flight: as many as the engines take, and their caches hold."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from atts.config import Config
from atts.engines.base import Engine, Load, Metered
from atts.errors import EngineError

POLL_SECONDS = 1.0

NEXT_TO_NOTHING = 1 / 32
"""Of ``limits.cache_use``: even twice as many chains, grown tenfold, stay below it."""


class Capacity:
    """How many chains may be in flight; the number may change while some are."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.taken = 0
        self.left = 0
        """How many have ended so far."""
        self._changed = asyncio.Event()
        self._next = asyncio.Lock()

    async def take(self, count: int) -> None:
        """Wait until ``count`` more may be in flight at once, or none is.

        Callers are served in the order in which they came.
        """
        async with self._next:
            while self.taken and self.taken + count > self.size:
                self._changed.clear()
                await self._changed.wait()
            self.taken += count

    def leave(self) -> None:
        """One has ended."""
        self.taken -= 1
        self.left += 1
        self._changed.set()

    def resize(self, size: int) -> None:
        """Change how many; those in flight stay."""
        self.size = size
        self._changed.set()


class Admission:
    """Lets the capacity follow the load of the engines: as many chains as they take, no more.

    Every ``POLL_SECONDS`` each engine is asked for its load, and the capacity moves between
    ``limits.chains_min`` and ``limits.chains``:

    - An engine has more requests waiting than running, or its cache is used up to
      ``limits.cache_use``: no chain begins until a tenth of those in flight have ended.
    - Otherwise, if a request waits anywhere, it stays. More chains would wait too, and meanwhile
      lose what is cached of them.
    - Otherwise it grows: by one for each chain that has ended, so that it doubles in the lifetime
      of a chain; by one for four that have ended, once half of that share of the cache is used; and
      it doubles at once as long as next to nothing is. Chains begin short, and grow to ten times
      their length and more: what a young one will take up shows only in its lifetime.

    It grows only where it is reached. Fewer never means that a chain is aborted.

    Where every engine tells its room, and ``limit`` how long a chain may become, it begins with as
    many as the smallest cache holds at half that length, in place of doubling. To hold on to that
    number costs more than it saves wherever reading a prefix again is cheap (docs/speed.md).
    """

    def __init__(
        self,
        capacity: Capacity,
        engines: Sequence[Metered],
        least: int,
        most: int,
        cache_use: float,
        limit: int | None = None,
    ) -> None:
        self._limit = limit
        self._by_room = False  # whether it has begun with as many as fit
        self._capacity = capacity
        self._engines = engines
        self._least = min(least, most)
        self._most = most
        self._cache_use = cache_use
        self._left = capacity.left
        self._credit = 0.0  # chains by which it may grow

    async def follow(self, warn: Callable[[str], None]) -> None:
        """Adapt it until cancelled; raise it to the most where a load is not told.

        What goes wrong with it is told once, and changes nothing: the chains need it only to be
        many.
        """
        told = False
        while True:
            try:
                loads = await asyncio.gather(*(engine.meter() for engine in self._engines))
                known = [load for load in loads if load is not None]
                if len(known) < len(loads):
                    self._capacity.resize(self._most)
                    warn(
                        "a server does not tell its load, so the number of chains in flight is "
                        f"fixed at limits.chains={self._most}"
                    )
                    return
                self._capacity.resize(self._next_size(known))
            except EngineError:  # its requests fail too, and are tried again
                pass
            except Exception as error:
                if not told:
                    warn(
                        "the number of chains in flight does not follow the load of the engines: "
                        f"{type(error).__name__}: {error}"
                    )
                told = True
            await asyncio.sleep(POLL_SECONDS)

    def _next_size(self, loads: Sequence[Load]) -> int:
        capacity, ended = self._capacity, self._capacity.left - self._left
        self._left = capacity.left
        use = max(load.cache_use for load in loads)
        self._begin_by_room(loads)
        if use >= self._cache_use or any(load.waiting > load.running for load in loads):
            return max(self._least, min(capacity.size, capacity.taken * 9 // 10))
        if any(load.waiting for load in loads) or capacity.taken < capacity.size:
            return capacity.size
        if use < self._cache_use * NEXT_TO_NOTHING and not self._by_room:
            return min(capacity.size * 2, self._most)
        self._credit += ended if use < self._cache_use / 2 else ended / 4
        grown, self._credit = divmod(self._credit, 1.0)
        return min(capacity.size + int(grown), self._most)

    def _begin_by_room(self, loads: Sequence[Load]) -> None:
        rooms = [load.room for load in loads if load.room is not None]
        if not self._by_room and self._limit and rooms and len(rooms) == len(loads):
            fitting = 2 * min(rooms) // self._limit
            self._capacity.resize(min(max(self._capacity.size, fitting), self._most))
            self._by_room = True


def longest(config: Config) -> int:
    """Tokens that a chain of these turns can write at most."""
    turns = config.turns
    return turns.max_turns * max(turns.draft_bounds[1], turns.target_tokens)


@asynccontextmanager
async def adapting_capacity(
    config: Config, engines: Sequence[Engine], warn: Callable[[str], None] | None
) -> AsyncIterator[Capacity]:
    """The capacity of a run, which follows the load of the engines where the configuration lets it.

    ``warn`` is told if a load cannot be followed.
    """
    limits = config.limits
    metered = [engine for engine in engines if isinstance(engine, Metered)]
    if limits.chains_min >= limits.chains or not metered:
        yield Capacity(limits.chains)
        return
    capacity = Capacity(limits.chains_min)
    admission = Admission(
        capacity, metered, limits.chains_min, limits.chains, limits.cache_use, longest(config)
    )
    following = asyncio.create_task(admission.follow(warn or (lambda _: None)))
    try:
        yield capacity
    finally:
        following.cancel()
        await asyncio.wait([following])
