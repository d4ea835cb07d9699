"""Progress of the stages of a command: live in a terminal, sparse plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from atts.reports.escape import safe_markup, visible
from atts.types import Chain

PLAIN_SECONDS = 10.0
"""Time between two plain lines of a stage."""


class Display:
    """One line per stage; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = (
            Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[figures]}"),
                console=console,
                refresh_per_second=4,  # the models need the processor more
            )
            if console.is_terminal and not console.is_dumb_terminal
            else None
        )

    def stage(self, name: str) -> "Stage":
        """An observer that shows the next stage below the earlier ones."""
        return Stage(name, self._console, self._live)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()


@contextmanager
def counting(console: Console, name: str) -> Iterator[Callable[[int, int], None]]:
    """Shows the progress that it is told, as (done, total); nothing until it is told of some."""
    said = began = time.monotonic()
    with Progress(
        TextColumn(name),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal or console.is_dumb_terminal,
    ) as live:
        task: TaskID | None = None

        def count(done: int, total: int) -> None:
            nonlocal said, task
            now = time.monotonic()
            if task is None:
                task = live.add_task(name, total=total)
            live.update(task, completed=done, total=total)
            if live.disable and now - said >= PLAIN_SECONDS:
                said = now
                console.print(f"{name}: {done}/{total} in {_clock(now - began)}", markup=False)

        yield count


class Stage:
    """Observes one run and shows its chains, their rate, and the take-over rate so far."""

    def __init__(self, name: str, console: Console, live: Progress | None) -> None:
        self._name = name
        self._console = console
        self._live = live
        self._task = TaskID(0)
        self._total = self._done = self._resumed = self._failed = self._not_needed = 0
        self._decisions = self._take_overs = 0
        self._began = self._said = time.monotonic()

    def started(self, total: int, done: int) -> None:
        """``done`` of the ``total`` chains were finished before."""
        self._total, self._done, self._resumed = total, done, done
        self._began = self._said = time.monotonic()
        if self._live:
            self._task = self._live.add_task(
                safe_markup(self._name), total=total, completed=done, figures=""
            )
            self._live.update(self._task)  # lets rich notice a stage that has nothing left to do
        else:
            again = f", {done} of them done before" if done else ""
            self._print(f"{self._name}: {total} chains{again}")

    def chain_done(self, chain: Chain) -> None:
        """One more chain is finished."""
        self._done += 1
        self._failed += chain.end == "failed"
        self._not_needed += not chain.is_needed
        for turn in chain.turns:
            if turn.decision:
                self._decisions += 1
                self._take_overs += turn.decision.take_over
        now = time.monotonic()
        if self._live:
            self._live.update(self._task, completed=self._done, figures=self.figures(now))
        elif self._done == self._total or now - self._said >= PLAIN_SECONDS:
            self._said = now
            elapsed = _clock(now - self._began)
            self._print(
                f"{self._name}: {self._done}/{self._total} in {elapsed}, {self.figures(now)}"
            )

    def warned(self, message: str) -> None:
        """Something should be known while the run goes on."""
        self._print(f"{self._name}: {message}")

    def figures(self, now: float) -> str:
        """Chains per second, time left, take-over rate so far, chains that were not needed or
        failed: what is known of them.
        """
        rate = (self._done - self._resumed) / max(now - self._began, 1e-9)
        parts = [f"{rate:.1f}/s"]
        if self._done < self._total and rate > 0:
            parts.append(f"{_clock((self._total - self._done) / rate)} left")
        if self._decisions:
            parts.append(f"take-over {self._take_overs / self._decisions:.2f}")
        if self._not_needed:
            parts.append(f"{self._not_needed} not needed")
        if self._failed:
            parts.append(f"{self._failed} failed")
        return ", ".join(parts)

    def _print(self, line: str) -> None:
        self._console.print(visible(line), markup=False)


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> _clock(75), _clock(3675)
    ('1:15', '1:01:15')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
