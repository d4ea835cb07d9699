"""Who watches a job."""

from collections.abc import Callable
from typing import Protocol

from atts.runs.activity import Activity
from atts.types import Chain


class Observer(Protocol):
    """Watches a job, e.g. to show its progress."""

    activity: Activity
    """What the chains are doing: the job counts, the observer looks when it likes."""

    def started(self, total: int, done: int) -> None:
        """The job has ``total`` chains, of which ``done`` were there before."""
        ...

    def chain_done(self, chain: Chain) -> None:
        """A chain has ended and is written down."""
        ...

    def warned(self, message: str) -> None:
        """Something should be known while the job goes on."""
        ...

    def grading(self, done: int, total: int) -> None:
        """So many answers that need algebra are compared; the chains are all there."""
        ...


class SilentObserver:
    """Watches a job and says nothing; whoever wants to know something overrides it."""

    def __init__(self) -> None:
        self.activity = Activity()

    def started(self, total: int, done: int) -> None:
        pass

    def chain_done(self, chain: Chain) -> None:
        pass

    def warned(self, message: str) -> None:
        pass

    def grading(self, done: int, total: int) -> None:
        pass


Observe = Callable[[str], Observer]
"""Gives an observer for a named job."""
