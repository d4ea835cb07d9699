"""However a command is ended: it ends in order, says how to go on, and has the right exit code."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

JOB = """
import asyncio, os, signal, sys, time, types
from pathlib import Path
import typer
from atts.cli import ending, main
from atts.cli.app import Commands
from atts.cli.commands import new_app, resumable

async def job():
    try:
        print("running", flush=True)
        %s
    finally:
        await asyncio.sleep(0.05)
        print("closed", flush=True)

# A command that loads nothing.
light = sys.modules["light"] = types.ModuleType("light")
light.app = new_app()

@light.app.command()
def run(context: typer.Context, directory: Path = typer.Option(None, "--out")):
    with resumable(context):
        ending.run(job())

Commands.homes = {"run": ("light", "Run.")}
main()
"""
"""A command whose job is still to be said."""
WAITS = JOB % "await asyncio.sleep(60)"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a program in an empty folder."""
    with ExitStack() as stack:

        def started(code: str, *words: str, **options: Any) -> "subprocess.Popen[str]":  # noqa: ANN401
            given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
            process: subprocess.Popen[str] = subprocess.Popen(
                [sys.executable, "-c", code, *(words or ("run", "--out", "here"))],
                cwd=tmp_path,
                env=os.environ | {"PYTHONWARNINGS": "error", "TERM": "xterm"},
                text=True,
                **given,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield started


def ended_by(process: "subprocess.Popen[str]", *numbers: signal.Signals) -> tuple[str, str]:
    """What a process that is running prints until its end, after these signals."""
    assert process.stdout
    assert process.stdout.readline() == "running\n"
    for number in numbers:
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in (err or "")
    return out, err


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_closes_the_models_and_says_how_to_go_on(
    number: signal.Signals, start: Start
) -> None:
    process = start(WAITS)
    out, err = ended_by(process, number)
    assert (out, process.returncode) == ("closed\n", 128 + number), err
    assert err.endswith("To go on from here:\n  atts run --out here\n")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_need_not_wait_for_what_the_command_itself_is_doing(
    number: signal.Signals, start: Start
) -> None:
    """Such as grading: the event loop has no turn before it is done."""
    process = start(JOB % "time.sleep(3600)")
    assert ended_by(process, number)[0] == "closed\n"
    assert process.returncode == 128 + number


def test_a_signal_that_is_sent_twice_at_once_is_one(start: Start) -> None:
    cleans_up = """
        ending.TWICE_SECONDS = 3600.0
        try:
            print("ready", flush=True)
            await asyncio.sleep(60)
        finally:
            print("cleaning up", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            print("cleaned up", flush=True)
    """
    process = start(JOB % cleans_up.strip(), stdin=subprocess.PIPE)
    assert process.stdout
    assert process.stdin
    assert [process.stdout.readline() for _ in range(2)] == ["running\n", "ready\n"]
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "cleaning up\n"
    process.send_signal(signal.SIGTERM)
    process.stdin.write("\n")
    out, _ = process.communicate(timeout=60)
    assert out == "cleaned up\nclosed\n"
    assert process.returncode == 143


def test_a_second_ctrl_c_does_not_wait(start: Start) -> None:
    stubborn = """
        try:
            print("ready", flush=True)
            await asyncio.sleep(60)
        finally:
            print("running", flush=True)
            await asyncio.sleep(3600)
    """
    process = start(JOB % stubborn.strip())
    assert process.stdout
    assert [process.stdout.readline() for _ in range(2)] == ["running\n", "ready\n"]
    process.send_signal(signal.SIGINT)
    assert ended_by(process, signal.SIGINT)[0] == "closed\n"
    assert process.returncode == 130


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_no_exception_can_tell_of_is_not_lost(
    number: signal.Signals, start: Start
) -> None:
    finaliser = f"""
        class Last:
            def __del__(self):
                os.kill(os.getpid(), {int(number)})
                time.sleep(0.01)
        last = Last()
        del last
        await asyncio.sleep(60)
    """
    process = start(JOB % finaliser.strip())
    out, err = ended_by(process)
    assert out == "closed\n"
    assert "Exception ignored" not in err
    assert process.returncode == 128 + number


def test_what_was_ignored_from_the_beginning_stays_ignored(start: Start) -> None:
    """Under nohup, and in the background of a script."""
    code = f"import signal\nfor n in (1, 2): signal.signal(n, signal.SIG_IGN)\n{WAITS}"
    process = start(code)
    out, err = ended_by(process, signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    assert out == "closed\n"
    assert err.endswith("  atts run --out here\n")
    assert process.returncode == 143


def test_a_command_without_a_job_ends_in_order_too(start: Start) -> None:
    code = """
import time
from atts.cli import main, report

def table(*_):
    print("running", flush=True)
    time.sleep(3600)

report.read_reports = table
main()
"""
    process = start(code, "report", ".")
    out, err = ended_by(process, signal.SIGTERM)
    assert (out, err, process.returncode) == ("", "Stopped.\n", 143)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_atts_is_being_loaded_is_no_traceback(
    number: signal.Signals, start: Start
) -> None:
    code = f"""
import os, sys

class Finder:
    def find_spec(self, name, *_):
        if name == "typer":
            os.kill(os.getpid(), {int(number)})

sys.meta_path.insert(0, Finder())
from atts.cli import main
main()
"""
    process = start(code)
    out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == ("", "", 128 + number)


def test_a_signal_at_the_very_end_takes_nothing_back(start: Start) -> None:
    """When all is done, and Python puts its own things away."""
    last = """
import atexit, os, signal
class Last:
    def __del__(self, kill=os.kill, me=os.getpid()):
        kill(me, 15)
last = Last()
last.itself = last  # freed by the last collection, after the handlers
"""
    process = start(last + JOB % "await asyncio.sleep(0)")
    assert process.stdout
    assert ended_by(process)[0] == "closed\n"
    assert process.returncode == 0


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal, of which the first may be closed."""
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(theirs)
    try:
        os.close(ours)
    except OSError:
        assert ours


def read_until(descriptor: int, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        seen += os.read(descriptor, 1024)
    return seen


SHOWS = """
        from atts.cli.progress import Display
        from atts.cli.terminal import err
        with Display(err()) as display:
            display.stage("a stage").started(2, 0)
            os.write(1, b"running\\n")  # what is printed goes by way of the display
            await asyncio.sleep(60)
"""
SHOWS = JOB.replace('print("running", flush=True)', "") % SHOWS.strip()


@pytest.mark.parametrize("number", SIGNALS)
def test_the_cursor_is_shown_again(
    number: signal.Signals, terminal: tuple[int, int], start: Start
) -> None:
    ours, theirs = terminal
    process = start(SHOWS, stderr=theirs)
    seen = read_until(ours, b"\x1b[?25l")
    ended_by(process, number)
    seen += read_until(ours, b"atts run --out here")
    assert b"\x1b[?25h" in seen
    assert process.returncode == 128 + number


def test_the_end_of_the_terminal_ends_the_command_in_order(
    terminal: tuple[int, int], start: Start
) -> None:
    ours, theirs = terminal
    code = "import fcntl, termios; fcntl.ioctl(2, termios.TIOCSCTTY, 0)\n" + SHOWS
    process = start(code, stderr=theirs, start_new_session=True)
    read_until(ours, b"\x1b[?25l")
    assert process.stdout
    assert process.stdout.readline() == "running\n"
    os.close(ours)
    out, _ = process.communicate(timeout=60)
    assert out == "closed\n"
    assert process.returncode == 129
