"""What a figure is: marks on two axes, and the numbers that they show.

It is defined once, without a library: ``drawing.py`` makes files for papers of it, with matplotlib,
and ``interactive.py`` what Plotly draws in the page.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from atts.text import visible

COLOURS: Mapping[str, tuple[str, str]] = {
    "ink": ("#1b1f24", "#e8eaed"),
    "faint": ("#c9ced6", "#454c56"),
    "draft": ("#1f6feb", "#79b0ff"),
    "target": ("#b45309", "#f2a65a"),
    "score": ("#7c3aed", "#b89bff"),
    "held": ("#8a94a3", "#77818f"),
    "waiting": ("#c2255c", "#ff85ab"),
    "overhead": ("#545c68", "#a9b2be"),
    "right": ("#1a7f4a", "#4fcb8d"),
    "wrong": ("#c4314b", "#ff8296"),
    "run0": ("#1f6feb", "#79b0ff"),
    "run1": ("#b45309", "#f2a65a"),
    "run2": ("#1a7f4a", "#4fcb8d"),
    "run3": ("#7c3aed", "#b89bff"),
    "run4": ("#c2255c", "#ff85ab"),
    "run5": ("#0e7490", "#5cc8dd"),
    "run6": ("#6b6300", "#d3c64e"),
    "run7": ("#545c68", "#a9b2be"),
}
"""Name -> hexadecimal on white and on dark ground."""

RUN_LINES = ("solid", "dashed", "dash-dot", "dotted", "long", "long-dot", "fine", "longest")
RUN_MARKERS = ("circle", "square", "up", "diamond", "down", "plus", "cross", "star")

INTERVALS = "Intervals are 95 %, clustered by problem."

Cell = str | int | float | bool | None


class Look(NamedTuple):
    """How marks are told from others: never by their colour alone."""

    colour: str
    """A name of ``COLOURS``."""
    line: str = "solid"
    """As in ``RUN_LINES``; empty: none."""
    marker: str = ""
    """As in ``RUN_MARKERS``; empty: none."""
    hatch: str = ""
    """Of what is filled: any of ``/ \\ - x +``."""
    width: float = 1.5
    """Of the line, in points."""

    @classmethod
    def of_run(cls, number: int) -> "Look":
        """That of the run with a number, from 0; from the ninth on they repeat."""
        return cls(f"run{number % 8}", RUN_LINES[number % 8], RUN_MARKERS[number % 8])


class Line(NamedTuple):
    """Points, a line through them, or both, with intervals."""

    name: str
    """In the legend; empty: not there."""
    look: Look
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    """Of the intervals of ``y``; of ``x`` if they lie ``across``."""
    band: bool = False
    """Whether the intervals are a band, instead of bars."""
    across: bool = False
    steps: bool = False
    """Whether each value holds up to the next point."""
    filled: bool = False
    """Whether the ground down to 0 is shaded."""
    tips: Sequence[str] = ()
    """What each point is called."""


class Bars(NamedTuple):
    """Lying bars: their middles, where they begin, and how long they are."""

    name: str
    look: Look
    y: Sequence[float]
    begin: Sequence[float]
    length: Sequence[float]
    thickness: float


class Area(NamedTuple):
    """A layer upon the areas before it."""

    name: str
    look: Look
    x: Sequence[float]
    y: Sequence[float]


Mark = Line | Bars | Area


class Rule(NamedTuple):
    """A line across all of the figure, at a value of y, or of x if it is upright."""

    at: float
    look: Look
    upright: bool = False


class Axis(NamedTuple):
    """An axis; a bound that is None follows the marks. The low one alone is about 0."""

    title: str = ""
    low: float | None = None
    high: float | None = None
    ticks: Sequence[tuple[float, str]] = ()
    """Where they are, if that is given, and what they say."""
    whole: bool = False
    """Whether the values are whole numbers."""
    doubling: bool = False
    """Whether it is logarithmic, to the base of 2."""


class Figure(NamedTuple):
    """A figure and the numbers that it shows."""

    name: str
    """Of its files, without a suffix."""
    title: str
    description: str
    """What there is to be seen, for those who cannot see it."""
    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    x: Axis
    y: Axis
    marks: Sequence[Mark]
    rules: Sequence[Rule] = ()
    height: float = 2.9
    """In inches; all figures are as wide."""

    @property
    def names(self) -> list[str]:
        """Of what the legend tells apart; none where there is only one."""
        names = [mark.name for mark in self.marks if mark.name]
        return names if len(names) > 1 else []


def label(text: str) -> str:
    """A name for a legend: no control characters, and not too long."""
    text = visible(text).replace("\n", " ")
    return text if len(text) <= 28 else f"{text[:13]}…{text[-14:]}"


def rows_from_the_top(names: Sequence[str]) -> Axis:
    """The axis of figures with a row for each name."""
    return Axis(low=len(names) - 0.5, high=-0.5, ticks=list(enumerate(names)))
