"""Limits and retries around an engine, request by request."""

import asyncio
import heapq
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from atts.engines.base import Completion, Engine, Load, Metered, Sampling, Scored
from atts.errors import EngineUnavailableError
from atts.methods.ahead import until_needed

Result = TypeVar("Result", Completion, Scored)
LONGEST_WAIT_SECONDS = 60.0
LONGEST_RETRY_AFTER_SECONDS = 600.0
"""A server that asks for a longer wait is asked again after this one."""


class Places:
    """So many places; of those who wait for one, the highest rank gets the next."""

    def __init__(self, count: int) -> None:
        self.free = count
        """Places that nobody holds; where there is one, nobody waits."""
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._came = 0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(not place.done() for *_, place in self._waiting)

    @asynccontextmanager
    async def place(self, rank: int) -> AsyncIterator[None]:
        """Hold a place inside; equal ranks get theirs in the order in which they came."""
        if self.free:
            self.free -= 1
        else:
            place = asyncio.get_running_loop().create_future()
            self._came += 1
            heapq.heappush(self._waiting, (-rank, self._came, place))
            try:
                await place
            except asyncio.CancelledError:
                if not place.cancelled():  # it was given, at the last moment
                    self._give_away()
                raise
        try:
            yield
        finally:
            self._give_away()

    def _give_away(self) -> None:
        while self._waiting:
            *_, place = heapq.heappop(self._waiting)
            if not place.done():
                place.set_result(None)
                return
        self.free += 1


class LimitedEngine:
    """An engine with at most ``in_flight`` requests at a time, which retries passing failures.

    A chain whose request fails in a passing way so loses one request, not its past turns. Where
    requests wait, the longest go first: theirs are the chains nearest to their end, which then
    leave, with the memory that they hold. A request made ahead of a decision takes only a place
    that nobody waits for, and else waits with the others only once its result is needed for
    certain. A result's ``queued`` is when it was asked for here: waits for a place, and tries that
    failed, are part of the time before the engine began.
    """

    def __init__(
        self, engine: Engine, in_flight: int, attempts: int, backoff_seconds: float
    ) -> None:
        self._engine = engine
        self._places = Places(in_flight)
        self._attempts = attempts
        self._backoff = wait_random_exponential(backoff_seconds, max=LONGEST_WAIT_SECONDS)

    async def generate(self, token_ids: Sequence[int], sampling: Sampling) -> Completion:
        return await self._retry(lambda: self._engine.generate(token_ids, sampling), len(token_ids))

    async def score(self, token_ids: Sequence[int], start: int) -> Scored:
        return await self._retry(lambda: self._engine.score(token_ids, start), len(token_ids))

    async def meter(self) -> Load | None:
        """The engine's load, and what waits here for a place."""
        load = await self._engine.meter() if isinstance(self._engine, Metered) else None
        return load and load._replace(waiting=load.waiting + self._places.waiting)

    async def aclose(self) -> None:
        await self._engine.aclose()

    def _wait(self, state: RetryCallState) -> float:
        """Seconds to wait: the backoff, or longer where the server says so."""
        error = state.outcome.exception() if state.outcome else None
        asked = getattr(error, "retry_after", None) or 0.0
        return max(self._backoff(state), min(asked, LONGEST_RETRY_AFTER_SECONDS))

    async def _retry(self, request: Callable[[], Awaitable[Result]], rank: int) -> Result:
        asked = asyncio.get_running_loop().time()  # time.monotonic(), or a simulation's

        async def within_limit() -> Result:
            if not self._places.free:
                await until_needed()
            # Waiting for another try holds no place: the others may go on meanwhile.
            async with self._places.place(rank):
                return await request()

        try:
            result = await within_limit()
        except EngineUnavailableError as error:
            result = await self._again(within_limit, error)
        return result._replace(timings=result.timings.model_copy(update={"queued": asked}))

    async def _again(
        self, request: Callable[[], Awaitable[Result]], failure: EngineUnavailableError
    ) -> Result:
        """Further tries, ``failure`` being the first.

        Only what has failed once pays for the machinery of tries, which costs more than all else
        that happens here to a request.
        """
        first: EngineUnavailableError | None = failure

        async def attempt() -> Result:
            nonlocal first
            if first:
                error, first = first, None
                raise error
            return await request()

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(EngineUnavailableError),
            stop=stop_after_attempt(self._attempts),
            wait=self._wait,
            reraise=True,
        )
        result: Result = await retrying(attempt)
        return result
