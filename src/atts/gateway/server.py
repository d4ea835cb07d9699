"""The server's process: listens, answers, and drains before it ends."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import uvicorn
from starlette.types import ASGIApp

from atts.config import Config
from atts.errors import ConfigError
from atts.gateway.access import check_host
from atts.gateway.app import Figures, Gateway
from atts.gateway.metrics import Metrics
from atts.gateway.recording import Recorder
from atts.gateway.served import Served
from atts.methods import authors_of
from atts.methods.chain import Models
from atts.runs import open_files
from atts.solving.solver import Solver
from atts.store.run_directory import lock_run

STATE = "deciders.json"

IDLE_SECONDS = 75
"""For how long a connection may be idle: longer than clients keep theirs, which then never send a
request into one that is just being closed."""

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
    with _listen(options.host, options.port) as listener:
        async with open_gateway(config, options) as (app, names, *_):
            server = _Server(
                uvicorn.Config(
                    app,
                    lifespan="off",
                    log_config=None,
                    access_log=False,
                    server_header=False,
                    timeout_keep_alive=IDLE_SECONDS,
                    timeout_graceful_shutdown=round(options.drain_seconds),
                ),
                lambda: started(_address(listener), names),
            )
            await server.serve([listener])


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


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; choose another "
            "--host or --port"
        ) from error


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class _Server(uvicorn.Server):
    """One that tells where it listens, and leaves its signals to the loop: the original raises them
    again at the end, and nothing after it would be done.
    """

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._tell()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        with told_to_end(lambda number: self.handle_exit(number, None)):
            yield


@contextlib.contextmanager
def told_to_end(handle: Callable[[int], None]) -> Iterator[None]:
    """Inside, SIGTERM and SIGINT call ``handle`` in the running loop, with their number."""
    loop = asyncio.get_running_loop()
    both = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    # What was ignored from the beginning, as by nohup, stays ignored.
    before = {each: handler for each, handler in both.items() if handler != signal.SIG_IGN}
    for each in before:
        loop.add_signal_handler(each, handle, each)
    try:
        yield
    finally:
        for each, handler in before.items():
            loop.remove_signal_handler(each)
            signal.signal(each, handler)
