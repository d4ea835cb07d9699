"""Runs on a cluster: one driver, which hands out chains and alone writes down; many workers.

The pool is that of every run (``atts.runs.pool``), and stands in the driver: how many chains are in
flight, which follows the load of the engines, is decided in one place. Only what solves a chain is
elsewhere: the worker that has the fewest. So none is given to a worker before it can begin, and a
slow one is given fewer.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from atts.cluster.crew import Crew
from atts.cluster.engines import FarEngine
from atts.cluster.handing import HandingOut
from atts.cluster.places import in_process
from atts.config import Config
from atts.engines.servers.placed import located
from atts.errors import ConfigError
from atts.methods import METHODS, authors_of
from atts.methods.chain import Models
from atts.runs.admission import adapting_capacity
from atts.runs.making import Job
from atts.runs.pool import collected_seldom, run_pool
from atts.types import Author, Problem


@asynccontextmanager
async def open_workers(
    config: Config, authors: Collection[Author] | None = None
) -> AsyncIterator["Workers"]:
    """Workers with the models of a configuration, as ``open_models`` opens them in this process.

    Ray must be connected (``atts.cluster.connection``).

    Raises:
        ConfigError: no node has a place for one, one cannot open its models, or the chains of a
            problem have to be made in one process.
        EngineError: a model's server does not answer.
    """
    method = METHODS[config.method]
    if method.whole_problems and method.whole_problems(config):
        raise ConfigError(
            f"{method.group}.whole_problems=true, but a cluster spreads the chains of a problem "
            "over its workers: leave it out, or make the run in one process"
        )
    wanted = authors or authors_of(config)
    config = located(config)  # elsewhere there are no records of where servers were started
    async with Crew(config, wanted) as crew:
        yield Workers(crew, wanted, in_process(config, wanted))


class Workers:
    """Makes chains on the nodes of a cluster; see ``Maker``."""

    def __init__(self, crew: Crew, authors: Collection[Author], own_models: bool) -> None:
        self._crew = crew
        self._authors = authors
        self._own_models = own_models
        self._jobs = 0

    async def make(self, job: Job) -> None:
        """Make them all; those of a worker that is lost are made again, elsewhere."""
        self._jobs += 1
        meters = [FarEngine(self._crew, author, self._own_models) for author in self._authors]
        handing = HandingOut(self._crew, job, self._jobs, [*self._authors])
        setup = job.setup
        groups = setup.groups(_nowhere, job.done, job.only)
        await handing.begin()
        try:
            with collected_seldom():
                async with adapting_capacity(setup.config, meters, job.warn) as capacity:
                    await run_pool(
                        groups, handing.solve, capacity, job.finished, job.stopping, handing.outages
                    )
        finally:
            await handing.end()


def _nowhere(_problem: Problem, _sample: int) -> Models:
    raise RuntimeError("chains are opened by the workers")
