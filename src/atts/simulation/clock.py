"""Virtual time: an event loop that never waits.

Where a real loop would sleep until its next timer, this one sets its clock to that timer. So hours
of waiting take as long as the work in between, and nothing depends on how fast the machine is.
``async-solipsism`` does the same, but its licence (GPL) would bind all of atts.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class _Selector(selectors.DefaultSelector):
    """Looks for input as always, but lets virtual time pass instead of waiting for it."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:  # noqa: ANN401  (an internal type)
        if timeout is None:
            raise RuntimeError("nothing is left that could happen: every task waits for another")
        self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time starts at 0 and jumps from timer to timer.

    >>> async def wait() -> float:
    ...     await asyncio.sleep(3600)
    ...     return asyncio.get_running_loop().time()
    >>> run_virtually(wait())
    3600.0
    """

    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._clock.now


def run_virtually(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end in virtual time, as ``asyncio.run`` does in real time.

    Raises:
        RuntimeError: everything waits for something that nothing will bring about.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
