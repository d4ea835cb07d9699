"""The live view of a terminal: a row a stage, and what the present stage's chains are doing."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from atts.reports.snapshot import Snapshot, clock
from atts.text import visible

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
    if snapshot.seconds_left is not None:
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
