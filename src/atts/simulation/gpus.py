"""GPUs that several servers may share, and what a server has under way on them."""

import asyncio
from collections.abc import Callable


class Gpus:
    """The GPUs that one server or several run on; those that have work share the time evenly."""

    def __init__(self) -> None:
        self._works: list[Work] = []
        self._working = 0

    @property
    def speed(self) -> float:
        """Of each working server, as a share of what it would have alone."""
        return 1.0 / max(self._working, 1)

    def place(self, ended: Callable[[], None]) -> "Work":
        """A place for the work of one more server; see ``Work``."""
        work = Work(self, ended)
        self._works.append(work)
        return work

    def working(self, change: int) -> None:
        """A server has begun (1) or ceased (-1) to work."""
        self._working += change
        for work in self._works:
            work.retime()


class Work:
    """What a server has under way: so many seconds of whole GPUs, at the end of which ``ended`` is
    called. They take longer while others work on the same GPUs.
    """

    def __init__(self, gpus: Gpus, ended: Callable[[], None]) -> None:
        self._gpus = gpus
        self._ended = ended
        self._seconds = 0.0
        self._left = 0.0  # of them, when the timer was set
        self._since = 0.0  # when that was
        self._speed = 1.0  # since then
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, seconds: float) -> None:
        """Begin with so many seconds of work."""
        self._seconds = self._left = seconds
        self._set_timer()

    def done_seconds(self) -> float:
        """How many of them are done."""
        elapsed = (asyncio.get_running_loop().time() - self._since) * self._speed
        return self._seconds - self._left + min(elapsed, self._left)

    def cut(self, seconds: float) -> None:
        """Let the work be so many seconds, counted from its beginning."""
        self._move_timer(max(0.0, seconds - self.done_seconds()))
        self._seconds = seconds

    def retime(self) -> None:
        """The speed may have changed: move the end of what is under way, if anything is."""
        if self._timer is not None:
            self._move_timer(self._seconds - self.done_seconds())

    def _move_timer(self, left: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._left = left
        self._set_timer()

    def _set_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._since = loop.time()
        self._speed = self._gpus.speed
        self._timer = loop.call_at(self._since + self._left / self._speed, self._end)

    def _end(self) -> None:
        self._timer = None
        self._ended()
