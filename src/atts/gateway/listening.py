"""A process that listens, until it is told to end."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from atts.errors import ConfigError

IDLE_SECONDS = 75
"""For how long a connection may be idle: longer than clients keep theirs, which then never send a
request into one that is just being closed."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes a free one.

    Raises:
        ConfigError: it cannot.
    """
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


async def serve_on(
    listener: socket.socket, app: ASGIApp, drain_seconds: float, started: Callable[[str], None]
) -> None:
    """Answer until SIGTERM or SIGINT, and what is being answered then for so long.

    ``started`` is told the address.
    """
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=round(drain_seconds),
    )
    await _Server(config, lambda: started(_address(listener))).serve([listener])


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
