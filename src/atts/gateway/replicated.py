"""The same application in several replicas on a Ray cluster, as a Ray Serve application.

Each replica has a solver of its own: its limits, and its deciders, which hold the rate over what
that replica answers. Ray Serve's proxies hand a request to a replica that has few.
"""

import asyncio
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from starlette.types import ASGIApp

from atts.cluster.connection import connected
from atts.cluster.places import in_process
from atts.config import Config
from atts.engines.servers.placed import located
from atts.errors import ConfigError, ServerError, StoreError
from atts.gateway.access import check_host, is_loopback
from atts.gateway.listening import IDLE_SECONDS, told_to_end
from atts.gateway.metrics import of_replicas
from atts.gateway.served import Served
from atts.gateway.server import Opened, ServeOptions, open_gateway, with_room
from atts.methods import authors_of
from atts.package import install
from atts.solving.deciders import Deciders

NAME = "atts"
"""Of the application, and of its one deployment."""
CONTROLLER = "SERVE_CONTROLLER_ACTOR"
"""Ray Serve's own actor, which is there as long as it runs on a cluster."""
WATCH_SECONDS = 2.0
"""Between two looks at whether the command lives; without it the replicas end."""
POLL_SECONDS = 0.2
REPLY_SECONDS = 10.0
BESIDE = 64
"""Requests to a replica beside the questions that it may hold: for figures, health, models."""

_log = logging.getLogger(__name__)


async def serve_replicated(
    config: Config,
    options: ServeOptions,
    address: str,
    replicas: int,
    started: Callable[[str, list[str]], None],
) -> None:
    """Serve on a cluster until SIGTERM or SIGINT; what is being answered then is answered to its
    end.

    Args:
        config: of the models, and of requests that say nothing else; its limits are those of each
            replica.
        options: how; in ``directory`` each replica has a folder of its own.
        address: of the cluster; see ``connected``.
        replicas: how many.
        started: is told the address, and the names that are served.

    Raises:
        ConfigError: there is no such cluster, Ray Serve runs on it already, it would let other
            machines in without a key, or the configuration cannot be solved by.
        CalibrationError: the calibration is missing, or for something else.
        ServerError: the replicas cannot be started.
    """
    check_host(options.host, options.key)
    if not options.port:
        raise ConfigError("--ray needs a --port: the nodes of a cluster agree on no free one")
    deciders = Deciders(config)
    deciders.of(config)  # what is wrong shows before anything is started
    names = Served(config, deciders.of).names
    with connected(address) as ray:
        serve = _ray_serve()
        _refuse_others(ray)
        told = asyncio.Event()
        try:
            with told_to_end(lambda _: told.set()):
                await asyncio.to_thread(_start, serve, options)
                application = _application(ray, serve, config, options, replicas)
                running = asyncio.create_task(asyncio.to_thread(_run, serve, application))
                waiting = asyncio.create_task(told.wait())
                await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
                if running.done():
                    running.result()
                    host = f"[{options.host}]" if ":" in options.host else options.host
                    started(f"http://{host}:{options.port}", names)
                    await told.wait()
                    await asyncio.to_thread(_drain, serve, options.drain_seconds)
        finally:
            await asyncio.to_thread(serve.shutdown)


def _ray_serve() -> Any:  # noqa: ANN401 - a module without types
    try:
        from ray import serve
    except ModuleNotFoundError as error:
        raise ConfigError(f"serve --ray needs {error.name}: {install('serve-ray')}") from None
    return serve


def _refuse_others(ray: Any) -> None:  # noqa: ANN401
    with suppress(ValueError):
        ray.get_actor(CONTROLLER, namespace="serve")
        raise ConfigError(
            "Ray Serve runs on this cluster already, at an address of its own: end it with serve "
            "shutdown, or take another cluster"
        )


def _start(serve: Any, options: ServeOptions) -> None:  # noqa: ANN401
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(
        proxy_location="HeadOnly" if is_loopback(options.host) else "EveryNode",
        http_options={
            "host": options.host,
            "port": options.port,
            "keep_alive_timeout_s": IDLE_SECONDS,
        },
        logging_config={"log_level": "WARNING"},
    )


def _application(
    ray: Any,  # noqa: ANN401
    serve: Any,  # noqa: ANN401
    config: Config,
    options: ServeOptions,
    replicas: int,
) -> Any:  # noqa: ANN401
    has_gpus = ray.cluster_resources().get("GPU", 0) > 0
    deployment = serve.deployment(
        name=NAME,
        num_replicas=replicas,
        max_ongoing_requests=options.most_waiting + config.limits.chains + BESIDE,
        graceful_shutdown_timeout_s=options.drain_seconds,
        max_constructor_retry_count=1,
        ray_actor_options={
            "num_cpus": 1,
            "num_gpus": 1 if has_gpus and in_process(config, authors_of(config)) else 0,
        },
    )(serve.ingress()(Replica))
    owner = ray.remote(_Owner).options(num_cpus=0).remote()
    return deployment.bind(located(config), options, str(Path.cwd()), owner)


def _run(serve: Any, application: Any) -> None:  # noqa: ANN401
    """Start the replicas, and wait until they answer.

    Raises:
        ServerError: they cannot be started.
    """
    try:
        serve.run(application, name=NAME, route_prefix="/")
    except RuntimeError as error:
        found = re.findall(r"^[\w.]*(?:Error|Exception): .*", _message(serve), re.MULTILINE)
        reason = found[-1] if found else str(error)
        raise ServerError(f"the replicas cannot be started: {reason}") from None


def _message(serve: Any) -> str:  # noqa: ANN401
    application = serve.status().applications.get(NAME)
    told = [each.message for each in application.deployments.values()] if application else []
    return "\n".join(told)


def _drain(serve: Any, seconds: float) -> None:  # noqa: ANN401
    """Take no more requests, and wait until all are answered."""
    serve.delete(NAME, _blocking=False)
    ends = time.monotonic() + seconds + REPLY_SECONDS
    while NAME in serve.status().applications and time.monotonic() < ends:
        time.sleep(POLL_SECONDS)


class _Owner:
    """An actor that ends with the command, however that ends."""

    def lives(self) -> bool:
        return True


class HeldGateway:
    """An application that stays open, in a folder that no other replica has."""

    def __init__(self, config: Config, options: ServeOptions) -> None:
        """Nothing is opened yet; ``config`` and ``options`` are as of ``serve_replicated``."""
        self._config = with_room(config, options)
        self._options = options
        self._name = ""
        self._closing = asyncio.Event()
        self._opened: asyncio.Future[Opened] = asyncio.get_running_loop().create_future()
        # A task of its own, since what is opened must be closed in the task that has opened it.
        self._holding = asyncio.create_task(self._hold())

    async def app(self) -> ASGIApp:
        """The application, once it is open.

        Raises:
            AttsError: it cannot be opened; see ``open_gateway``.
        """
        return (await self._opened).app

    async def figures(self) -> tuple[str, bytes]:
        """The name of this replica, and what it has measured."""
        return self._name, (await self._opened).metrics.text()

    async def aclose(self) -> None:
        """Close it; what its deciders have learnt is kept."""
        self._closing.set()
        await self._holding

    async def _hold(self) -> None:
        try:
            with _own_folder(self._options.directory) as folder:
                own = replace(self._options, directory=folder)
                self._name = folder.name.rpartition("-")[2]
                async with open_gateway(self._config, own, figures=_figures) as found:
                    self._opened.set_result(found)
                    await self._closing.wait()
        except Exception as error:
            if self._opened.done():
                raise
            self._opened.set_exception(error)


class Replica:
    """One replica, as Ray Serve makes it, calls it and ends it."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self,
        config: Config,
        options: ServeOptions,
        folder: str,
        owner: Any,  # noqa: ANN401
    ) -> None:
        """Open the application.

        Args:
            config: as of ``serve_replicated``.
            options: as there.
            folder: what relative paths are below of, where this node has it.
            owner: an actor that ends with the command.
        """
        with suppress(OSError):
            os.chdir(folder)
        self._held = HeldGateway(config, options)
        self._app = await self._held.app()
        self._watching = asyncio.create_task(end_without(owner))

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._app

    async def __del__(self) -> None:
        await self._held.aclose()

    async def figures(self) -> tuple[str, bytes]:
        """See ``HeldGateway.figures``."""
        return await self._held.figures()


async def end_without(owner: Any) -> None:  # noqa: ANN401
    """End the whole of Ray Serve, which the command has started, where the command is gone."""
    from ray.exceptions import RayActorError

    node = os.getppid()
    with suppress(RayActorError):
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(owner.lives.remote(), REPLY_SECONDS)
            if os.getppid() != node:  # Ray's own process: the cluster has ended
                os._exit(1)
            await asyncio.sleep(WATCH_SECONDS)
    _log.warning("the command that has started this replica is gone; so it ends")
    threading.Thread(target=_ray_serve().shutdown, daemon=True).start()


@contextmanager
def _own_folder(directory: Path) -> Iterator[Path]:
    """The first folder for a replica that none has now, on this node or where it is shared.

    Raises:
        StoreError: it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            name = f"replica-{number}"
            with suppress(Timeout), FileLock(directory / f".{name}.lock", timeout=0):
                yield directory / name
                return
    except OSError as error:
        raise StoreError(f"cannot open the folder {directory}: {error}") from error


async def _figures() -> bytes:
    """What all replicas have measured."""
    handle = _ray_serve().get_deployment_handle(NAME, NAME)
    told = await handle.broadcast("figures").results_async(
        timeout_s=REPLY_SECONDS, return_exceptions=True
    )
    return of_replicas(dict(each for each in told if not isinstance(each, BaseException)))
