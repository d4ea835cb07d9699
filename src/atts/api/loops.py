"""Running what needs an event loop of its own, where one may be running already."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


def run_anywhere(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run it to its end; in a thread with a loop of its own where a loop is running here.

    Interrupted there, it is cancelled, and this returns when nothing of it is left.
    """
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    async def started() -> Result:
        task = asyncio.current_task()
        if task:
            running.append((asyncio.get_running_loop(), task))
        return await coroutine

    def cancel() -> None:
        for loop, task in running:
            if not loop.is_closed():
                loop.call_soon_threadsafe(task.cancel)

    return outside_of_loops(lambda: asyncio.run(started()), cancel)


def outside_of_loops(
    call: Callable[[], Result], cancel: Callable[[], None] = lambda: None
) -> Result:
    """Call where no event loop is running: here, or else in a thread.

    ``cancel`` is called if the wait for that thread is interrupted.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return call()
    with ThreadPoolExecutor(1, "atts-call") as thread:
        future = thread.submit(call)
        try:
            return future.result()
        except BaseException:  # such as Ctrl-C in the cell: the models must not go on alone
            cancel()
            raise
