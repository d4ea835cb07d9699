"""A replay as tables: rates, rates by turn, and how scores tell wrong chains from right ones."""

from collections.abc import Iterator, Sequence
from itertools import chain, count, islice, product
from string import ascii_uppercase

from atts.analysis.replay import Replayed, Separation
from atts.grading.intervals import Interval
from atts.reports.table_layout import ABSENT, Figure, Sheet


def tables(replays: Sequence[Replayed], found: Sequence[Separation]) -> Iterator[Sheet]:
    """All that there is something to show in."""
    yield rates_table(replays)
    if len({each.nominal for each in replays}) == 1:
        yield turns_table(replays)
    if found:
        yield separations_table(found)


def rates_table(replays: Sequence[Replayed]) -> Sheet:
    return Sheet(
        things=letters(replays),
        figures=[
            Figure("control", [each.control for each in replays], is_words=True),
            Figure("nominal", [f"{each.nominal:g}" for each in replays]),
            Figure("realised", [_interval(each.realised) for each in replays]),
            *(
                Figure(label, [_three_digits(getattr(each, name)) for each in replays])
                for label, name in (
                    ("turns off by, mean", "mean_turn_deviation"),
                    ("largest", "largest_turn_deviation"),
                    ("spread over problems", "problem_spread"),
                )
            ),
        ],
        caption=f"{replays[0].decisions:,} decisions. Off by: |rate - nominal|, over turns with at "
        "least 75 decisions. Spread: standard deviation over problems with at least 30. Intervals "
        "are 95 %, clustered by problem.",
        as_rows=True,
    )


def turns_table(replays: Sequence[Replayed]) -> Sheet:
    return Sheet(
        things=letters(replays),
        figures=[
            Figure(
                f"{rows[0].group.removeprefix('turn ')} of {rows[0].decisions:,}",
                [f"{row.realised.estimate:.3f}" for row in rows],
            )
            for rows in zip(*(each.by_turn for each in replays), strict=True)
        ],
        caption="Realised rate by turn, of so many decisions, of the controls above.",
        corner="turn",
    )


def separations_table(found: Sequence[Separation]) -> Sheet:
    return Sheet(
        things=[each.kind for each in found],
        figures=[
            Figure("AUROC", [_interval(each.auroc) for each in found]),
            Figure(
                "within problems",
                [
                    ABSENT if each.auroc_within is None else _interval(each.auroc_within)
                    for each in found
                ],
            ),
        ],
        caption=f"{found[0].wrong:,} wrong and {found[0].right:,} right chains. AUROC: the chance "
        "that a wrong chain has the higher mean score; 0.5 is no better than chance. Within: over "
        "pairs of chains of one problem, so that hard problems do not count for it.",
        corner="score",
        as_rows=True,
    )


def _interval(found: Interval) -> str:
    return f"{found.estimate:.3f} ({found.low:.3f}-{found.high:.3f})"


def letters(things: Sequence[object]) -> list[str]:
    """A to Z, then AA and on: what names a row of the first table in the others."""
    letters = (map("".join, product(ascii_uppercase, repeat=length)) for length in count(1))
    return list(islice(chain.from_iterable(letters), len(things)))


def _three_digits(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3f}"
