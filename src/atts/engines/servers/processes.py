"""Server processes: their start, their records, and their end, children included.

Each server leads a session of its own, so it survives the terminal, and everything that it
starts can be found again: by kinship while the leader lives, by the session afterwards. The
kernel reuses no process id that is still the id of a session. The leader is known by its birth,
which no change of the clock moves, and no server runs before its record is written.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atts.config import EngineName
from atts.config.secrets import hide
from atts.engines.servers.placed import settings_of
from atts.engines.servers.plan import MODULES, ServerPlan, answers_at
from atts.errors import ServerError
from atts.files import atomic_write
from atts.types import Author

TERMINATE_SECONDS = 30.0
"""How long a server may take to end by itself before it is killed."""
CHILD_SECONDS = 5.0
"""How much longer what it had started may take."""
TELL_SECONDS = 5.0

# The server takes the place of this shell once it is told that its record is written; it is never
# told if the process that started it has ended.
_GATE = 'read -r _ && exec "$@" < /dev/null'

# Its standard input closes with the process that holds the leash, however that ends.
_LEASH = """
import os, signal, subprocess, sys, threading
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
def end():
    sys.stdin.read()
    os.killpg(child.pid, signal.SIGKILL)
threading.Thread(target=end, daemon=True).start()
status = child.wait()
sys.exit(status if status >= 0 else 128 - status)
"""

Tell = Callable[[str], None]

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
    """When the process was created, by the clock of then."""
    birth: str | None = None
    """See ``birth_of``, by which it is known from a later one of the same id."""
    settings: str | None = None
    """See ``settings_of``. A record of before has neither."""


class Running(NamedTuple):
    """A server that was started, by this process or an earlier one."""

    record: ServerRecord

    def exit_status(self) -> int | None:
        """What it ended with, negative for a signal; None while it lives.

        Zero, too, where that is not known: it is of an earlier command, or somebody else took note
        of its end.
        """
        try:
            pid, status = os.waitpid(self.record.pid, os.WNOHANG)
        except ChildProcessError:
            found = processes(self.record)
            return None if found and found[0].pid == self.record.pid else 0
        return os.waitstatus_to_exitcode(status) if pid else None


def birth_of(process: psutil.Process) -> str:
    """What tells a process from every other of the same id: the boot, and the tick since then.

    Where the kernel does not tell those, the time of its creation, as the kernel keeps it.

    Raises:
        psutil.NoSuchProcess: it has ended.
    """
    try:
        ticks = Path(f"/proc/{process.pid}/stat").read_text(errors="replace")
        return f"{_boot()} {ticks.rpartition(')')[2].split()[19]}"
    except OSError:
        return repr(process.create_time())


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


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
        waits, go = os.pipe()
        # Not subprocess: the server is meant to go on when this process ends.
        try:
            pid = os.posix_spawn(
                "/bin/sh",
                ("/bin/sh", "-c", _GATE, "sh", *plan.command),
                os.environ | plan.environment,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, waits, 0),
                    (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
            )
            record = _record(plan, log, psutil.Process(pid))
            atomic_write(directory / f"{plan.author}.json", record.model_dump_json(indent=1) + "\n")
            os.write(go, b"go\n")
        finally:
            os.close(waits)
            os.close(go)
    except (OSError, psutil.Error) as error:
        raise ServerError(f"cannot start the {plan.author}'s server: {error}") from error
    return Running(record)


def _record(plan: ServerPlan, log: Path, leader: psutil.Process) -> ServerRecord:
    return ServerRecord(
        author=plan.author,
        engine=plan.options.engine,
        model=plan.options.model,
        url=answers_at(plan),
        log=log,
        pid=leader.pid,
        created=leader.create_time(),
        birth=birth_of(leader),
        settings=settings_of(plan.options),
    )


def run_leashed(command: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
    """Run a command to its end; it ends, with all that it has started, when this process does.

    Returns:
        Its exit status, 128 + the number of a signal that ended it.
    """
    with (
        log.open("wb") as file,
        subprocess.Popen(  # noqa: S603 - the configuration's own Python
            [sys.executable, "-I", "-S", "-c", _LEASH, *command],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as leash,
    ):
        return leash.wait()


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
        if not _is_leader(leader, record):
            return []  # the id is another process's by now
        found = {process.pid: process for process in (leader, *leader.children(recursive=True))}
    except psutil.NoSuchProcess:
        if not _is_of_this_boot(record):
            return []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == record.pid:
                found.setdefault(process.pid, process)
        except OSError:  # gone, or not ours to ask about
            continue
    return [process for process in found.values() if is_alive(process)]


def _is_leader(process: psutil.Process, record: ServerRecord) -> bool:
    """Whether a process of the recorded id is the server that was started."""
    if record.birth is not None:
        return birth_of(process) == record.birth
    if abs(process.create_time() - record.created) <= 1.0:
        return True
    # The clock may have been set since: then what it does tells.
    try:
        port = record.url.rpartition(":")[2]
        return os.getsid(process.pid) == process.pid and {MODULES[record.engine], port} <= set(
            process.cmdline()
        )
    except (OSError, psutil.AccessDenied, KeyError):
        return False


def _is_of_this_boot(record: ServerRecord) -> bool:
    try:
        return record.birth is None or record.birth.split()[0] == _boot()
    except OSError:
        return record.created >= psutil.boot_time()


def stop(records: list[ServerRecord], tell: Tell | None = None) -> list[ServerRecord]:
    """End servers with all that they started; gives those of which something was still alive.

    ``tell`` hears what is waited for.

    Raises:
        ServerError: a process does not end, even killed.
    """
    alive = {record: found for record in records if (found := processes(record))}
    leaders = [tree[0] for tree in alive.values()]
    for process in leaders:  # the leader ends its children in order
        _signal(process, kill=False)
    for record, (leader, *_) in alive.items():
        _tell(tell, record, leader)
    _wait(leaders, TERMINATE_SECONDS, tell)
    # What outlived its leader.
    left = [process for record in alive for process in processes(record)]
    for process in left:
        _signal(process, kill=False)
    _wait(left, CHILD_SECONDS, tell)
    # What came into being meanwhile, too.
    left = [process for record in alive for process in processes(record)]
    for process in left:
        _signal(process, kill=True)
    if left := _wait(left, TERMINATE_SECONDS, tell):
        raise ServerError(
            f"process {left[0].pid} does not end, even killed; the GPU driver may hold it"
        )
    return list(alive)


def _tell(tell: Tell | None, record: ServerRecord, leader: psutil.Process) -> None:
    if tell:
        tell(
            f"Ending the {record.author}'s server, {record.model} at {record.url}: process "
            f"{leader.pid}, which has {TERMINATE_SECONDS:.0f} s before it is killed"
        )


def _wait(
    waited_for: list[psutil.Process], seconds: float, tell: Tell | None
) -> list[psutil.Process]:
    """Wait for the end of processes; gives those that live on, and tells of them meanwhile."""
    began = time.monotonic()
    while waited_for:
        left = began + seconds - time.monotonic()
        _, waited_for = psutil.wait_procs(waited_for, timeout=max(0.0, min(left, TELL_SECONDS)))
        waited_for = [process for process in waited_for if is_alive(process)]
        if left <= 0:
            break
        if waited_for and tell:
            tell(
                f"Waiting for process {', '.join(str(process.pid) for process in waited_for)} to "
                f"end, {max(0.0, began + seconds - time.monotonic()):.0f} s more"
            )
    return waited_for


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


def is_alive(process: psutil.Process) -> bool:
    """Not if it has ended, and its parent, or a slow init, has only not taken note of it."""
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
