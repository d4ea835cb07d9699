"""A request that is made before it is certain that its result is needed."""

import asyncio
from collections.abc import Sequence

from atts.engines.base import Completion, Engine, Sampling
from atts.types import Discarded


class Ahead:
    """At most one request of a chain that runs ahead of the chain's decision."""

    def __init__(self) -> None:
        self._request: asyncio.Task[Completion] | None = None
        self._made: tuple[Sequence[int], Sampling] | None = None
        self._began = 0.0

    def start(self, engine: Engine, token_ids: Sequence[int], sampling: Sampling) -> None:
        """Begin to write; ``take`` or ``drop`` must follow before the next ``start``."""
        self._made = token_ids, sampling
        self._began = asyncio.get_running_loop().time()
        self._request = asyncio.ensure_future(engine.generate(token_ids, sampling))

    async def take(self, token_ids: Sequence[int], sampling: Sampling) -> Completion | None:
        """The result, if this very request is the one that was made.

        Raises:
            EngineError: the request failed, as it would have without running ahead.
        """
        if self._request is None or self._made != (token_ids, sampling):
            return None
        request, self._request = self._request, None
        return await request  # cancelling the caller cancels the request with it

    async def drop(self) -> Discarded | None:
        """Abort the request, if there is one, and wait until nothing of it is left running."""
        if self._request is None:
            return None
        seconds = asyncio.get_running_loop().time() - self._began
        self._request.cancel()
        await asyncio.wait([self._request])
        request, self._request = self._request, None
        # Looked at, so that asyncio does not report an error that nobody needs to know of.
        lost = request.cancelled() or request.exception() is not None
        return Discarded(tokens=None if lost else len(request.result().token_ids), seconds=seconds)
