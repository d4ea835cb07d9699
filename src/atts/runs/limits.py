"""Limits and retries around an engine, request by request."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from atts.engines.base import Completion, Engine, Sampling, Scored
from atts.errors import EngineUnavailableError

Result = TypeVar("Result", Completion, Scored)
LONGEST_WAIT_SECONDS = 60.0
LONGEST_RETRY_AFTER_SECONDS = 600.0
"""A server that asks for a longer wait is asked again after this one."""


class LimitedEngine:
    """An engine with at most ``in_flight`` requests at a time, which retries passing failures.

    A chain whose request fails in a passing way so loses one request, not its past turns. A
    result's ``queued`` is when it was asked for here: waits for a place, and tries that failed, are
    part of the time before the engine began.
    """

    def __init__(
        self, engine: Engine, in_flight: int, attempts: int, backoff_seconds: float
    ) -> None:
        self._engine = engine
        self._room = asyncio.Semaphore(in_flight)
        self._attempts = attempts
        self._backoff = wait_random_exponential(backoff_seconds, max=LONGEST_WAIT_SECONDS)

    async def generate(self, token_ids: Sequence[int], sampling: Sampling) -> Completion:
        return await self._retry(lambda: self._engine.generate(token_ids, sampling))

    async def score(self, token_ids: Sequence[int], start: int) -> Scored:
        return await self._retry(lambda: self._engine.score(token_ids, start))

    async def aclose(self) -> None:
        await self._engine.aclose()

    def _wait(self, state: RetryCallState) -> float:
        """Seconds to wait: the backoff, or longer where the server says so."""
        error = state.outcome.exception() if state.outcome else None
        asked = getattr(error, "retry_after", None) or 0.0
        return max(self._backoff(state), min(asked, LONGEST_RETRY_AFTER_SECONDS))

    async def _retry(self, request: Callable[[], Awaitable[Result]]) -> Result:
        asked = asyncio.get_running_loop().time()  # time.monotonic(), or a simulation's

        async def within_limit() -> Result:
            # Waiting for another try holds no place: the others may go on meanwhile.
            async with self._room:
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
