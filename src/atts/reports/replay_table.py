"""A replay as tables: rates, rates by turn, and how scores tell wrong chains from right ones."""

from collections.abc import Iterator, Sequence
from itertools import count, product
from string import ascii_uppercase

from rich.table import Table

from atts.analysis.replay import Replayed, Separation
from atts.grading.intervals import Interval
from atts.reports.summary_table import ABSENT, plain_table
from atts.text import safe_markup


def tables(replays: Sequence[Replayed], found: Sequence[Separation]) -> Iterator[Table]:
    """All that there is something to show in."""
    yield rates_table(replays)
    if len({each.nominal for each in replays}) == 1:
        yield turns_table(replays)
    if found:
        yield separations_table(found)


def rates_table(replays: Sequence[Replayed]) -> Table:
    table = plain_table(
        f"{replays[0].decisions:,} decisions. Off by: |rate - nominal|, over turns with at least "
        "75 decisions. Spread: standard deviation over problems with at least 30. Intervals are "
        "95 %, clustered by problem."
    )
    table.add_column("")
    table.add_column("control", overflow="fold")
    for name in ("nominal", "realised", "turns off by, mean", "largest", "spread over problems"):
        table.add_column(name, justify="right")
    for letter, each in zip(_letters(), replays, strict=False):
        table.add_row(
            letter,
            safe_markup(each.control),
            f"{each.nominal:g}",
            _interval(each.realised),
            *map(
                _three_digits,
                (each.mean_turn_deviation, each.largest_turn_deviation, each.problem_spread),
            ),
        )
    return table


def turns_table(replays: Sequence[Replayed]) -> Table:
    table = plain_table("Realised rate by turn, of the controls above.")
    table.add_column("turn", justify="right")
    table.add_column("decisions", justify="right")
    for letter, _ in zip(_letters(), replays, strict=False):
        table.add_column(letter, justify="right")
    for rows in zip(*(each.by_turn for each in replays), strict=True):
        table.add_row(
            rows[0].group.removeprefix("turn "),
            f"{rows[0].decisions:,}",
            *(f"{row.realised.estimate:.3f}" for row in rows),
        )
    return table


def separations_table(found: Sequence[Separation]) -> Table:
    table = plain_table(
        f"{found[0].wrong:,} wrong and {found[0].right:,} right chains. AUROC: the chance that a "
        "wrong chain has the higher mean score; 0.5 is no better than chance. Within: over pairs "
        "of chains of one problem, so that hard problems do not count for it."
    )
    table.add_column("score")
    table.add_column("AUROC", justify="right")
    table.add_column("within problems", justify="right")
    for each in found:
        within = ABSENT if each.auroc_within is None else _interval(each.auroc_within)
        table.add_row(each.kind, _interval(each.auroc), within)
    return table


def _interval(found: Interval) -> str:
    return f"{found.estimate:.3f} ({found.low:.3f}-{found.high:.3f})"


def _letters() -> Iterator[str]:
    """A to Z, then AA and on: what names a row of the first table in the others."""
    for length in count(1):
        yield from map("".join, product(ascii_uppercase, repeat=length))


def _three_digits(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3f}"
