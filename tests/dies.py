"""Stands in for the grader's task in its processes, which import it by name."""

import fcntl
import itertools
import multiprocessing
import os
import signal
import time
from pathlib import Path


def die_on_demand(one: str, _other: str) -> bool:
    """Says that all is equal; kills its process if asked about ``die``."""
    if one == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return True


def never_done(one: str, _other: str) -> bool:
    """Says by a file that it has begun, and lets no other thread run from then on."""
    Path(f"{one}-{os.getpid()}").touch()
    return sum(itertools.repeat(0)) == 1


def never_done_without_signal(one: str, _other: str) -> bool:
    """The same where the kernel sends no signal for a closed pipe; other threads may run."""
    parent = multiprocessing.parent_process()
    assert parent
    fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, 0)
    Path(f"{one}-{os.getpid()}").touch()
    while True:
        time.sleep(60)


def hang_up(_one: str, _other: str) -> bool:
    """Says that all is equal, if neither Ctrl-C nor the end of a terminal has ended it."""
    for number in (signal.SIGINT, signal.SIGHUP):
        os.kill(os.getpid(), number)
    return True


def fail_on_demand(one: str, _other: str) -> bool:
    """Says that all is equal; fails if asked about ``fail``."""
    if one == "fail":
        raise OverflowError("too large")
    return True
