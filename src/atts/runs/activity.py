"""What the chains of a run are doing at this moment: counters, to be looked at from outside.

A counter is changed where a chain calls an engine, ends a turn, begins or ends: the cost does not
grow with the number of chains. Whoever shows them reads a few numbers, at times of their own, from
another thread too.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from atts.engines.base import Completion, Engine, GenerateRequest, Scored, ScoreRequest
from atts.engines.outage import Waited
from atts.methods import Method
from atts.methods.chain import Model, Models, OpenChain
from atts.types import Author, ChainEnd, Segment, Turn

Work = Literal["drafting", "scoring", "target writing"]
"""What a chain waits for: a model's text, or the target's score. Queues are included."""

RECENT = 200
"""Decisions that make up the take-over rate of the moment."""


class Activity:
    """Counters of one run; the run changes them."""

    def __init__(self) -> None:
        self.nominal: float | None = None
        """The take-over rate that the run aims at, if any."""
        self.has_barriers = False
        """Whether chains wait for each other."""
        self.takes_over = False
        """Whether the target may write on where the draft has written."""
        self.in_flight = 0
        """Chains that have begun and not ended."""
        self.at_work: dict[Work, int] = {"drafting": 0, "scoring": 0, "target writing": 0}
        """Requests on their way. A chain has one at a time, unless it drafts ahead."""
        self.written: dict[Author, int] = {"draft": 0, "target": 0}
        """Tokens that came back from each model."""
        self.outages: Sequence[Waited] = ()
        """Of each engine, whether it answers."""
        self.turns = 0
        self.decisions = 0
        self.take_overs = 0
        self.recent_take_overs = 0
        self._recent: deque[bool] = deque()

    @property
    def recent_rate(self) -> float | None:
        """Share of the last ``RECENT`` decisions that took over; None before the first."""
        decisions = min(self.decisions, RECENT)
        return self.recent_take_overs / decisions if decisions else None

    @property
    def rate(self) -> float | None:
        """The same of all decisions."""
        return self.take_overs / self.decisions if self.decisions else None

    @property
    def waiting_for_others(self) -> int:
        """Chains in flight without a request, where a method has barriers. Elsewhere such a chain
        is only between two requests.
        """
        if not self.has_barriers:
            return 0
        return max(0, self.in_flight - sum(self.at_work.values()))

    def waits_for(self, now: float) -> dict[str, float]:
        """Models whose engines do not answer, and the seconds for which each is still waited for.

        ``now`` is a moment of the monotonic clock.
        """
        left = {outage.name: outage.patience_left(now) for outage in self.outages}
        return {name: seconds for name, seconds in left.items() if seconds is not None}

    def turn_done(self, turn: Turn) -> None:
        """A chain has ended a turn. One that was decided by a score has been counted before."""
        self.turns += 1
        if self.takes_over and turn.decision is None and turn.take_over is not None:
            self.decided(turn.take_over)

    def appended(self, segment: Segment) -> None:
        """Tokens are counted as they come back."""

    def decided(self, take_over: bool) -> None:
        """It was decided whether the target writes on."""
        self._recent.append(take_over)
        self.recent_take_overs += take_over
        self.take_overs += take_over
        self.decisions += 1
        if len(self._recent) > RECENT:
            self.recent_take_overs -= self._recent.popleft()

    def watched_models(self, models: Models) -> Models:
        """The same models; what is asked of them is counted."""
        return {
            author: Model(_WatchedEngine(model.engine, author, self), model.tokenizer)
            for author, model in models.items()
        }

    def watched_method(self, method: Method) -> Method:
        """The same method; chains in flight and their turns are counted."""

        async def solve(chain: OpenChain) -> ChainEnd:
            chain.watcher = self
            self.in_flight += 1
            try:
                return await method.solve(chain)
            finally:
                self.in_flight -= 1

        self.has_barriers, self.takes_over = method.together, method.takes_over
        return replace(method, solve=solve)


class _WatchedEngine:
    """An engine whose requests are counted; see ``Engine``."""

    def __init__(self, engine: Engine, author: Author, activity: Activity) -> None:
        self._engine = engine
        self._author = author
        self._activity = activity
        self._writing: Work = "drafting" if author == "draft" else "target writing"

    async def generate(self, request: GenerateRequest) -> Completion:
        at_work = self._activity.at_work
        at_work[self._writing] += 1
        try:
            completion = await self._engine.generate(request)
        finally:
            at_work[self._writing] -= 1
        self._activity.written[self._author] += len(completion.token_ids)
        return completion

    async def score(self, request: ScoreRequest) -> Scored:
        at_work = self._activity.at_work
        at_work["scoring"] += 1
        try:
            return await self._engine.score(request)
        finally:
            at_work["scoring"] -= 1

    async def aclose(self) -> None:
        await self._engine.aclose()
