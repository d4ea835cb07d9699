"""Progress of the stages of a command, on standard error.

Live in a terminal, plain lines elsewhere, JSON lines on demand. All of them show the same figures
(``atts.reports.snapshot``), which are taken a few times a second or less, whatever the run does.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from atts.reports.snapshot import Figures, Snapshot, clock
from atts.runs.activity import Activity
from atts.text import visible
from atts.types import Chain

STATES = {
    # state: (style, character, the same in ASCII)
    "done": ("green", "█", "#"),
    "target writing": ("magenta", "▓", "T"),
    "scoring": ("yellow", "▒", "s"),
    "drafting": ("cyan", "░", "d"),
    "waiting for others": ("red", "┆", "|"),
    "waiting": ("dim", "·", "."),
}
"""How chains are drawn, from the left; told apart without colour too."""

BAR = 24
"""Width of a bar."""
INDENT = "  "


def stages(snapshots: Sequence[Snapshot], ascii_only: bool = False) -> RenderableType:
    """The view of some stages, the last of which may still be going on."""
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(overflow="fold")
    for _ in range(3):
        rows.add_column(justify="right", no_wrap=True)
    rows.add_column(overflow="ellipsis", no_wrap=True)
    details: RenderableType = ""
    for snapshot in snapshots:
        rows.add_row(
            Text(visible(snapshot.name)),
            _bar(snapshot.states(), ascii_only),
            f"{snapshot.done}/{snapshot.total}",
            clock(snapshot.seconds),
            Text(_aside(snapshot)),
        )
        details = _details(snapshot, ascii_only) if snapshot.done < snapshot.total else ""
    return Group(rows, details) if details else rows


def _aside(snapshot: Snapshot) -> str:
    """What stands beside the bar."""
    parts = []
    if waits := snapshot.waits():
        parts.append(waits)
    elif snapshot.seconds_left is not None:
        parts.append(f"{clock(snapshot.seconds_left)} left")
    if snapshot.graded and snapshot.graded[0] < snapshot.graded[1]:
        parts.append("grading {}/{}".format(*snapshot.graded))
    if snapshot.done >= snapshot.total and snapshot.take_over is not None:
        parts.append(f"take-over {snapshot.take_over:.2f}")
    if snapshot.not_needed:
        parts.append(f"{snapshot.not_needed} not needed")
    if snapshot.failed:
        parts.append(f"{snapshot.failed} failed")
    return ", ".join(parts)


def _bar(states: dict[str, int], ascii_only: bool) -> Text:
    """All chains of a stage as one bar, a part for each state."""
    total = sum(states.values())
    bar = Text(no_wrap=True)
    seen = drawn = 0
    for state, (style, character, plain) in STATES.items():
        # Ends are rounded, not lengths, so that the parts fill the bar.
        seen += states.get(state, 0)
        end = round(BAR * seen / total) if total else 0
        bar.append((plain if ascii_only else character) * (end - drawn), style)
        drawn = end
    return bar


def _details(snapshot: Snapshot, ascii_only: bool) -> RenderableType:
    """What the chains of a stage are doing."""
    chains = Text(INDENT + "chains     ", no_wrap=True, overflow="ellipsis")
    states = snapshot.states()
    for state, (style, character, plain) in STATES.items():
        if state in states:
            chains.append(plain if ascii_only else character, style).append(
                f" {states[state]} {state}  "
            )
    lines = [chains]
    if rates := snapshot.rates():
        lines.append(_plain(f"take-over  {rates}"))
    speeds = snapshot.speeds() or "-"
    turns = f"      turns {snapshot.turns:,}" if snapshot.turns else ""
    lines.append(_plain(f"tokens/s   {speeds}{turns}"))
    return Group(*lines)


def _plain(text: str) -> Text:
    return Text(INDENT + text, no_wrap=True, overflow="ellipsis")


PLAIN_SECONDS = 10.0
"""Time between two plain lines."""
JSON_SECONDS = 2.0
"""Time between two lines of JSON."""
LIVE_REFRESHES = 4
"""Refreshes of a terminal in a second: the models need the processor more."""

Say = Callable[[str, Snapshot, str | None], None]
"""Is told what happened, the figures of the stage, and what there is to say beside them."""


class Display:
    """Shows the stages of a command; a context manager.

    With ``as_json`` it writes an object a line: ``event`` is ``started``, ``progress``,
    ``warning`` or ``done``, ``stage`` the name of the stage, and the rest its figures.
    """

    def __init__(self, console: Console, as_json: bool = False) -> None:
        self._console = console
        self._as_json = as_json
        self._stages: list[Stage] = []
        self._live: Live | None = None
        if console.is_terminal and not console.is_dumb_terminal and not as_json:
            self._live = Live(
                console=console,
                get_renderable=lambda: stages(
                    [stage.snapshot() for stage in self._stages[-self._rows() :]],
                    console.options.ascii_only,
                ),
                refresh_per_second=LIVE_REFRESHES,
            )
        self._ending = threading.Event()
        self._ticking: threading.Thread | None = None

    def stage(self, name: str) -> "Stage":
        """An observer that shows the next stage below the earlier ones."""
        stage = Stage(name, self._say)
        self._stages.append(stage)
        return stage

    def _rows(self) -> int:
        """So many stages fit in the terminal, with the details of the last."""
        return max(1, self._console.height - 5)

    def tick(self) -> None:
        """Tell how far the present stage is, unless it is done or a terminal shows it anyway."""
        if self._stages and self._stages[-1].is_going_on:
            self._say("progress", self._stages[-1].snapshot(), None)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        else:
            self._ticking = threading.Thread(target=self._tick, name="atts-progress", daemon=True)
            self._ticking.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()
        if self._ticking:
            self._ending.set()
            self._ticking.join()

    def _tick(self) -> None:
        while not self._ending.wait(JSON_SECONDS if self._as_json else PLAIN_SECONDS):
            self.tick()

    def _say(self, event: str, snapshot: Snapshot, message: str | None) -> None:
        if self._as_json:
            said: dict[str, Any] = {"event": event, "stage": snapshot.name}
            said |= {"message": message} if message else snapshot.as_json()
            # ASCII only, so that no control character reaches a terminal.
            line = json.dumps(said)
        elif message:
            line = f"{snapshot.name}: {message}"
        elif self._live:
            return
        elif event == "started":
            line = snapshot.first_line()
        else:
            line = snapshot.line()
        self._console.print(visible(line), markup=False, emoji=False, soft_wrap=True)


class Stage:
    """Observes one run."""

    def __init__(self, name: str, say: Say) -> None:
        self.activity = Activity()
        self._figures = Figures(name, self.activity)
        self._say = say

    @property
    def is_going_on(self) -> bool:
        """Whether it has begun and is not done: chains, or grading, are left."""
        return self._figures.is_going_on

    def started(self, total: int, done: int) -> None:
        """``done`` of the ``total`` chains were finished before."""
        self._figures.started(total, done)
        self._say("started", self.snapshot(), None)

    def chain_done(self, chain: Chain) -> None:
        """One more chain is finished."""
        self._figures.chain_done(chain)
        if not self.is_going_on:
            self._say("done", self.snapshot(), None)

    def warned(self, message: str) -> None:
        """Something should be known while the run goes on."""
        self._say("warning", self.snapshot(), message)

    def grading(self, done: int, total: int) -> None:
        """Answers are compared, after the chains."""
        self._figures.grading(done, total)

    def snapshot(self) -> Snapshot:
        """The figures of this moment."""
        return self._figures.take(time.monotonic())


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
                console.print(f"{name}: {done}/{total} in {clock(now - began)}", markup=False)

        yield count
