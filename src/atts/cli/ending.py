"""How a command ends before its end: Ctrl-C, SIGTERM and SIGHUP alike, whenever they come.

Until ``unwind`` is called nothing has been begun, and a signal ends the process at once. From then
on it raises ``Ended``, which every ``with`` and ``finally`` puts its things in order for: requests
are aborted, servers and graders ended, the cursor is shown. A signal that was ignored when the
process began, as under nohup, stays ignored.
"""

import atexit
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Coroutine
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio  # is slow to load; whatever has a job has loaded it

T = TypeVar("T")

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
TWICE_SECONDS = 1.0
"""Two signals within it are one: timeout, shells and batch systems send theirs twice."""

AGAIN_SECONDS = 0.05
"""After so long a signal comes again that nothing could be told of."""


class Ended(SystemExit):
    """A signal ends the command; uncaught, the process ends with 128 + its number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number
        self.exit_code = 128 + number


def leave() -> None:
    """From now on signals end the process at once, without a word."""
    _replace((signal.SIG_DFL, signal.default_int_handler), _leave)
    # What Python does last of all cannot be interrupted in order; first in, this comes last.
    atexit.register(_replace, (_leave,), signal.SIG_IGN)


def unwind() -> None:
    """From now on signals raise ``Ended``, where ``leave`` was called before."""
    if _replace((_leave,), _signals.received):
        sys.unraisablehook = _signals.unraisable


def leave_done() -> None:
    """Signals end the process at once again: all is in order, and printed."""
    _replace((_signals.received,), _leave)


def run(job: Coroutine[Any, Any, T]) -> T:
    """Run a job as ``asyncio.run`` does; a signal cancels it.

    Raises:
        Ended: a signal came, and the job has ended.
    """
    import asyncio

    async def watched() -> T:
        _signals.task = asyncio.current_task()
        try:
            return await job
        finally:
            _signals.task = None

    try:
        done = asyncio.run(watched())
    except asyncio.CancelledError:
        _signals.raise_received()
        raise
    finally:
        job.close()
    _signals.raise_received()  # it came in the last moment
    return done


def _replace(handlers: tuple[object, ...], by: Any) -> bool:  # noqa: ANN401 - as signal has it
    """Give the signals that have one of these handlers another; whether there were any."""
    found = [number for number in SIGNALS if signal.getsignal(number) in handlers]
    for number in found:
        signal.signal(number, by)
    return bool(found)


def _leave(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)


class _Signals:
    """What came, and the job that it ends."""

    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = None
        self._first: int | None = None
        self._when = 0.0

    def received(self, number: int, _: FrameType | None) -> None:
        again = self._first is not None
        if again and number != signal.SIGINT and time.monotonic() - self._when < TWICE_SECONDS:
            return
        self._first, self._when = self._first or number, time.monotonic()
        if number == getattr(signal, "SIGHUP", None):
            _let_go_of_the_terminal()
        if again or self.task is None or self._is_running(self.task):
            raise Ended(self._first)
        self.task.cancel()
        self.task.get_loop().call_soon_threadsafe(lambda: None)  # wakes the loop

    def _is_running(self, task: "asyncio.Task[Any]") -> bool:
        """Whether the task is at work at this moment, and a cancellation would have to wait."""
        import asyncio

        try:
            return asyncio.current_task() is task
        except RuntimeError:  # the loop is being closed
            return True

    def raise_received(self) -> None:
        if self._first is not None:
            raise Ended(self._first) from None

    def unraisable(self, found: Any) -> None:  # noqa: ANN401 - sys.UnraisableHookArgs
        """A signal that came where no exception can leave, as in a finaliser, comes again."""
        if isinstance(found.exc_value, Ended):
            self._first = None
            # From another thread, since in here it would be ignored again.
            again = (os.getpid(), found.exc_value.number)
            threading.Timer(AGAIN_SECONDS, os.kill, again).start()
        else:
            sys.__unraisablehook__(found)


_signals = _Signals()


def _let_go_of_the_terminal() -> None:
    """Write to nowhere, if the terminal is gone: each word to it would be an error of its own."""
    for descriptor in (1, 2):
        try:
            was_terminal = stat.S_ISCHR(os.fstat(descriptor).st_mode)
            if was_terminal and not os.isatty(descriptor):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
        except OSError:
            continue
