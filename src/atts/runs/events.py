"""What a run tells the hooks of other packages: Weights & Biases, MLflow, a file of one's own.

A package registers a hook by an entry point of the group ``atts.events`` (docs/records.md): a
callable that takes an ``Event``. All hooks that are installed are told of every run.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal, NamedTuple

from atts.analysis.summary import Summary
from atts.config import Config
from atts.runs.observer import Observer, SilentObserver
from atts.types import Chain

GROUP = "atts.events"
END_SECONDS = 20.0
"""How long a command waits at its end for hooks that have not taken everything yet."""

_log = logging.getLogger(__name__)


class Event(NamedTuple):
    """Something that happened in a run."""

    kind: Literal["begun", "chain", "ended"]
    """``ended`` comes after an error or a signal, too, then without ``summary``."""
    run: Path
    """The run directory."""
    config: Config
    done: int
    """Chains that are on record, those of earlier tries included."""
    total: int
    """Chains that the run is to have."""
    chain: Chain | None = None
    """Of ``chain``: the one that is on record now."""
    summary: Summary | None = None
    """Of ``ended``: the figures, if the run came to its end."""


Hook = Callable[[Event], object]


class Told(SilentObserver):
    """Tells another observer everything, and makes events of it."""

    def __init__(
        self, run: Path, config: Config, observer: Observer, tell: Callable[[Event], None]
    ) -> None:
        self.activity = observer.activity
        self.summary: Summary | None = None
        """To be set when the run has come to its end."""
        self._run = run
        self._config = config
        self._observer = observer
        self._tell = tell
        self._done = self._total = 0

    def started(self, total: int, done: int) -> None:
        self._observer.started(total, done)
        self._done, self._total = done, total
        self._tell(self._event("begun"))

    def chain_done(self, chain: Chain) -> None:
        self._observer.chain_done(chain)
        self._done += 1
        self._tell(self._event("chain")._replace(chain=chain))

    def warned(self, message: str) -> None:
        self._observer.warned(message)

    def grading(self, done: int, total: int) -> None:
        self._observer.grading(done, total)

    def ended(self) -> None:
        """The run is over, whatever it came to."""
        self._tell(self._event("ended")._replace(summary=self.summary))

    def _event(self, kind: Literal["begun", "chain", "ended"]) -> Event:
        return Event(kind, self._run, self._config, self._done, self._total)


@asynccontextmanager
async def telling(run: Path, config: Config, observer: Observer | None) -> AsyncIterator[Told]:
    """Inside, what the result observes reaches every hook that is installed, in order.

    Hooks are called one after the other in a thread of their own, since most of them send
    something somewhere: they delay no chain. One that raises is told no more; the run goes on.
    """
    hooks = installed_hooks()
    observer = observer or SilentObserver()
    if not hooks:
        yield Told(run, config, observer, lambda _: None)
        return
    loop = asyncio.get_running_loop()
    events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()

    def tell() -> None:
        while (event := events.get()) is not None:
            for name, hook in list(hooks.items()):
                try:
                    hook(event)
                except Exception as error:  # whatever another package does
                    del hooks[name]
                    told = f"{name} is told no more of this run: {type(error).__name__}: {error}"
                    with suppress(RuntimeError):  # the loop is over: nobody is left to be told
                        loop.call_soon_threadsafe(observer.warned, told)

    # A hook that hangs must not keep the process alive.
    thread = threading.Thread(target=tell, name="atts-events", daemon=True)
    thread.start()
    told = Told(run, config, observer, events.put)
    try:
        yield told
    finally:
        told.ended()
        events.put(None)
        await asyncio.to_thread(thread.join, END_SECONDS)
        if thread.is_alive():
            observer.warned(
                f"{next(iter(hooks))} has not taken all events in {END_SECONDS:.0f} s and is left"
            )


def installed_hooks() -> dict[str, Hook]:
    """The hooks of all packages that have any, by name.

    One that cannot be loaded is logged and left out.
    """
    found: dict[str, Hook] = {}
    for entry in entry_points(group=GROUP):
        name = f"the {GROUP} hook {entry.name} = {entry.value}"
        try:
            found[name] = entry.load()
        except Exception as error:  # whatever the other package does when it is imported
            _log.warning("%s cannot be loaded: %s: %s", name, type(error).__name__, error)
    return found
