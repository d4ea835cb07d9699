"""Stands in for the grader's task in its processes, which import it by name."""

import os
import signal


def die_on_demand(one: str, _other: str) -> bool:
    """Says that all is equal; kills its process if asked about ``die``."""
    if one == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return True


def fail_on_demand(one: str, _other: str) -> bool:
    """Says that all is equal; fails if asked about ``fail``."""
    if one == "fail":
        raise OverflowError("too large")
    return True
