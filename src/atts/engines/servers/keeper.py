"""Keeps one server alive on the machine that it is on, and ends it with itself."""

import asyncio
import os
import socket
import stat
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
from filelock import FileLock, Timeout

from atts.config import ModelOptions
from atts.engines.servers.lifecycle import LOG_LINES, answers
from atts.engines.servers.plan import is_free, is_loopback, plan_server, secrets_of
from atts.engines.servers.processes import (
    Running,
    first_error,
    forget,
    processes,
    read_record,
    start,
    stop,
    tail,
)
from atts.engines.servers.watch import watch
from atts.errors import ServerError
from atts.types import Author

POLL_SECONDS = 0.25
LONGEST_PAUSE = 60.0
"""Seconds between the end of a server that cannot stay alive and its next start."""
PORTS = 200
"""How many are looked at, from ``server.port`` on, for one that is free."""


class Kept(NamedTuple):
    """A server and how it is."""

    node: str
    url: str
    """Empty before its first start."""
    pid: int
    is_answering: bool
    memory: int
    """In bytes, of all its processes."""
    restarts: int
    doing: str
    """The last line of its log."""
    failure: str
    """Why it ended last, until it answers again."""


class Keeper:
    """Starts a server, starts it again when it ends, at the same address, and ends it.

    The server does not outlive this process, not even where that is killed: see ``watch``.
    """

    def __init__(
        self, name: str, author: Author, options: ModelOptions, host: str, key: str | None
    ) -> None:
        """Begin; nothing is waited for.

        Args:
            name: of the server, by which a later keeper of it knows what an earlier one has left.
            author: whose server.
            options: of its model; ``server.port`` is the first port that is tried.
            host: this machine's name for those who send requests.
            key: the API key, in case this process's environment has none.
        """
        if key is not None and options.api_key_env:
            os.environ[options.api_key_env] = key
        self._author: Author = author
        self._options = options
        self._host = host
        self._running: Running | None = None
        self._url = ""
        self._restarts = -1
        self._failure = ""
        self._ending = threading.Event()
        self._folder = _own_folder() / name / str(os.getpid())
        self._folder.mkdir(parents=True, exist_ok=True)
        self._port: int | None = None
        self._port_lock: FileLock | None = None
        self._leash = watch(self._folder, author)
        self._thread = threading.Thread(target=self._keep, name="atts-keeper", daemon=True)
        self._thread.start()

    def kept(self) -> Kept:
        """The server as it is now."""
        running, options = self._running, self._options
        found = processes(running.record) if running else []
        is_answering = bool(found) and asyncio.run(
            answers(self._url, options.model, options.api_key_env)
        )
        memory = 0
        for process in found:
            with suppress(psutil.Error):  # it ends at this moment
                memory += process.memory_info().rss
        return Kept(
            node=socket.gethostname(),
            url=self._url,
            pid=running.record.pid if running else 0,
            is_answering=is_answering,
            memory=memory,
            restarts=max(0, self._restarts),
            doing=self.tail(1).strip(),
            failure="" if is_answering else self._failure,
        )

    def tail(self, lines: int) -> str:
        """The end of the server's log, without secrets."""
        return tail(self._folder / f"{self._author}.log", lines, secrets_of(self._options))

    def end(self) -> None:
        """End the server, with all that it has started.

        Raises:
            ServerError: a process does not end, even killed.
        """
        self._ending.set()
        self._thread.join()
        self._stop()
        self._leash.close()
        if self._port_lock:
            self._port_lock.release()

    def _keep(self) -> None:
        pause = 0.0
        while not self._ending.wait(pause):
            self._restarts += 1
            began = time.monotonic()
            try:
                self._failure = self._one_life()
            except Exception as error:
                # Whatever it is, the next attempt may succeed, and atts servers status tells it.
                self._failure = f"{type(error).__name__}: {error}"
            lived = time.monotonic() - began
            pause = 0.0 if lived > LONGEST_PAUSE else min(LONGEST_PAUSE, pause * 2 or POLL_SECONDS)

    def _one_life(self) -> str:
        """Start the server and wait for its end; why it has ended."""
        self._end_earlier()
        options = self._at_its_port()
        running = self._running = start(plan_server(self._author, options), self._folder)
        status = None
        while status is None and not self._ending.wait(POLL_SECONDS):
            status = running.exit_status()
        if status is None:
            return ""
        log, secrets = running.record.log, secrets_of(options)
        cause = first_error(log, secrets)
        end = tail(log, LOG_LINES, secrets)
        self._stop()  # what it had started
        told = f"it ended with status {status}" if status else "it ended"
        first = f", the first error is: {cause}" if cause else ""
        return f"{told}{first}\nThe end of {log}:\n{end}"

    def _stop(self) -> None:
        if self._running:
            stop([self._running.record])
            forget(self._folder, self._author)

    def _end_earlier(self) -> None:
        """End what an earlier keeper of this server has left here; its port comes first."""
        for folder in self._folder.parent.iterdir():
            if folder != self._folder and (record := read_record(folder, self._author)):
                stop([record])
                forget(folder, self._author)
                self._port = int(record.url.rpartition(":")[2])

    def _at_its_port(self) -> ModelOptions:
        """The options with the address at which it listens; once found, a port stays."""
        server = self._options.server
        host = self._host if is_loopback(server.host) else server.host
        first = server.port
        for port in (self._port, *range(first, min(first + PORTS, 2**16))):
            if port and is_free(host, port) and self._takes(port):
                break
        else:
            raise ServerError(f"no port from {first} to {first + PORTS - 1} is free on {host}")
        self._port = port
        self._url = f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{port}"
        placed = server.model_copy(update={"host": host, "port": port, "gpus": ()})
        return self._options.model_copy(update={"server": placed, "urls": ()})

    def _takes(self, port: int) -> bool:
        """Whether no other keeper of this machine has a port, which may not listen there yet."""
        if self._port_lock:
            if port == self._port:
                return True
            self._port_lock.release()
        lock = FileLock(_own_folder() / f"port-{port}.lock", timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            return False
        self._port_lock = lock
        return True


def _own_folder() -> Path:
    """A folder of this machine that nobody else can write to.

    Raises:
        ServerError: somebody else has made it.
    """
    folder = Path(tempfile.gettempdir()) / f"atts-servers-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ServerError(f"{folder} is not ours alone; remove it")
    return folder
