"""A request that is made before it is certain that its result is needed."""

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar

from atts.engines.base import Completion, Engine, Sampling
from atts.types import Discarded


class Ahead:
    """At most one request of a chain that runs ahead of the chain's decision."""

    def __init__(self) -> None:
        self._request: asyncio.Task[Completion] | None = None
        self._made: tuple[Sequence[int], Sampling] | None = None
        self._taken = asyncio.Event()
        self._began: float | None = None

    def start(self, engine: Engine, token_ids: Sequence[int], sampling: Sampling) -> None:
        """Begin to write; ``take`` or ``drop`` must follow before the next ``start``."""
        self._made = token_ids, sampling
        self._taken.clear()
        self._began = asyncio.get_running_loop().time()
        self._request = asyncio.create_task(self._write(engine, token_ids, sampling))

    async def _write(
        self, engine: Engine, token_ids: Sequence[int], sampling: Sampling
    ) -> Completion:
        _made_by.set(self)  # in this task alone
        return await engine.generate(token_ids, sampling)

    async def until_taken(self) -> None:
        """Put the request off until its result is asked for."""
        if not self._taken.is_set():
            self._began = None
            await self._taken.wait()

    async def take(self, token_ids: Sequence[int], sampling: Sampling) -> Completion | None:
        """The result, if this very request is the one that was made.

        Raises:
            EngineError: the request failed, as it would have without running ahead.
        """
        if self._request is None or self._made != (token_ids, sampling):
            return None
        request, self._request = self._request, None
        self._taken.set()
        return await request  # cancelling the caller cancels the request with it

    async def drop(self) -> Discarded | None:
        """Abort the request, if there is one, and wait until nothing of it is left running.

        Returns:
            What was thrown away; None if nothing had begun.
        """
        if self._request is None:
            return None
        now = asyncio.get_running_loop().time()
        self._request.cancel()
        await asyncio.wait([self._request])
        request, self._request = self._request, None
        # Looked at, so that asyncio does not report an error that nobody needs to know of.
        lost = request.cancelled() or request.exception() is not None
        if self._began is None:
            return None
        return Discarded(
            tokens=None if lost else len(request.result().token_ids), seconds=now - self._began
        )


_made_by: ContextVar[Ahead | None] = ContextVar("_made_by", default=None)


async def until_needed() -> None:
    """Wait, if this task's request was made ahead, until its result is needed for certain.

    For whoever has no room for it: so it takes none from others, and is not begun if it is dropped.
    """
    if ahead := _made_by.get():
        await ahead.until_taken()
