"""Where the chains of a run are made: in this process, unless somebody else makes them."""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from atts.config import Config
from atts.methods.chain import Models
from atts.runs import open_files
from atts.runs.activity import Activity
from atts.runs.pool import Clock, make_chains, outages_of
from atts.runs.setup import Setup
from atts.runs.stopping import Stopping
from atts.types import Author, Chain, ChainKey


class Job(NamedTuple):
    """Chains that are to be made."""

    setup: Setup
    """Of the run; its control has taken up what is done."""
    done: Mapping[ChainKey, Chain]
    """Chains that are there."""
    only: Collection[ChainKey] | None
    """Those to be made, if not all that are missing."""
    clock: Clock
    """The run's seconds."""
    finished: Callable[[Chain], None]
    """Takes each chain that has ended, to write it down."""
    stopping: Stopping | None
    """Ends the chains of problems that are settled."""
    activity: Activity | None
    """Counts what the chains are doing, if anybody looks."""
    warn: Callable[[str], None] | None
    """Is told what should be known meanwhile."""


class Maker(Protocol):
    """Makes the chains of runs."""

    async def make(self, job: Job) -> None:
        """Make them all, each handed over when it is done; see ``run_chains``.

        Raises:
            ConfigError: the configuration does not fit the models, which shows only now.
            EngineGoneError: an engine was waited for in vain.
        """
        ...


Opening = Callable[[Config, Collection[Author] | None], AbstractAsyncContextManager[Models | Maker]]
"""Opens the models that a configuration needs, or those of some authors, as ``open_models`` does;
or what makes chains with them elsewhere."""


class Here:
    """Makes chains in this process, with models that are open; see ``Maker``."""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def make(self, job: Job) -> None:
        models, method = self._models, job.setup.method
        engines = [model.engine for model in models.values()]
        if job.activity:
            job.activity.outages = outages = outages_of(engines)
            if job.warn:
                for outage in outages:
                    outage.tell = job.warn
            models = job.activity.watched_models(models)
            method = job.activity.watched_method(method)
        in_flight, word = open_files.fitted(job.setup.config)
        if job.warn and word:
            job.warn(word)
        await make_chains(
            job.setup.groups(lambda *_: models, job.done, job.only),
            method,
            in_flight,
            engines,
            job.clock,
            job.finished,
            job.stopping,
            job.warn,
        )
