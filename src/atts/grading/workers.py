"""The processes that grade: how they start, and that none outlives the one that it works for."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, TypeVar

from atts.grading import algebra
from atts.grading.apart import context

if TYPE_CHECKING:
    from pebble import ProcessPool

T = TypeVar("T")

_MEMORY_BYTES = 2 << 30


def start_pool(workers: int) -> "ProcessPool":
    """A pool of so many processes, each of which starts with the first task."""
    from pebble import ProcessPool

    return ProcessPool(
        max_workers=workers, initializer=_start, initargs=(_MEMORY_BYTES,), context=context()
    )


def cores() -> int:
    """How many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def begin(start: Callable[[], T]) -> T:
    """Start processes, which are to be ended in order and by nobody else.

    In a thread: a signal that ends the command interrupts the wait for it, never the start of a
    process that then nobody would know. And without the signals of a terminal, which reach all of a
    command's processes at once: the one that started the others answers them.
    """

    def apart() -> T:
        if hasattr(signal, "pthread_sigmask"):  # Windows has none
            # What a process starts inherits what is held back, by way of the fork server too.
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP))
        return start()

    with ThreadPoolExecutor(1, "atts-graders") as thread:
        return thread.submit(apart).result()


def _start(memory_bytes: int) -> None:
    if parent := multiprocessing.parent_process():
        _end_with(parent)
    algebra.start(memory_bytes)


def _end_with(parent: BaseProcess) -> None:
    """Have this process ended as soon as another has, whatever both are doing then.

    Its end closes a pipe. The kernel answers that with a signal, which ends this process in the
    middle of a computation that would let no other thread run. Where there is no such signal, and
    if the pipe was closed before, a thread sees it.
    """
    threading.Thread(target=_follow, args=(parent,), name="atts-parent", daemon=True).start()
    with suppress(ImportError, AttributeError, OSError):
        from fcntl import F_GETFL, F_SETFL, F_SETOWN, fcntl

        signal.signal(signal.SIGIO, signal.SIG_DFL)  # whose default is the end
        fcntl(parent.sentinel, F_SETOWN, os.getpid())
        fcntl(parent.sentinel, F_SETFL, fcntl(parent.sentinel, F_GETFL) | os.O_ASYNC)


def _follow(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
