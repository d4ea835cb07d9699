"""Plots of replays and comparisons. Needs matplotlib: the extra ``plots``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from atts.errors import ConfigError, StoreError
from atts.package import install
from atts.text import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from atts.analysis.comparison import Comparison
    from atts.analysis.replay import Replayed

MARKERS = "osD^vP*X<>hd"


def plot_replays(replays: "Sequence[Replayed]", path: Path) -> None:
    """Draw the realised rate by turn, by problem and over time, a line a control.

    Raises:
        ConfigError: matplotlib is missing, or does not know the suffix of the path.
        StoreError: the file cannot be written.
    """
    figure = _figure(12, 4)
    turns, problems, time = figure.subplots(1, 3, sharey=True)
    for replay in replays:
        by_turn = [each.realised for each in replay.by_turn]
        label = _label(f"{replay.control}, {replay.nominal:g}")
        (line,) = turns.plot(
            [int(each.group.split()[1]) for each in replay.by_turn],
            [rate.estimate for rate in by_turn],
            marker=".",
            label=label,
        )
        colour = line.get_color()
        turns.fill_between(
            [int(each.group.split()[1]) for each in replay.by_turn],
            [rate.low for rate in by_turn],
            [rate.high for rate in by_turn],
            color=colour,
            alpha=0.15,
        )
        problems.plot(sorted(each.realised.estimate for each in replay.by_problem), color=colour)
        time.plot([each.realised.estimate for each in replay.over_time], color=colour)
    for axes, label in (
        (turns, "turn"),
        (problems, "problems, by their rate"),
        (time, "time, in parts of equally many decisions"),
    ):
        axes.set_xlabel(label)
        for nominal in {replay.nominal for replay in replays}:
            axes.axhline(nominal, color="black", linewidth=0.8, linestyle=":")
    turns.set_ylabel("realised take-over rate")
    turns.set_ylim(0, 1)
    figure.legend(loc="outside lower center", ncols=3)
    _save(figure, path)


def plot_frontiers(comparison: "Comparison", path: Path) -> None:
    """Draw accuracy against the target's tokens: a row for chains, one for answers to problems.

    A step runs along each frontier. Bars are the intervals of the accuracy.

    Raises:
        ConfigError: matplotlib is missing, or does not know the suffix of the path.
        StoreError: the file cannot be written.
    """
    from atts.analysis.comparison import ACCURACY, ANSWER, WORK, WRITTEN, point
    from atts.reports.summary_table import heading

    figure = _figure(11, 8)
    grid = figure.subplots(2, 2, sharey="row", squeeze=False)
    for row, (value, unit) in zip(grid, ((ACCURACY, "chain"), (ANSWER, "problem")), strict=True):
        for axes, cost in zip(row, (WRITTEN, WORK), strict=True):
            frontier = next(f for f in comparison.frontiers if (f.value, f.cost) == (value, cost))
            points = {run.name: point(run, value, cost) for run in comparison.runs}
            on_it = [points[name] for name in frontier.runs]
            axes.step(
                [each.cost for each in on_it],
                [100 * each.value for each in on_it],
                where="post",
                color="grey",
                linewidth=1,
                zorder=0,
            )
            for number, run in enumerate(comparison.runs):
                x, y = points[run.name].cost, 100 * points[run.name].value
                interval = run.accuracy if value == ACCURACY else run.answer
                axes.errorbar(
                    x,
                    y,
                    yerr=[[y - 100 * interval.low], [100 * interval.high - y]],
                    marker=MARKERS[number % len(MARKERS)],
                    color=f"C{number % 10}",
                    markersize=8,
                    markerfacecolor=None if run.name in frontier.runs else "white",
                    elinewidth=0.8,
                    linestyle="none",
                    label=_label(heading(run.name).replace("\n", " ")),
                )
            axes.set_xlabel(f"{cost} per {unit}")
            axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
            axes.grid(visible=True, linewidth=0.3)
        row[0].set_ylabel(f"{value}, %")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    figure.suptitle("Filled: on the frontier. Bars: 95 %, clustered by problem.", fontsize="medium")
    _save(figure, path)


def check_drawable(path: Path) -> None:
    """Find out whether a plot could be drawn to this path, before the work that it is about.

    Raises:
        ConfigError: matplotlib is missing, or does not know the suffix of the path.
    """
    _figure(1, 1)  # complains where matplotlib is missing
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        raise ConfigError(f"cannot draw {path}: the suffix must be one of {', '.join(known)}")


def _figure(width: float, height: float) -> "Figure":
    """An empty figure; sizes in inches."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ConfigError(f"plots need {error.name}: {install('plots')}") from error
    return Figure(figsize=(width, height), layout="constrained")


def _label(text: str) -> str:
    """Text of any origin, none of which is a formula."""
    return visible(text).replace("$", r"\$")


def _save(figure: "Figure", path: Path) -> None:
    try:
        figure.savefig(path)
    except ValueError as error:
        raise ConfigError(f"cannot draw {path}: {error}") from error
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error
