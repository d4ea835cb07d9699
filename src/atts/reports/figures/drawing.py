"""Figures as files for papers: PNG, SVG, and CSV of their numbers. Needs the extra ``plots``."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atts.errors import ConfigError, StoreError
from atts.package import install
from atts.reports.figures.base import COLOURS, Area, Axis, Bars, Figure, Line, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINES: Mapping[str, Any] = {
    "": "none",
    "solid": "-",
    "dashed": "--",
    "dash-dot": "-.",
    "dotted": ":",
    "long": (0, (5, 1)),
    "long-dot": (0, (3, 1, 1, 1)),
    "fine": (0, (1, 1)),
    "longest": (0, (8, 2)),
}
_MARKERS = {
    "": "",
    "circle": "o",
    "square": "s",
    "up": "^",
    "diamond": "D",
    "down": "v",
    "plus": "P",
    "cross": "X",
    "star": "*",
}


def save_figures(figures: Sequence[Figure], folder: Path) -> None:
    """Write NAME.png, NAME.svg and NAME.csv of each figure; the folder is made if need be.

    Raises:
        ConfigError: matplotlib is missing.
        StoreError: a file cannot be written.
    """
    drawn = [(figure, draw(figure, "png"), draw(figure, "svg")) for figure in figures]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for figure, png, svg in drawn:
            (folder / f"{figure.name}.png").write_bytes(png)
            (folder / f"{figure.name}.svg").write_bytes(svg)
            (folder / f"{figure.name}.csv").write_text(to_csv(figure), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error.strerror or error}") from error


def to_csv(figure: Figure) -> str:
    """The numbers, with a header line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(figure.columns)
    writer.writerows(figure.rows)
    return text.getvalue()


def draw(figure: Figure, kind: str) -> bytes:
    """The file of a kind that matplotlib knows; the same numbers give the same bytes.

    Raises:
        ConfigError: matplotlib is missing.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure as Canvas
    except ModuleNotFoundError as error:
        raise ConfigError(f"figures need {error.name}: {install('plots')}") from error
    ink, faint = _colour("ink"), _colour("faint")
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
        "svg.hashsalt": figure.name,
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
        _draw_on(axes, figure)
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        canvas.savefig(data, format=kind, dpi=200, metadata=metadata)
    return data.getvalue()


def _colour(name: str) -> str:
    return COLOURS[name][0]


def _draw_on(axes: "Axes", figure: Figure) -> None:
    below: list[float] = []
    for mark in figure.marks:
        if isinstance(mark, Line):
            _line(axes, mark)
        elif isinstance(mark, Bars):
            axes.barh(
                mark.y,
                mark.length,
                left=mark.begin,
                height=mark.thickness,
                color=_colour(mark.look.colour),
                hatch=4 * mark.look.hatch,
                label=mark.name,
            )
        else:
            below = _area(axes, mark, below or [0.0] * len(mark.y))
    for rule in figure.rules:
        line = axes.axvline if rule.upright else axes.axhline
        line(rule.at, **_stroke(rule.look))
    if any(isinstance(mark, Bars) for mark in figure.marks):
        axes.grid(visible=False, axis="y")
    _axis(axes, figure.x, "x")
    _axis(axes, figure.y, "y")
    if figure.names:
        columns = 3 if max(map(len, figure.names)) < 16 else 2
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=columns, borderaxespad=0.2)


def _stroke(look: Look) -> dict[str, Any]:
    return {
        "color": _colour(look.colour),
        "linestyle": _LINES[look.line],
        "linewidth": look.width,
    }


def _line(axes: "Axes", mark: Line) -> None:
    tint = _colour(mark.look.colour)
    style: dict[str, Any] = {
        **_stroke(mark.look),
        "marker": _MARKERS[mark.look.marker],
        "markersize": 4,
        "label": mark.name or "_",  # matplotlib lists no name that begins so
        "drawstyle": "steps-post" if mark.steps else "default",
    }
    if not mark.low or mark.band:
        axes.plot(mark.x, mark.y, **style)
        if mark.band:
            axes.fill_between(mark.x, mark.low, mark.high, color=tint, alpha=0.12, linewidth=0)
    else:
        middle = mark.x if mark.across else mark.y
        reach = [
            [at - low for at, low in zip(middle, mark.low, strict=True)],
            [high - at for at, high in zip(middle, mark.high, strict=True)],
        ]
        style["xerr" if mark.across else "yerr"] = reach
        axes.errorbar(mark.x, mark.y, **style, capsize=2, elinewidth=0.8)
    if mark.filled:
        axes.fill_between(
            mark.x,
            mark.y,
            step="post" if mark.steps else None,
            color=tint,
            alpha=0.12,
            linewidth=0,
        )


def _area(axes: "Axes", mark: Area, below: Sequence[float]) -> list[float]:
    top = [under + height for under, height in zip(below, mark.y, strict=True)]
    axes.fill_between(
        mark.x,
        below,
        top,
        facecolor=_colour(mark.look.colour),
        hatch=4 * mark.look.hatch,
        linewidth=0,
        label=mark.name,
    )
    return top


def _axis(axes: "Axes", axis: Axis, side: str) -> None:
    from matplotlib.ticker import MaxNLocator

    is_x = side == "x"
    drawn = axes.xaxis if is_x else axes.yaxis
    if axis.doubling:
        (axes.set_xscale if is_x else axes.set_yscale)("log", base=2)
    if axis.whole:
        drawn.set_major_locator(MaxNLocator(integer=True))
    if axis.ticks:
        drawn.set_ticks([at for at, _ in axis.ticks], [text for _, text in axis.ticks])
        drawn.set_ticks([], minor=True)
    drawn.set_label_text(axis.title)
    if is_x:
        axes.set_xlim(axis.low, axis.high)
    else:
        axes.set_ylim(axis.low, axis.high)
