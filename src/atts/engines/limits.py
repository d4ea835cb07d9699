"""Limits and retries around an engine, request by request."""

import asyncio
import heapq
import logging
import math
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from atts.engines.base import (
    Completion,
    Engine,
    GenerateRequest,
    Load,
    Metered,
    Need,
    Scored,
    ScoreRequest,
    emptied,
    speculation_of,
)
from atts.engines.outage import PATIENCE_SECONDS, Outage
from atts.errors import EngineUnavailableError, RequestRefusedError
from atts.types import Speculation, Timings

Result = TypeVar("Result", Completion, Scored)
LONGEST_WAIT_SECONDS = 60.0
LONGEST_RETRY_AFTER_SECONDS = 600.0
"""A server that asks for a longer wait is asked again after this one."""
TOLD_EVERY_SECONDS = 30.0
"""While requests wait for so long and longer, one message says so at these intervals."""

_log = logging.getLogger(__name__)


class Slots:
    """So many slots; of those who wait for one, the highest rank gets the next."""

    def __init__(self, count: int) -> None:
        self.free = count
        """Slots that nobody holds; where there is one, nobody waits."""
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._came = 0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(not given.done() for *_, given in self._waiting)

    async def take(self, rank: int) -> None:
        """Wait for a slot; equal ranks get theirs in the order in which they came."""
        if self.free:
            self.free -= 1
            return
        given = asyncio.get_running_loop().create_future()
        self._came += 1
        heapq.heappush(self._waiting, (-rank, self._came, given))
        try:
            await given
        except asyncio.CancelledError:
            if not given.cancelled():  # it was given, at the last moment
                self.give_back()
            raise

    def give_back(self) -> None:
        """Leave the slot to others."""
        while self._waiting:
            *_, given = heapq.heappop(self._waiting)
            if not given.done():
                given.set_result(None)
                return
        self.free += 1


class LimitedEngine:
    """An engine with at most ``in_flight`` requests at a time, which retries passing failures.

    A chain whose request fails in a passing way so loses one request, not its past turns. Where
    requests wait, the longest go first: theirs are the chains nearest to their end, which then
    leave, with the memory that they hold. A request made ahead of its need takes only a slot
    that nobody waits for, and else waits with the others only once its result is needed for
    certain. While the engine does not answer at all, nothing is sent and no try is counted
    (``Outage``, which says what is raised in the end). A result's ``queued`` is when it was asked
    for here: waits for a slot, and tries that failed, are part of the time before the engine began.
    """

    def __init__(
        self,
        engine: Engine,
        in_flight: int,
        attempts: int,
        backoff_seconds: float,
        patience_seconds: float = PATIENCE_SECONDS,
        name: str = "model",
    ) -> None:
        self.outage = Outage(engine, patience_seconds, name)
        self._engine = engine
        self._slots = Slots(in_flight)
        self._attempts = attempts
        self._backoff_seconds = backoff_seconds
        self._told = -math.inf

    async def generate(self, request: GenerateRequest) -> Completion:
        return await self._retry(
            lambda: self._engine.generate(request), len(request.token_ids), request.need
        )

    async def score(self, request: ScoreRequest) -> Scored:
        return await self._retry(
            lambda: self._engine.score(request), len(request.token_ids), request.need
        )

    @property
    def waiting(self) -> int:
        """Requests that wait here for a slot."""
        return self._slots.waiting

    async def meter(self) -> Load | None:
        """The engine's load, and what waits here for a slot."""
        load = await self._engine.meter() if isinstance(self._engine, Metered) else None
        return load and load._replace(waiting=load.waiting + self.waiting)

    async def speculation(self) -> Speculation | None:
        return await speculation_of(self._engine)

    async def empty_cache(self) -> bool:
        return await emptied(self._engine)

    async def aclose(self) -> None:
        await self._engine.aclose()

    async def _retry(
        self, send: Callable[[], Awaitable[Result]], rank: int, need: Need | None
    ) -> Result:
        clock = asyncio.get_running_loop().time  # time.monotonic, or a simulation's
        asked = clock()
        outage, attempt = self.outage, 1
        waited_in_vain = outage.waited_in_vain
        while True:
            if need and (outage.is_on or not self._slots.free):
                await need.put_off()
            goes_first = await outage.over(waited_in_vain)
            try:
                # Waiting for another try holds no slot: the others may go on meanwhile.
                await self._slots.take(rank)
                try:
                    if outage.is_on and not goes_first:  # it has begun meanwhile
                        continue
                    sent = clock()
                    result = await send()
                finally:
                    self._slots.give_back()
                break
            except EngineUnavailableError as error:
                outage.failed(error, goes_first)
                seconds, failure = self._seconds_to_wait(attempt, error), error
                if goes_first or not outage.is_on:
                    if attempt >= self._attempts:
                        raise
                    attempt += 1
            except RequestRefusedError:
                outage.answered(sent, goes_first)
                raise
            await self._wait(seconds, failure)
        outage.answered(sent, goes_first)
        began = result.timings
        timings = Timings(  # model_copy takes five times as long
            queued=asked, started=began.started, first_token=began.first_token, done=began.done
        )
        return result._replace(timings=timings)

    async def _wait(self, seconds: float, failure: EngineUnavailableError) -> None:
        """Wait, and say now and then how long still; of many that wait, one says it."""
        left = seconds
        while True:
            now = asyncio.get_running_loop().time()
            if seconds >= TOLD_EVERY_SECONDS and now - self._told >= TOLD_EVERY_SECONDS:
                self._told = now
                asked = failure.retry_after
                why = f"it asked to wait {asked:,.0f} s; " if asked else ""
                _log.warning("%s; %sthe next try is in %.0f s", failure, why, left)
            piece = min(left, TOLD_EVERY_SECONDS)
            await asyncio.sleep(piece)
            left -= piece
            if left <= 0.0:
                return

    def _seconds_to_wait(self, attempt: int, error: EngineUnavailableError) -> float:
        """Exponential backoff with full jitter, or longer where the server says so."""
        most = min(self._backoff_seconds * 2.0 ** min(attempt - 1, 64), LONGEST_WAIT_SECONDS)
        asked = min(error.retry_after or 0.0, LONGEST_RETRY_AFTER_SECONDS)
        return max(random.uniform(0.0, most), asked)  # noqa: S311  (not a secret)
