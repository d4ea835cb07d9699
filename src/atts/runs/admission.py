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
        self.known = 0
        """Of those, how many are known in length."""
        self.tokens = self.squares = self.seconds = 0.0
        """Sums over these: of their tokens, of the squares of those, and of their times."""
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

    def leave(self, tokens: int = 0, seconds: float = 0.0) -> None:
        """One has ended, with so many tokens in so many seconds; with 0 it tells nothing."""
        self.taken -= 1
        self.left += 1
        if tokens:
            self.known += 1
            self.tokens += tokens
            self.squares += tokens**2
            self.seconds += seconds
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
    - The engines tell their room, and ``limit`` how long a chain may become: no more chains than
      fit at the length that is expected of them, and as many at once. See ``_fitting``.
    - Otherwise it grows: by one for each chain that has ended, so that it doubles in the lifetime
      of a chain; by one for four that have ended, once half of that share of the cache is used; and
      it doubles at once as long as next to nothing is. Chains begin short, and grow to ten times
      their length and more: what a young one will take up shows only in its lifetime.

    It grows only where it is reached. Fewer never means that a chain is aborted.
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
        self._in_flight_seconds = 0.0  # of all chains together
        self._asked = asyncio.get_running_loop().time()
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
        fitting = self._fitting(loads)
        if use >= self._cache_use or any(load.waiting > load.running for load in loads):
            least = min(self._least, fitting or self._least)
            return max(least, min(capacity.size, capacity.taken * 9 // 10))
        if fitting is not None:
            return fitting
        if any(load.waiting for load in loads) or capacity.taken < capacity.size:
            return capacity.size
        if use < self._cache_use * NEXT_TO_NOTHING:
            return min(capacity.size * 2, self._most)
        self._credit += ended if use < self._cache_use / 2 else ended / 4
        grown, self._credit = divmod(self._credit, 1.0)
        return min(capacity.size + int(grown), self._most)

    def _fitting(self, loads: Sequence[Load]) -> int | None:
        """Chains that the smallest cache holds to their ends; None where one tells no room.

        A chain is taken to become half as long as it may until ``SEEN`` have ended, and then as
        long as those: the open ones are the long ones, so by the mean weighted by length, and
        since the first to end are the short ones, by as much longer as all time in flight is
        longer than that of the ended.
        """
        rooms = [load.room for load in loads]
        known = [room for room in rooms if room is not None]
        if self._limit is None or not known or len(known) < len(rooms):
            return None
        seen, now = self._capacity, asyncio.get_running_loop().time()
        self._in_flight_seconds += seen.taken * (now - self._asked)
        self._asked = now
        expected = half = self._limit / 2
        if seen.known:
            ended = min(seen.known / SEEN, 1.0)
            longer = self._in_flight_seconds / seen.seconds if seen.seconds else 1.0
            found = seen.squares / seen.tokens * max(longer, 1.0)
            expected = min(ended * found + (1.0 - ended) * half, float(self._limit))
        return max(1, min(int(min(known) / max(expected, 1.0)), self._most))


SEEN = 16
"""Chains that have ended, from which on what they needed is what others are expected to need."""


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
