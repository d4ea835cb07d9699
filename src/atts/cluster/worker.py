"""A worker: a process on a node that has its own engines and solves the chains it is given.

What it does with a chain is what a run does in one process (``atts.runs.pool.solve``). Which chains
it gets, when they begin and where they are written down is the driver's.
"""

import asyncio
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

from atts.cluster.decider import DeciderClient, FarDecider
from atts.cluster.messages import Failure, Held, Opened, Report, Share, Work
from atts.config import Config
from atts.engines.base import Load
from atts.engines.limits import LimitedEngine
from atts.engines.outage import Outage
from atts.errors import AttsError
from atts.files import to_jsonl
from atts.methods import Method
from atts.methods.chain import Models
from atts.package import DISTRIBUTION
from atts.runs import open_files
from atts.runs.activity import Activity
from atts.runs.pool import Clock, collected_seldom, outages_of, solve
from atts.runs.setup import PlannedChain, Setup, open_models
from atts.runs.stopping import Settled
from atts.types import Author, Chain, ChainKey, Problem

LONGEST_SECONDS = 0.5
"""A report waits so long for something to tell."""


class Noted(Activity):
    """Counters that also keep each decision since the last report."""

    def __init__(self) -> None:
        super().__init__()
        self.latest: list[bool] = []

    def decided(self, take_over: bool) -> None:
        """It was decided whether the target writes on."""
        super().decided(take_over)
        self.latest.append(take_over)


class Messages(logging.Handler):
    """Keeps what atts warns of in this process, for the driver to say."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.texts.append(record.getMessage())


class Present(NamedTuple):
    """The run whose chains are made at present."""

    setup: Setup
    problems: Mapping[str, Problem]
    models: Models
    method: Method
    clock: Clock


class Worker:
    """An actor; its calls come from the driver alone."""

    def __init__(self, name: str, number: int, copies: int) -> None:
        """``name`` tells it and its node in messages; ``number`` is below ``copies``."""
        self._name = name
        self._copy = (number, copies)
        self._stack = AsyncExitStack()
        self._models: Models = {}
        self._job = 0
        self._present: Present | None = None
        self._serving: asyncio.Task[None] | None = None
        self._outages: list[Outage] = []
        self._client = DeciderClient()
        self._activity = Noted()
        self._told = (0, 0, 0)  # draft tokens, target tokens and turns of earlier reports
        self._settled = Settled()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended: list[Chain] = []
        self._delivered: list[ChainKey] = []
        self._failure: Failure | None = None
        self._news = asyncio.Event()
        self._messages = Messages()

    async def open(
        self, config: Config, authors: Collection[Author], environment: Mapping[str, str]
    ) -> Opened | Failure:
        """Open the models, as the configuration says here; ``environment`` has what they read."""
        os.environ.update(environment)
        logging.getLogger("atts").addHandler(self._messages)
        self._stack.enter_context(collected_seldom())
        try:
            self._models = await self._stack.enter_async_context(open_models(config, authors))
        except AttsError as error:
            return Failure.of(error)
        self._outages = outages_of(model.engine for model in self._models.values())
        for outage in self._outages:
            outage.tell = self._messages.texts.append
        fitted, word = open_files.fitted(config)
        if word:
            self._messages.texts.append(word)
        return Opened(version(DISTRIBUTION), fitted.limits.chains)

    async def begin(self, work: Work, problems: bytes) -> None:
        """From now on chains are those of this run; nothing is left of another.

        ``problems`` are lines as in ``problems.jsonl``.
        """
        await self.leave()
        self._client = client = DeciderClient()
        self._serving = asyncio.create_task(client.serve())
        self._job = work.job
        self._settled, self._activity = Settled(), Noted()
        self._ended, self._delivered, self._failure = [], [], None
        self._told = (0, 0, 0)
        known = [Problem.model_validate_json(line) for line in problems.splitlines()]
        for problem_id in work.settled:
            self._settled.settle(problem_id)
        if work.control:
            work.control.number_apart(*self._copy)
        has_gate = work.config.take_over.gate.share > 0.0
        deciding = None if work.control else partial(FarDecider, client, has_gate)
        setup = Setup(work.config, known, work.stream, control=work.control, deciding=deciding)
        self._present = Present(
            setup,
            {problem.id: problem for problem in known},
            self._activity.watched_models(self._models),
            self._activity.watched_method(setup.method),
            Clock(work.seconds),
        )

    async def add(self, shares: Sequence[Share]) -> None:
        """Begin with chains."""
        assert self._present, "chains come after their run"  # noqa: S101
        setup, problems, models, *_ = self._present
        for problem_id, samples, finished in shares:
            done = {chain.key: chain for chain in map(Chain.model_validate_json, finished)}
            only = {ChainKey(problem_id, sample) for sample in samples}
            part = setup.of_problems([problems[problem_id]])
            for group in part.groups(lambda *_: models, done, only):
                for planned in group:
                    task = asyncio.create_task(self._solve(planned, self._present))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)

    async def _solve(self, planned: PlannedChain, present: Present) -> None:
        try:
            chain = await solve(planned, present.method, present.clock, self._settled)
            if chain.error:
                chain = chain.model_copy(update={"error": f"{chain.error} ({self._name})"})
            self._ended.append(chain)
        except AttsError as error:
            self._failure = Failure.of(error)
        self._news.set()

    async def report(self, gather: float) -> Report:
        """What has happened since the last report, of which all is written down by now.

        Once there is something, more is waited for ``gather`` seconds: it costs no call then.
        """
        for key in self._delivered:
            self._client.forget(key)
        with suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_SECONDS):
                await self._news.wait()
        await asyncio.sleep(gather)
        self._news.clear()
        ended, self._ended = self._ended, []
        self._delivered = [chain.key for chain in ended]
        messages, self._messages.texts[:] = self._messages.texts[:], []
        activity, loop = self._activity, asyncio.get_running_loop()
        decided, activity.latest = activity.latest, []
        told = self._told
        self._told = now = (activity.written["draft"], activity.written["target"], activity.turns)
        left = {each.name: each.patience_left(loop.time()) for each in self._outages}
        return Report(
            self._job,
            [to_jsonl([chain]).encode() for chain in ended],
            self._failure,
            messages,
            activity.in_flight,
            dict(activity.at_work),
            {
                author: model.engine.waiting
                for author, model in self._models.items()
                if isinstance(model.engine, LimitedEngine)
            },
            {name: seconds for name, seconds in left.items() if seconds is not None},
            {"draft": now[0] - told[0], "target": now[1] - told[1]},
            now[2] - told[2],
            decided,
            self._client.lost,
        )

    async def settle(self, problem_id: str) -> None:
        """End the chains of a problem: its answer is settled."""
        self._settled.settle(problem_id)

    async def meter(self, author: Author) -> tuple[Load | Failure | None]:
        """The load of a model's engine, as ``Metered`` tells it; one, so that None is an answer."""
        engine = self._models[author].engine
        try:
            return (await engine.meter() if isinstance(engine, LimitedEngine) else None,)
        except AttsError as error:
            return (Failure.of(error),)

    async def hold(self) -> Held:
        """See ``DeciderClient``."""
        return self._client.hold()

    async def ask_of(self, number: int, actor: Any) -> None:  # noqa: ANN401 - Ray's handle
        """See ``DeciderClient``."""
        self._client.ask_of(number, actor)

    async def leave(self) -> None:
        """Abort the chains, whose requests end with them."""
        tasks = [*self._tasks]
        if self._serving:
            tasks.append(self._serving)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def close(self) -> None:
        """Abort the chains, and free the models."""
        await self.leave()
        await self._stack.aclose()
