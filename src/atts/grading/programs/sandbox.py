"""Runs a program on inputs, under limits and without network: a script for a process of its own.

``checker`` starts it by its path, and nothing of atts is loaded here: what a program may look at in
its own memory is this module. Requests and replies are JSON lines, one reply to each request:

1. what to run (``Job``); the reply says whether a program can be confined here;
2. an input, as often as there are inputs; the reply has the output, or what went wrong.

Each input is given to a fork, which first gives up what a program must not have (``_confine``) and
cannot fork itself. It ends when this process ends, and this one when its parent does. The outputs
that are expected never get here.
"""

import ctypes
import errno
import json
import os
import platform
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, BinaryIO, NoReturn, TypedDict, cast


class Job(TypedDict):
    """What is run, and what it may use."""

    program: str
    before: str
    check: str | None
    entry_point: str | None
    cpu_seconds: int
    wall_seconds: float
    memory_bytes: int
    file_bytes: int
    folder: str
    parent: int
    unconfined: bool
    """Whether to go on where the system confines no program."""


_RESULT = 3  # the file descriptor on which a fork says what came out
_CONFINED = b"+"
_FILES = 64
_ERROR = 1

# prctl
_SET_DEATH_SIGNAL, _SET_SECCOMP, _SET_NO_NEW_PRIVILEGES, _SET_DUMPABLE = 1, 22, 38, 4
_NEW_USER, _NEW_NETWORK = 0x1000_0000, 0x4000_0000

# The numbers of system calls: on x86-64, on AArch64.
_DENIED = {
    "socket": (41, 198),
    "io_uring_setup": (425, 425),
    "fork": (57, None),
    "vfork": (58, None),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "chroot": (161, 51),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
}
_CLONE, _CLONE3, _THREAD = (56, 220), 435, 0x0001_0000
_ARCHITECTURES = {"x86_64": (0, 0xC000_003E), "aarch64": (1, 0xC000_00B7)}
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF, _CAPSET = 444, 445, 446, (126, 91)
_READ_FILES, _READ_FOLDERS = 1 << 2, 1 << 3


def main() -> None:
    """Serve one job, until there are no more inputs."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    job = cast(Job, json.loads(requests.readline()))
    _die_with(job["parent"])
    lacks = _lacks()
    if lacks and not job["unconfined"]:
        _say(replies, {"refused": lacks})
        return
    # Also where this is not permitted, no socket is: see ``_refuse_calls``.
    if sys.platform == "linux":
        _libc().unshare(_NEW_USER | _NEW_NETWORK)
    _say(replies, {"refused": None})
    while line := requests.readline():
        request = json.loads(line)
        _say(replies, _run(job, request["input"], request["most"], not lacks))


def _say(replies: BinaryIO, what: dict[str, Any]) -> None:
    replies.write(json.dumps(what).encode() + b"\n")
    replies.flush()


def _lacks() -> str | None:
    """What this system lacks to confine a program; None if nothing."""
    if sys.platform != "linux":
        return f"programs are confined on Linux only, not on {sys.platform}"
    if platform.machine() not in _ARCHITECTURES:
        return f"system calls cannot be refused on {platform.machine()}"
    if _libc().prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        return "privileges cannot be given up (no_new_privs)"
    if _libc().syscall(_CREATE_RULESET, None, 0, 1) < 1:
        return "the kernel has no Landlock (Linux 5.13), which keeps programs from your files"
    return None


def _run(job: Job, text: str, most: int, confined: bool) -> dict[str, Any]:
    """What a program makes of an input: {"status": ..., "output": ..., "cpu": seconds}."""
    token = os.urandom(16).hex()
    folder = tempfile.mkdtemp(dir=job["folder"])
    file = Path(folder, "input")
    given = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    file.unlink()
    os.pwrite(given, text.encode("utf-8", "surrogatepass"), 0)
    reading, writing = os.pipe()
    # Nothing is held open by "with" here: the fork would close it, too, on its way out.
    child = os.fork()
    if not child:
        os.chdir(folder)
        _be_the_program(job, given, writing, token, confined)
    os.close(writing)
    os.close(given)
    until = time.monotonic() + job["wall_seconds"]
    output, is_whole, in_time = _collect(reading, most, until)
    os.close(reading)
    if is_whole:
        in_time = _ends(child, until)
    if not (is_whole and in_time):
        os.kill(child, signal.SIGKILL)
    _, status, used = os.wait4(child, 0)
    shutil.rmtree(folder, ignore_errors=True)
    cpu = used.ru_utime + used.ru_stime
    reply = {"output": "", "cpu": cpu}
    if confined and not output.startswith(_CONFINED):
        return reply | {"status": "sandbox"}
    if not in_time:
        return reply | {"status": "time-out"}
    ran_out = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU
    if ran_out or cpu >= job["cpu_seconds"]:
        return reply | {"status": "too slow"}
    if not is_whole or status:
        return reply | {"status": "failed"}
    said = output.removeprefix(_CONFINED).decode("utf-8", "replace")
    if job["check"] is not None and said != token:
        return reply | {"status": "failed"}
    return reply | {"status": "done", "output": said}


def _collect(reading: int, most: int, until: float) -> tuple[bytes, bool, bool]:
    """What is written until the end; whether that was all, and whether it was in time."""
    output = b""
    while len(output) <= most:
        ready, _, _ = select.select([reading], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return output, False, False
        part = os.read(reading, 1 << 16)
        if not part:
            return output, True, True
        output += part
    return output, False, True


def _ends(child: int, until: float) -> bool:
    """Wait for the end of a fork that has closed its output, which mostly is its end."""
    pause = 0.0005
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > until:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    return True


def _be_the_program(job: Job, given: int, writing: int, token: str, confined: bool) -> NoReturn:
    """In the fork: give up what a program must not have, and become it."""
    _die_with(os.getppid())
    by_output = job["check"] is None and job["entry_point"] is None
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(given, 0)
    os.dup2(writing, 1 if by_output else _RESULT)
    os.dup2(nothing, 2)
    if not by_output:
        os.dup2(nothing, 1)
    os.closerange(_RESULT + (not by_output), 1024)
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    if confined:
        _confine()
    else:
        sys.addaudithook(_refuse_event)
    _limit(job, confined)
    if confined:
        os.write(1 if by_output else _RESULT, _CONFINED)
    sys.argv = ["program.py"]
    if by_output:
        _execute(job, "__main__")
        # An exit as of any program: threads come to their ends, and what is buffered is written.
        raise SystemExit(0)
    # Not its exit code, which it may choose: only who gets to the end can say this.
    try:
        said = _called(job) if job["check"] is None else _checked(job, token)
    except BaseException:  # whatever a program raises, its exit included
        os._exit(_ERROR)
    os.write(_RESULT, said)
    os._exit(0)


def _checked(job: Job, token: str) -> bytes:
    module = _execute(job, "program")
    exec(_compiled(job["check"] or "", "tests"), module.__dict__)  # noqa: S102
    module.check(getattr(module, job["entry_point"] or ""))
    return token.encode()


def _called(job: Job) -> bytes:
    """What the entry point returns, as JSON; each line of the input is an argument."""
    arguments = [json.loads(line) for line in sys.stdin.read().split("\n") if line.strip()]
    module = _execute(job, "program")
    holder = module.Solution() if hasattr(module, "Solution") else module
    returned = getattr(holder, job["entry_point"] or "")(*arguments)
    return json.dumps(returned).encode()


def _execute(job: Job, name: str) -> ModuleType:
    module = ModuleType(name)
    sys.modules[name] = module
    exec(_compiled(job["before"], "before"), module.__dict__)  # noqa: S102
    exec(_compiled(job["program"], "program"), module.__dict__)  # noqa: S102
    return module


def _compiled(source: str, name: str) -> CodeType:
    return compile(source, f"{name}.py", "exec", dont_inherit=True)


def _limit(job: Job, confined: bool) -> None:
    import resource

    limits = {
        resource.RLIMIT_CPU: job["cpu_seconds"],
        resource.RLIMIT_AS: job["memory_bytes"],
        resource.RLIMIT_FSIZE: job["file_bytes"],
        resource.RLIMIT_NOFILE: _FILES,
        resource.RLIMIT_CORE: 0,
    }
    if not confined:  # where no system call is refused, this keeps a program from forking
        limits[resource.RLIMIT_NPROC] = 0
    for which, most in limits.items():
        _, hard = resource.getrlimit(which)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        # The signal that tells of the time can be caught; a second later comes one that cannot.
        last = most + 1 if which == resource.RLIMIT_CPU and most != hard else most
        try:
            resource.setrlimit(which, (most, last))
        except (ValueError, OSError):  # macOS refuses that of memory
            if confined:
                raise


def _refuse_event(event: str, _arguments: object) -> None:
    """Where the system refuses nothing: refuse what Python itself tells of."""
    if event.startswith(("socket.", "subprocess.", "os.exec", "os.fork", "os.spawn", "os.posix")):
        raise PermissionError(errno.EPERM, f"{event} is not for programs that are graded")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _must(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), what)
    return result


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        _libc().prctl(_SET_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it was gone before
        os._exit(_ERROR)


def _confine() -> None:
    """Take away privileges, files, network, other processes; for good.

    Raises:
        OSError: the system refuses; nothing may be run then.
    """
    index, _ = _ARCHITECTURES[platform.machine()]
    _must(_libc().prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no_new_privs")
    header, none = struct.pack("Ii", 0x2008_0522, 0), bytes(24)
    _must(_libc().syscall(_CAPSET[index], header, none), "capset")
    _refuse_files()
    _refuse_calls()


def _refuse_files() -> None:
    """Landlock: of files, those of Python and its libraries can be read, and the present folder
    used; nothing else can be opened, and nothing executed.
    """
    version = _must(_libc().syscall(_CREATE_RULESET, None, 0, 1), "Landlock")
    # What the first version knows, and what later ones added: refer, truncate, ioctl.
    rights = (1 << 13) - 1
    for since, right in ((2, 1 << 13), (3, 1 << 14), (5, 1 << 15)):
        rights |= right if version >= since else 0
    # From the fourth on, TCP; from the sixth on, signals and abstract sockets outside.
    attributes = struct.pack("QQQ", rights, 3, 3)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = _must(
        _libc().syscall(_CREATE_RULESET, attributes, len(attributes), 0), "a Landlock ruleset"
    )
    # Neither executing nor making devices, sockets and pipes (bits 0, 6, 9, 10, 11).
    _permit(ruleset, ".", rights & ~(1 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11))
    libraries = {sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path}
    for path in {*libraries, "/usr", "/lib", "/lib64"} - {"", "/"}:
        _permit(ruleset, path, _READ_FILES | _READ_FOLDERS)
    for path in ("/dev/null", "/dev/zero", "/dev/urandom", "/etc/ld.so.cache", "/etc/localtime"):
        _permit(ruleset, path, _READ_FILES | (1 << 1 if path == os.devnull else 0))
    _must(_libc().syscall(_RESTRICT_SELF, ruleset, 0), "Landlock")
    os.close(ruleset)


def _permit(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not every system has each
        return
    if not Path(path).is_dir():
        rights &= 1 | 1 << 1 | 1 << 2 | 1 << 14
    rule = struct.pack("=Qi", rights, place)
    _must(_libc().syscall(_ADD_RULE, ruleset, 1, rule, 0), f"Landlock for {path}")
    os.close(place)


def _refuse_calls() -> None:
    """Seccomp: no sockets, no processes but this one, no signals to others, no namespaces."""
    index, architecture = _ARCHITECTURES[platform.machine()]
    load, equal, above, some, give = 0x20, 0x15, 0x35, 0x45, 0x06
    refused, absent, permitted = 0x0005_0000 | errno.EPERM, 0x0005_0000 | errno.ENOSYS, 0x7FFF_0000
    program = [
        (load, 0, 0, 4),
        (equal, 1, 0, architecture),
        (give, 0, 0, 0x8000_0000),  # calls of another architecture end the process
        (load, 0, 0, 0),
        (above, 0, 1, 0x4000_0000),  # x86-64 has its calls a second time, from here on
        (give, 0, 0, refused),
    ]
    for numbers in _DENIED.values():
        if (number := numbers[index]) is not None:
            program += [(equal, 0, 1, number), (give, 0, 0, refused)]
    # clone3 hides its flags from this filter; libraries go back to clone where there is none.
    program += [(equal, 0, 1, _CLONE3), (give, 0, 0, absent)]
    program += [
        (equal, 0, 3, _CLONE[index]),
        (load, 0, 0, 16),  # its flags
        (some, 1, 0, _THREAD),
        (give, 0, 0, refused),
        (give, 0, 0, permitted),
    ]
    code = b"".join(struct.pack("HBBI", *each) for each in program)
    held = ctypes.create_string_buffer(code)
    filter_ = struct.pack("HxxxxxxP", len(program), ctypes.addressof(held))
    _must(_libc().prctl(_SET_SECCOMP, 2, filter_, 0, 0), "seccomp")


if __name__ == "__main__":
    main()
