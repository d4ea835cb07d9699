"""The server's process: listens, answers, and drains before it ends."""

import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from starlette.types import ASGIApp

from atts.config import Config
from atts.gateway.access import check_host
from atts.gateway.app import Figures, Gateway
from atts.gateway.listening import listen, serve_on
from atts.gateway.metrics import Metrics
from atts.gateway.recording import Recorder
from atts.gateway.served import Served
from atts.methods import authors_of
from atts.methods.chain import Models
from atts.runs import open_files
from atts.solving.solver import Solver
from atts.store.run_directory import lock_run

STATE = "deciders.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How it is served; nothing here changes an answer."""

    host: str = "127.0.0.1"
    port: int = 8000
    key: str | None = field(default=None, repr=False)
    directory: Path
    """Where what the deciders have learnt outlives the process."""
    record: bool = False
    """Whether what was answered is written down there, as run directories."""
    most_waiting: int = 1024
    """Chains that may wait; more are refused."""
    drain_seconds: float = 60.0
    """How long replies may go on once the server is told to end."""


class Opened(NamedTuple):
    """What there is to serve."""

    app: ASGIApp
    names: list[str]
    """Of the models that clients may ask for."""
    solver: Solver
    metrics: Metrics


@asynccontextmanager
async def open_gateway(
    config: Config,
    options: ServeOptions,
    models: Models | None = None,
    figures: Figures | None = None,
) -> AsyncIterator[Opened]:
    """The application, with what it stands on; what the deciders have learnt is kept at the end.

    ``figures`` gives what is measured, where that is not this application's alone.

    Raises:
        ConfigError, CalibrationError, EngineError, StoreError: see ``Solver``.
    """
    metrics = Metrics()
    with contextlib.ExitStack() as stack:
        stack.callback(lock_run(options.directory).release)
        recorder = Recorder(options.directory) if options.record else None
        if recorder:
            stack.callback(recorder.close)
        async with Solver(
            config,
            models,
            state=options.directory / STATE,
            observer=metrics,
            most_waiting=options.most_waiting,
        ) as solver:
            for warning in solver.warnings:
                _log.warning("%s", warning)
            served = Served(config, solver.variant)
            metrics.watch(solver)
            app = Gateway(solver, served, metrics, recorder, figures).app(options.key)
            yield Opened(app, served.names, solver, metrics)


async def serve(
    config: Config, options: ServeOptions, started: Callable[[str, list[str]], None]
) -> None:
    """Serve until SIGTERM or SIGINT; what is being answered then is answered to its end.

    Args:
        config: of the models, the limits, and of requests that say nothing else.
        options: how.
        started: is told the address, and the names that are served.

    Raises:
        ConfigError: it cannot listen there, or would let other machines in without a key.
        ConfigError, CalibrationError, EngineError, StoreError: see ``Solver``.
    """
    check_host(options.host, options.key)
    config = with_room(config, options)
    with listen(options.host, options.port) as listener:
        async with open_gateway(config, options) as (app, names, *_):
            await serve_on(
                listener, app, options.drain_seconds, lambda address: started(address, names)
            )


def with_room(config: Config, options: ServeOptions) -> Config:
    """The configuration with no more chains in flight than open files allow.

    Their limit is raised for these, and for a connection to each client.
    """
    config, word = open_files.fitted(config)
    if word:
        _log.warning("%s", word)
    chains = config.limits.chains
    with contextlib.suppress(ImportError):  # Windows has no such limit
        open_files.allow_open_files(
            open_files.RESERVE
            + chains * open_files.CONNECTIONS * len(authors_of(config))
            + chains
            + options.most_waiting
        )
    return config
