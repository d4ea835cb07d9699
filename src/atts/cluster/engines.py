"""The engines of the workers, as the driver sees them: their load, and whether they serve."""

import asyncio
from typing import Any

from atts.cluster.crew import Crew
from atts.cluster.messages import Failure
from atts.engines.base import Load, room_of
from atts.errors import EngineConnectionError
from atts.types import Author


class FarOutage:
    """What the workers know of whether an engine serves; see ``Waited``."""

    def __init__(self, name: str, crew: Crew) -> None:
        self.name = name
        self._crew = crew

    @property
    def is_on(self) -> bool:
        return self.patience_left(0.0) is not None

    def patience_left(self, now: float) -> float | None:  # noqa: ARG002 - as of the last reports
        """The least that a worker still has."""
        reports = [member.report for member in self._crew.members]
        left = [
            report.outages[self.name]
            for report in reports
            if report and self.name in report.outages
        ]
        return min(left, default=None)

    async def ends_within(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class FarEngine:
    """The engines of one model in all workers, asked for their load alone; see ``Metered``."""

    def __init__(self, crew: Crew, author: Author, own_models: bool) -> None:
        self._crew = crew
        self._author = author
        self._own_models = own_models

    async def generate(self, request: Any) -> Any:  # noqa: ANN401
        """Nothing is generated here."""
        raise NotImplementedError

    score = generate

    async def aclose(self) -> None:
        """Nothing is open."""

    async def meter(self) -> Load | None:
        """The load of all together. Servers are asked by one worker, for all have the same ones.

        Raises:
            EngineError: they do not answer.
        """
        members = list(self._crew.members)
        asked = members if self._own_models else members[:1]
        answers = await self._crew.tell(
            asked, lambda member: member.handle.meter.remote(self._author)
        )
        told = [load for (load,) in answers]
        for load in told:
            if isinstance(load, Failure):
                raise load.error()
        if not told:
            raise EngineConnectionError("there is no worker at present")
        loads = [load for load in told if load is not None]
        if len(loads) < len(told):
            return None
        waiting = sum(
            member.report.waiting.get(self._author, 0)
            for member in members
            if member.report and member not in asked
        )
        return Load(
            sum(load.running for load in loads),
            sum(load.waiting for load in loads) + waiting,
            max(load.cache_use for load in loads),
            room_of(loads),
        )
