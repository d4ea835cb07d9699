"""Several servers of one model as one engine.

A chain stays on its replica, where its prefix is cached; a new chain goes to the replica with the
fewest. When a replica is gone, or comes back with another model, its chains move
to another one, request by request.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar
from weakref import WeakKeyDictionary

from atts.engines.base import (
    ChainMark,
    Completion,
    Engine,
    GenerateRequest,
    Load,
    Metered,
    Scored,
    ScoreRequest,
    emptied,
    room_of,
    speculation_of,
)
from atts.errors import ConfigError, EngineConnectionError, EngineTimeoutError
from atts.types import Speculation

DOWN_SECONDS = 10.0
"""A replica that did not answer is left alone for so long, unless all are down."""

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


class Replicas:
    """An engine over several engines of one model; see ``Engine``."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = list(engines)
        self._of_chain: WeakKeyDictionary[ChainMark, int] = WeakKeyDictionary()
        self._in_flight = [0] * len(self._engines)
        self._down_until = [0.0] * len(self._engines)

    async def generate(self, request: GenerateRequest) -> Completion:
        return await self._on_a_replica(request.chain, lambda engine: engine.generate(request))

    async def score(self, request: ScoreRequest) -> Scored:
        return await self._on_a_replica(request.chain, lambda engine: engine.score(request))

    async def meter(self) -> Load | None:
        """The load of all replicas that answer, and the cache use of the fullest.

        Raises:
            EngineError: none answers.
        """
        metered = [engine for engine in self._engines if isinstance(engine, Metered)]
        results = await asyncio.gather(
            *(engine.meter() for engine in metered), return_exceptions=True
        )
        answers = [result for result in results if not isinstance(result, BaseException)]
        if not answers and results:
            raise next(result for result in results if isinstance(result, BaseException))
        loads = [load for load in answers if load is not None]
        if not loads or len(loads) < len(answers):
            return None
        return Load(
            running=sum(load.running for load in loads),
            waiting=sum(load.waiting for load in loads),
            cache_use=max(load.cache_use for load in loads),
            room=room_of(loads),
        )

    async def speculation(self) -> Speculation | None:
        """The sum over the replicas that tell."""
        told = await asyncio.gather(*map(speculation_of, self._engines))
        found = [each for each in told if each is not None]
        return sum(found[1:], found[0]) if found else None

    async def empty_cache(self) -> bool:
        """Whether all did."""
        return all(await asyncio.gather(*map(emptied, self._engines)))

    async def aclose(self) -> None:
        await asyncio.gather(*(engine.aclose() for engine in self._engines))

    def mark_down(self, number: int) -> None:
        """Give no chain to a replica for a while."""
        self._down_until[number] = time.monotonic() + DOWN_SECONDS

    async def _on_a_replica(
        self, chain: ChainMark | None, send: Callable[[Engine], Awaitable[Result]]
    ) -> Result:
        tried: set[int] = set()
        while True:
            number = self._choose(chain, tried)
            tried.add(number)
            self._in_flight[number] += 1
            try:
                result = await send(self._engines[number])
            except (EngineConnectionError, EngineTimeoutError, ConfigError) as error:
                self.mark_down(number)
                if len(tried) == len(self._engines):
                    raise
                what = "serves another model" if isinstance(error, ConfigError) else "is down"
                _log.warning("a replica %s, its chains move on: %s", what, error)
            else:
                self._down_until[number] = 0.0
                return result
            finally:
                self._in_flight[number] -= 1

    def _choose(self, chain: ChainMark | None, tried: set[int]) -> int:
        now = time.monotonic()
        mine = self._of_chain.get(chain) if chain else None
        if mine is not None and mine not in tried and self._down_until[mine] <= now:
            return mine
        chains = [0] * len(self._engines)
        for number in self._of_chain.values():
            chains[number] += 1

        def load(number: int) -> tuple[bool, int, int]:
            down = self._down_until[number] > now
            return (down, chains[number], self._in_flight[number])

        number = min((n for n in range(len(self._engines)) if n not in tried), key=load)
        if chain:
            self._of_chain[chain] = number
        return number
