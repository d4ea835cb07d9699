"""Server processes: their start, their records, and their end, children included.

Each server leads a session of its own, so it survives the terminal, and everything that it
starts can be found again: by kinship while the leader lives, by the session afterwards. The
kernel reuses no process id that is still the id of a session.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atts.config import EngineName
from atts.config.secrets import hide
from atts.engines.servers.plan import ServerPlan, answers_at
from atts.errors import ServerError
from atts.files import atomic_write
from atts.types import Author

TERMINATE_SECONDS = 30.0
"""How long a server may take to end by itself before it is killed."""

TAIL_BYTES = 256 * 1024


class ServerRecord(BaseModel):
    """What is written down about a running server: ``AUTHOR.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    author: Author
    engine: EngineName
    model: str
    url: str
    log: Path
    pid: int = Field(gt=1, lt=2**31)
    """To signal 0 or -1 would be to signal a group of processes, or all."""
    created: float
    """When the process was created, by which it is known from a later one of the same id."""


class Running(NamedTuple):
    """A server that this process has started."""

    record: ServerRecord

    def exit_status(self) -> int | None:
        """What it ended with, negative for a signal; None while it lives."""
        try:
            pid, status = os.waitpid(self.record.pid, os.WNOHANG)
        except ChildProcessError:  # it ended, and somebody else took note
            return 0
        return os.waitstatus_to_exitcode(status) if pid else None


def start(plan: ServerPlan, directory: Path) -> Running:
    """Start a server, with its log in ``directory``; it need not answer yet.

    Raises:
        ServerError: it cannot be started, or an earlier one of that name still runs.
    """
    earlier = read_record(directory, plan.author)
    if earlier and processes(earlier):
        raise ServerError(
            f"the {plan.author}'s server of {directory} already runs (process {earlier.pid}, "
            f"{earlier.url}); end it with atts servers down"
        )
    log = directory.resolve() / f"{plan.author}.log"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Not subprocess: the server is meant to go on when this process ends.
        pid = os.posix_spawn(
            plan.command[0],
            plan.command,
            os.environ | plan.environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        created = psutil.Process(pid).create_time()
    except OSError as error:
        raise ServerError(f"cannot start the {plan.author}'s server: {error}") from error
    record = ServerRecord(
        author=plan.author,
        engine=plan.options.engine,
        model=plan.options.model,
        url=answers_at(plan),
        log=log,
        pid=pid,
        created=created,
    )
    try:
        atomic_write(directory / f"{plan.author}.json", record.model_dump_json(indent=1) + "\n")
    except BaseException:
        stop([record])
        raise
    return Running(record)


def read_record(directory: Path, author: Author) -> ServerRecord | None:
    """What is written down about a server, or None.

    Raises:
        ServerError: the file cannot be read.
    """
    path = directory / f"{author}.json"
    try:
        return ServerRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ServerError(f"cannot read {path}: {error}; which server is it about?") from error
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        where = ".".join(map(str, found["loc"]))
        raise ServerError(
            f"{path} is not what atts servers up writes: {f'{where}: ' if where else ''}"
            f"{found['msg']}; if no server of this folder runs, remove the file"
        ) from None


def forget(directory: Path, author: Author) -> None:
    """Drop the record of a server that has ended; its log stays."""
    (directory / f"{author}.json").unlink(missing_ok=True)


def processes(record: ServerRecord) -> list[psutil.Process]:
    """The living processes of a server, the leader first if it lives."""
    found: dict[int, psutil.Process] = {}
    try:
        leader = psutil.Process(record.pid)
        if abs(leader.create_time() - record.created) > 1.0:
            return []  # the id is another process's by now
        found = {process.pid: process for process in (leader, *leader.children(recursive=True))}
    except psutil.NoSuchProcess:
        pass
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == record.pid:
                found.setdefault(process.pid, process)
        except OSError:  # gone, or not ours to ask about
            continue
    return [process for process in found.values() if _is_alive(process)]


def stop(records: list[ServerRecord]) -> list[ServerRecord]:
    """End servers with all that they started; gives those of which something was still alive.

    Raises:
        ServerError: a process does not end, even killed.
    """
    alive = {record: processes(record) for record in records}
    everything = [process for tree in alive.values() for process in tree]
    for tree in alive.values():
        for process in tree[:1]:  # the leader ends its children in order
            _signal(process, kill=False)
    _, left = psutil.wait_procs(everything, timeout=TERMINATE_SECONDS if everything else 0)
    # What came into being meanwhile, or outlived its leader.
    left += [process for record in records for process in processes(record)]
    for process in left:
        _signal(process, kill=True)
    _, left = psutil.wait_procs(left, timeout=TERMINATE_SECONDS if left else 0)
    if left := [process for process in left if _is_alive(process)]:
        raise ServerError(
            f"process {left[0].pid} does not end, even killed; the GPU driver may hold it"
        )
    return [record for record, tree in alive.items() if tree]


def tail(log: Path, lines: int, secrets: Iterable[str] = ()) -> str:
    """The last lines of a log, without ``secrets`` and what looks like one; empty if there is none.

    A server writes down its own command line, keys included.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return hide("\n".join(text.splitlines()[-lines:]), secrets)


def first_error(log: Path, secrets: Iterable[str] = ()) -> str | None:
    """The first exception that a log names: what comes after it is often only its consequence."""
    found = re.search(r"\b\w*(?:Error|Exception): .*", tail(log, 10_000, secrets))
    return found[0] if found else None


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _signal(process: psutil.Process, kill: bool) -> None:
    try:
        if kill:
            process.kill()
        else:
            process.terminate()
    except psutil.NoSuchProcess:
        pass
    except psutil.AccessDenied as error:
        raise ServerError(f"process {process.pid} is not ours to end: {error}") from error
