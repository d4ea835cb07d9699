"""Runs programs against a problem's tests, each in a process of its own that is confined."""

import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal, InvalidOperation
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from typing import Any, NamedTuple

from atts.grading.programs.sandbox import Job
from atts.types import Case, ProgramTests

UNCONFINED_VARIABLE = "ATTS_UNCONFINED_PROGRAMS"
"""The environment variable that permits, with ``1``, programs where they cannot be confined."""

SCRIPT = Path(__file__).with_name("sandbox.py")

_RULES = 1
"""Raise this when what makes a program right changes."""

_log = logging.getLogger(__name__)


class Limits(NamedTuple):
    """What a program may use."""

    cpu_seconds: int = 10
    """For one test; a program that needs more is wrong."""
    all_cpu_seconds: float = 200.0
    """For all tests of a problem."""
    wall_seconds: float = 60.0
    """For one test. Long, so that a busy machine makes no program wrong."""
    memory_bytes: int = 2 << 30
    file_bytes: int = 16 << 20
    """For each file that it writes."""
    output_bytes: int = 1 << 20
    """For what it prints or returns beyond what is expected."""


class Verdict(NamedTuple):
    """What became of a program."""

    passed: bool | None
    """None: ungraded, because it could not be run."""
    reason: str
    """Why it did not pass; empty if it did."""
    is_certain: bool = True
    """Whether it would be the same on a machine that has less to do."""


def tests_digest(tests: ProgramTests) -> str:
    """Identifies a problem's tests."""
    return _digest(tests.model_dump_json())


def check_programs(
    asked: Sequence[tuple[ProgramTests, str]],
    limits: Limits,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Verdict]:
    """A verdict for each program on its tests, ``workers`` at a time."""
    verdicts: list[Verdict] = []
    if not asked:
        return verdicts
    # The threads only wait. They outlive the processes, which end with the thread that made them.
    with ThreadPoolExecutor(workers, "atts-programs") as threads:
        found = threads.map(lambda each: check_program(each[0], each[1], limits), asked)
        for verdict in found:
            verdicts.append(verdict)
            if progress:
                progress(len(verdicts), len(asked))
    if reasons := {verdict.reason for verdict in verdicts if verdict.passed is None}:
        _log.warning("programs are ungraded: %s", "; ".join(sorted(reasons)))
    return verdicts


def check_program(tests: ProgramTests, program: str, limits: Limits | None = None) -> Verdict:
    """Run a program against a problem's tests, up to the first that it does not pass.

    It runs in a process that has an empty folder, an environment without anybody's secrets, and no
    network, and that is killed with its parent; see ``docs/programs.md`` for what that keeps out.
    """
    limits = limits or Limits()
    try:
        with TemporaryDirectory(prefix="atts-program-", ignore_cleanup_errors=True) as folder:
            return _checked(tests, program, limits, folder)
    except OSError as error:
        return Verdict(None, f"no process for it can be started: {error}", is_certain=False)


def _checked(tests: ProgramTests, program: str, limits: Limits, folder: str) -> Verdict:
    cases = tests.cases or (Case(input="", output=""),)
    used = 0.0
    with _Process(tests, program, limits, folder) as process:
        if trouble := process.refusal():
            return Verdict(None, trouble, is_certain=False)
        for number, case in enumerate(cases, 1):
            where = f"test {number} of {len(cases)}"
            reply = process.run(case, limits.output_bytes)
            if reply is None or reply["status"] == "sandbox":
                return Verdict(None, "the sandbox ended before its program", is_certain=False)
            used += reply["cpu"]
            if reply["status"] == "time-out":
                return Verdict(False, f"{where}: no end after {limits.wall_seconds:g} s", False)
            if reply["status"] == "too slow" or used > limits.all_cpu_seconds:
                return Verdict(False, f"{where}: too slow ({used:.1f} s of processor time)")
            if reply["status"] != "done":
                return Verdict(False, f"{where}: it failed")
            if tests.check is None and not _same(tests, case.output, reply["output"]):
                return Verdict(False, f"{where}: another output")
    return Verdict(True, "")


class _Process:
    """The process that runs one program; a context manager that ends it."""

    def __init__(self, tests: ProgramTests, program: str, limits: Limits, folder: str) -> None:
        self._seconds = limits.wall_seconds + 30.0
        job = Job(
            program=program,
            before=tests.before,
            check=tests.check,
            entry_point=tests.entry_point,
            cpu_seconds=limits.cpu_seconds,
            wall_seconds=limits.wall_seconds,
            memory_bytes=limits.memory_bytes,
            file_bytes=limits.file_bytes,
            folder=folder,
            parent=os.getpid(),
            unconfined=os.environ.get(UNCONFINED_VARIABLE) == "1",
        )
        environment = {
            "PATH": os.defpath,
            "HOME": folder,
            "TMPDIR": folder,
            "LANG": "C.UTF-8",
            "PYTHONHASHSEED": "0",  # a set has one order, and a program one output
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, "-s", "-P", "-B", str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
        self._first = job

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                try:
                    pipe.close()
                except OSError:  # what was not read any more
                    continue
        self._process.wait()

    def refusal(self) -> str | None:
        """Why programs are not run here, if they are not."""
        reply = self._ask(self._first, 1 << 16)
        if reply is None:
            return "the sandbox does not start"
        if reply["refused"]:
            return f"{reply['refused']}; {UNCONFINED_VARIABLE}=1 runs them all the same"
        return None

    def run(self, case: Case, most: int) -> dict[str, Any] | None:
        """What the program makes of an input; None if the process is gone."""
        most += len(case.output.encode("utf-8", "surrogatepass"))
        # A byte of the output may be six characters of JSON.
        return self._ask({"input": case.input, "most": most}, 6 * most + 4096)

    def _ask(self, request: object, most: int) -> dict[str, Any] | None:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            return None
        timer = Timer(self._seconds, self._process.kill)
        timer.start()
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
            line = stdout.readline(most)
            reply = json.loads(line)
        except (OSError, ValueError):
            return None
        finally:
            timer.cancel()
        return reply if isinstance(reply, dict) else None


def _same(tests: ProgramTests, expected: str, output: str) -> bool:
    if tests.entry_point is None:
        return same_output(expected, output)
    try:
        return bool(json.loads(output) == json.loads(expected))
    except (ValueError, RecursionError):
        return False


def same_output(expected: str, output: str) -> bool:
    r"""Whether a program has printed what was expected: line by line, whatever spaces end a line
    or part its words, and numbers by their values.

    >>> same_output("1 2\nyes\n", "1  2.0 \nyes"), same_output("1\n2", "1 2")
    (True, False)
    """
    ours, theirs = (text.rstrip().splitlines() for text in (expected, output))
    return len(ours) == len(theirs) and all(map(_same_line, ours, theirs))


def _same_line(one: str, other: str) -> bool:
    ours, theirs = one.split(), other.split()
    return len(ours) == len(theirs) and all(
        word == said or _same_number(word, said) for word, said in zip(ours, theirs, strict=True)
    )


def _same_number(one: str, other: str) -> bool:
    try:
        return Decimal(one) == Decimal(other)
    except InvalidOperation:
        return False


def program_digest(program: str) -> str:
    """Identifies a program."""
    return _digest(program)


def rules(limits: Limits) -> str:
    """Under what a verdict holds: the rules, the Python, the limits."""
    return " ".join(map(str, ("programs", _RULES, *sys.version_info[:3], *limits)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
