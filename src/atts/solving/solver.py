"""A solver: open engines and deciders that stay, and questions that come and go."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from atts.config import Config
from atts.errors import AttsError, BusyError, ConfigError, StoreError
from atts.grading.grader import VerdictCache
from atts.methods import authors_of
from atts.methods.chain import Models, OpenChain
from atts.runs.admission import Capacity, adapting_capacity
from atts.runs.pool import Clock, run_chains
from atts.runs.setup import PlannedChain, open_models
from atts.runs.stopping import Stopping
from atts.solving.deciders import Deciders, Variant
from atts.solving.listening import ChainDone, Event, Listener
from atts.solving.question import Question
from atts.solving.solution import Counting, Solution
from atts.types import Author, Chain, ChainEnd, Problem, Turn

SAVE_SECONDS = 30.0
"""Time between two writings of the deciders' state: as much may be forgotten by ``kill -9``."""


class Observer(Protocol):
    """Is told what the chains of a solver do, as they do it."""

    def turn_done(self, variant: Variant, turn: Turn) -> None:
        """A chain has ended a turn."""
        ...

    def chain_done(self, variant: Variant, problem: Problem, chain: Chain) -> None:
        """A chain has ended."""
        ...


class Solver:
    """Solves questions as they come, with models that are opened once and deciders that live on.

    An asynchronous context manager, in one event loop. Chains of all questions share one pool,
    whose limits are those of the configuration, and begin in the order in which they were asked
    for, a chain of each question in turn.
    """

    def __init__(
        self,
        config: Config,
        models: Models | None = None,
        *,
        authors: Collection[Author] | None = None,
        state: Path | str | None = None,
        observer: Observer | None = None,
        most_waiting: int | None = None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            config: of the models, the limits, and of questions that say nothing else.
            models: if they are open already; they stay open.
            authors: which models to open; None: those that the configuration's method needs.
            state: a file in which what the deciders have learnt outlives the process.
            observer: is told what happens.
            most_waiting: chains that may wait to begin; None: any number.
        """
        self.config = config
        self.models: Models = models or {}
        self._authors = None if models else tuple(authors or authors_of(config))
        self._deciders = Deciders(config, Path(state) if state else None)
        self.observer = observer
        self._most_waiting = most_waiting
        self._stack = AsyncExitStack()
        self._counting: Counting
        self._capacity: Capacity
        self._asked: dict[str, Asked] = {}
        self.clock = Clock()
        """The seconds of the chains' records."""
        self.warnings: list[str] = []
        """What should be known: a load that cannot be followed, a state that cannot be used."""

    async def __aenter__(self) -> Self:
        """Open the models.

        Raises:
            ConfigError, CalibrationError: the configuration cannot be solved by.
            EngineError: a model's server does not answer.
            StoreError: the state cannot be read.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(self._deciders.loaded(self.warnings.append))
            self._deciders.of(self.config)  # what is wrong shows before a model is loaded
            if self._authors:
                opening = open_models(self.config, self._authors)
                self.models = await stack.enter_async_context(opening)
            self._counting = stack.enter_context(Counting(VerdictCache()))
            engines = [model.engine for model in self.models.values()]
            self._capacity = await stack.enter_async_context(
                adapting_capacity(self.config, engines, self.warnings.append)
            )
            if self._deciders.path:
                saving = asyncio.create_task(self._save_now_and_then(), name="atts state")
                stack.push_async_callback(ended, saving)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Abort what is still being solved, keep the state, close the models."""
        async with self._stack:
            for asked in list(self._asked.values()):
                await asked.aclose()
            await self.save()

    @property
    def variants(self) -> Sequence[Variant]:
        """The ways to solve that were asked for, with the figures of each."""
        return self._deciders.variants

    @property
    def open_chains(self) -> int:
        """Chains that were asked for and have not ended."""
        return sum(asked.left for asked in self._asked.values())

    @property
    def in_flight(self) -> int:
        """Those of them that have begun."""
        return sum(asked.begun - asked.ended for asked in self._asked.values())

    @property
    def waiting(self) -> int:
        """Those that have not."""
        return self.open_chains - self.in_flight

    @property
    def capacity(self) -> int:
        """How many chains may be in flight at this moment."""
        return self._capacity.size

    def variant(self, config: Config) -> Variant:
        """What a question of this configuration is decided by.

        Raises:
            ConfigError, CalibrationError: see ``ask``.
        """
        for author in authors_of(config):
            if author not in self.models:
                raise ConfigError(
                    f"method={config.method} needs the {author}, which is not open here; take a "
                    f"method that does without, or open it"
                )
            if config.options_of(author).model != self.config.options_of(author).model:
                raise ConfigError(
                    f"{author}.model={config.options_of(author).model} is not open here, but "
                    f"{self.config.options_of(author).model}"
                )
        return self._deciders.of(config)

    def ask(self, question: Question) -> "Asked":
        """Begin to solve a question; what comes back is entered, read and left.

        Raises:
            ConfigError: its configuration excludes itself, or needs models that are not open.
            CalibrationError: its calibration is for something else, or conditional: a question was
                never seen before.
            BusyError: as many chains wait as may.
        """
        config = question.config
        variant = self.variant(config)
        if question.max_tokens is not None and question.max_tokens < 1:
            raise ConfigError(
                f"a chain needs at least 1 token, got max_tokens={question.max_tokens}"
            )
        if question.problem.id in self._asked:
            raise ConfigError(f"a question with the id {question.problem.id} is being solved")
        # Those that are about to begin wait for nobody; and one question alone is always taken.
        before = self.open_chains
        would_wait = before + config.samples - self.capacity
        if self._most_waiting is not None and before and would_wait > self._most_waiting:
            raise BusyError(
                f"{would_wait} chains would wait for others, where {self._most_waiting} may: ask "
                "again later, or for fewer samples"
            )
        return Asked(self, question, variant)

    async def solve(self, question: Question) -> Solution:
        """Solve a question to its end; see ``ask``, also for what is raised."""
        async with self.ask(question) as asked:
            return await asked.solution()

    async def save(self) -> None:
        """Write down what the deciders have learnt, if there is a file for it.

        Raises:
            StoreError: it cannot be written.
        """
        await self._deciders.save()

    async def make_chains(self, asked: "Asked", groups: Iterable[Sequence[PlannedChain]]) -> None:
        """Run the chains of a question in the pool; for ``Asked``."""
        config = asked.question.config
        method = asked.variant.activity.watched_method(
            replace(asked.variant.setup.method, solve=asked.listening)
        )
        with ExitStack() as stack:
            stopping = None
            if asked.question.vote and config.stop.when != "never":
                problems = [asked.question.problem]
                votes = Stopping(config.stop, config.samples, self._counting.grader, problems)
                stopping = stack.enter_context(votes)
            await run_chains(groups, method, self._capacity, self.clock, asked.finished, stopping)

    async def conclude(self, asked: "Asked", chains: Sequence[ChainDone]) -> Solution:
        """What the chains of a question have come to; for ``Asked``."""
        return await self._counting.conclude(asked.question, chains, self.clock() - asked.since)

    def enter(self, asked: "Asked") -> None:
        """A question begins; for ``Asked``."""
        self._asked[asked.question.problem.id] = asked

    def leave(self, asked: "Asked") -> None:
        """A question is over, and nothing of it is left; for ``Asked``."""
        if self._asked.get(asked.question.problem.id) is asked:
            del self._asked[asked.question.problem.id]
            asked.variant.forget(asked.question.problem.id)

    async def _save_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            try:
                await self.save()
            except StoreError as error:
                if str(error) not in self.warnings:  # a full disk stays one for a while
                    self.warnings.append(str(error))


async def ended(task: asyncio.Task[None]) -> None:
    """Cancel a task, and wait until nothing of it runs; what it raises is for others to look at."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # or asyncio would report it


class Asked:
    """A question that is being solved: an asynchronous context manager.

    Inside, it is iterated for its events as they come, once; or awaited for the solution alone.
    On leaving, chains that have not ended are aborted on the engines.
    """

    def __init__(self, solver: Solver, question: Question, variant: Variant) -> None:
        self.question = question
        self.variant = variant
        self.begun = 0
        """Chains that have begun."""
        self.ended = 0
        """Chains that have begun and ended."""
        self.since = solver.clock()
        self._solver = solver
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._listeners: dict[int, Listener] = {}
        self._done: dict[int, ChainDone] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def left(self) -> int:
        """Chains that have not ended."""
        return self.question.config.samples - len(self._done)

    async def __aenter__(self) -> Self:
        """Let the chains begin, as there is room."""
        self._solver.enter(self)
        self._task = asyncio.create_task(self._work(), name="atts question")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Abort what has not ended."""
        await self.aclose()

    async def aclose(self) -> None:
        """The same; safe to call again."""
        if self._task:
            await ended(self._task)
            self._events.put_nowait(None)  # it may not even have begun
        self._solver.leave(self)

    async def __aiter__(self) -> AsyncIterator[Event]:
        """What happens, until the last chain has ended.

        Raises:
            ConfigError: the question does not fit the models, which shows only now.
            AttsError: the solver was closed meanwhile.
        """
        while (event := await self._events.get()) is not None:
            yield event
        await self._all_done()

    async def solution(self) -> Solution:
        """What the chains come to, once all have ended.

        Raises:
            ConfigError, AttsError: see above.
        """
        await self._all_done()
        chains = [self._done[sample] for sample in sorted(self._done)]
        return await self._solver.conclude(self, chains)

    async def _all_done(self) -> None:
        if self._task is None:
            raise ValueError("a question is entered before it is read: async with solver.ask(...)")
        await asyncio.wait([self._task])
        if self._task.cancelled():
            raise AttsError("the question was left, or its solver closed, before its chains' end")
        self._task.result()  # raises what it has ended with

    async def _work(self) -> None:
        config, models = self.question.config, self._solver.models
        needed: Models = {author: models[author] for author in authors_of(config)}
        needed = self.variant.activity.watched_models(needed)
        setup = replace(self.variant.setup, config=config, problems=[self.question.problem])
        groups = (
            [planned._replace(open=partial(self._open, planned)) for planned in group]
            for group in setup.groups(lambda *_: needed)
        )
        try:
            await self._solver.make_chains(self, groups)
        finally:
            self._events.put_nowait(None)

    def _open(self, planned: PlannedChain) -> OpenChain:
        chain = planned.open()
        chain.most_tokens = self.question.max_tokens
        if self.question.drawn_as is not None:
            seed, stream, _, sample = chain.seed_path
            chain.seed_path = (seed, stream, self.question.drawn_as, sample)
        return chain

    async def listening(self, chain: OpenChain) -> ChainEnd:
        """The method's steps, heard."""
        listener = Listener(chain, self._events.put_nowait, self._turn_done, chain.watcher)
        self._listeners[chain.sample] = chain.watcher = listener
        self.begun += 1
        try:
            return await self.variant.setup.method.solve(chain)
        finally:
            self.ended += 1

    def _turn_done(self, turn: Turn) -> None:
        if self._solver.observer:
            self._solver.observer.turn_done(self.variant, turn)

    def finished(self, chain: Chain) -> None:
        """A chain has ended."""
        listener = self._listeners.pop(chain.sample, None)
        done = listener.done(chain) if listener else ChainDone(chain.sample, chain, "", "")
        self._done[chain.sample] = done
        if self._solver.observer:
            self._solver.observer.chain_done(self.variant, self.question.problem, chain)
        self._events.put_nowait(done)
