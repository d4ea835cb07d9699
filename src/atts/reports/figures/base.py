"""What a figure is, and how it becomes SVG for the page, and SVG, PNG and CSV for papers.

Drawn with matplotlib, which the extra ``plots`` brings. In the page the colours of an
SVG are replaced by variables of the style sheet, so that one drawing is light and dark.
"""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from atts.errors import ConfigError, StoreError
from atts.package import install
from atts.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    "run0": ("#1f6fea", "#79b1ff"),
    "run1": ("#b45308", "#f2a65b"),
    "run2": ("#1a7f4b", "#4fcb8e"),
    "run3": ("#7c3aec", "#b89bfe"),
    "run4": ("#c2255b", "#ff85aa"),
    "run5": ("#0e7490", "#5cc8dd"),
    "run6": ("#6b6300", "#d3c64e"),
    "run7": ("#545c69", "#a9b2bf"),
}
"""Name -> hexadecimal on white and on dark ground; all of the first differ, being replaced."""

LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

INTERVALS = "Intervals are 95 %, clustered by problem."

Cell = str | int | float | bool | None
Draw = Callable[["Axes"], None]


class Figure(NamedTuple):
    """A figure and the numbers that it shows."""

    name: str
    """Of its files, without a suffix."""
    title: str
    description: str
    """What there is to be seen, for those who cannot see it."""
    columns: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    draw: Draw
    height: float = 2.9
    """In inches; all figures are as wide."""


class Style(NamedTuple):
    """How a run is told from others: never by its colour alone."""

    colour: str
    line: Any
    marker: str

    @classmethod
    def of(cls, number: int) -> "Style":
        """That of the run with a number, from 0; from the ninth on they repeat."""
        return cls(colour(f"run{number % 8}"), LINES[number % 8], MARKERS[number % 8])


def colour(name: str) -> str:
    """The colour on white ground."""
    return COLOURS[name][0]


def label(text: str) -> str:
    """A name for a legend: no control characters, and not too long."""
    text = visible(text).replace("\n", " ")
    return text if len(text) <= 28 else f"{text[:13]}…{text[-14:]}"


def legend(axes: "Axes", runs: int) -> None:
    """A legend above the axes, where there is something to tell apart."""
    if runs > 1:
        legend_above(axes, columns=2)


def legend_above(axes: "Axes", columns: int) -> None:
    """A legend above the axes, at their right end."""
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=columns, borderaxespad=0.2)


def whole_numbers(axes: "Axes") -> None:
    """Ticks of the x axis at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def to_svg(figure: Figure) -> str:
    """An ``svg`` element for an HTML page, with its colours as variables and a description."""
    svg = _render(figure, "svg").decode()
    svg = svg[svg.index("<svg") :]
    # Ids are unique in a page, which holds many figures.
    svg = re.sub(r'\bid="', f'id="{figure.name}-', svg)
    svg = re.sub(r'(xlink:href="|url\()#', rf"\1#{figure.name}-", svg)
    for name, (light, _) in COLOURS.items():
        svg = svg.replace(light, f"var(--{name})")
    names = f"{figure.name}-title {figure.name}-desc"
    opening = svg.index(">") + 1
    return (
        f'<svg role="img" aria-labelledby="{names}"{svg[4 : opening - 1]}>'
        f'<title id="{figure.name}-title">{escape(visible(figure.title))}</title>'
        f'<desc id="{figure.name}-desc">{escape(visible(figure.description))}</desc>{svg[opening:]}'
    )


def to_csv(figure: Figure) -> str:
    """The numbers, with a header line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(figure.columns)
    writer.writerows(figure.rows)
    return text.getvalue()


def save_figures(figures: Sequence[Figure], folder: Path) -> None:
    """Write NAME.png, NAME.svg and NAME.csv of each figure; the folder is made if need be.

    Raises:
        ConfigError: matplotlib is missing.
        StoreError: a file cannot be written.
    """
    drawn = [(figure, _render(figure, "png"), _render(figure, "svg")) for figure in figures]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for figure, png, svg in drawn:
            (folder / f"{figure.name}.png").write_bytes(png)
            (folder / f"{figure.name}.svg").write_bytes(svg)
            (folder / f"{figure.name}.csv").write_text(to_csv(figure), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error.strerror or error}") from error


def _render(figure: Figure, kind: str) -> bytes:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure as Canvas
    except ModuleNotFoundError as error:
        raise ConfigError(f"figures need {error.name}: {install('plots')}") from error
    ink, faint = colour("ink"), colour("faint")
    settings: Any = {
        "axes.edgecolor": faint,
        "axes.labelcolor": ink,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": faint,
        "grid.linewidth": 0.5,
        "font.size": 9,
        "hatch.color": ink,
        "hatch.linewidth": 0.4,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and copied
        "svg.hashsalt": figure.name,  # the same numbers give the same file
        "text.color": ink,
        "text.parse_math": False,  # names of runs and problems may hold dollars
        "xtick.color": ink,
        "ytick.color": ink,
    }
    data = io.BytesIO()
    with mpl.rc_context(settings):
        canvas: Canvas = Canvas(figsize=(4.8, figure.height), layout="constrained")
        canvas.patch.set_alpha(0.0 if kind == "svg" else 1.0)
        axes = canvas.subplots()
        axes.patch.set_alpha(0.0)
        figure.draw(axes)
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        canvas.savefig(data, format=kind, dpi=200, metadata=metadata)
    return data.getvalue()
