"""A request that is made before it is certain that its result is needed."""

import asyncio
from typing import NamedTuple

from atts.engines.base import Completion, Engine, GenerateRequest, Need
from atts.types import Discarded


class _Made(NamedTuple):
    request: GenerateRequest
    need: Need
    task: asyncio.Task[Completion]
    began: float


class Prefetch:
    """At most one request that runs ahead of its need."""

    def __init__(self) -> None:
        self._made: _Made | None = None

    def start(self, engine: Engine, request: GenerateRequest) -> None:
        """Begin to write; ``take`` or ``drop`` must follow before the next ``start``."""
        need = Need()
        task = asyncio.create_task(self._write(engine, request._replace(need=need)))
        self._made = _Made(request, need, task, asyncio.get_running_loop().time())

    @staticmethod
    async def _write(engine: Engine, request: GenerateRequest) -> Completion:
        return await engine.generate(request)

    async def take(self, request: GenerateRequest) -> Completion | None:
        """The result, if this very request is the one that was made.

        Raises:
            EngineError: the request failed, as it would have without running ahead.
        """
        if self._made is None or self._made.request != request:
            return None
        made, self._made = self._made, None
        made.need.is_certain()
        return await made.task  # cancelling the caller cancels the request with it

    async def drop(self) -> Discarded | None:
        """Abort the request, if there is one, and wait until nothing of it is left running.

        Returns:
            What was thrown away; None if nothing had begun.
        """
        if self._made is None:
            return None
        made, self._made = self._made, None
        now = asyncio.get_running_loop().time()
        made.task.cancel()
        await asyncio.wait([made.task])
        # Looked at, so that asyncio does not report an error that nobody needs to know of.
        lost = made.task.cancelled() or made.task.exception() is not None
        if made.need.was_put_off:
            return None
        return Discarded(
            tokens=None if lost else len(made.task.result().token_ids), seconds=now - made.began
        )
