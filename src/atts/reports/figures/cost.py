"""What a run cost, and what it bought."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atts.analysis.comparison import ParetoPoint, beaten_by
from atts.analysis.report import RunReport
from atts.reports.figures.base import (
    INTERVALS,
    Cell,
    Figure,
    Style,
    colour,
    label,
    legend,
    legend_above,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def cost(runs: Sequence[RunReport]) -> Figure | None:
    """Tokens per chain, by what was done with them."""
    kinds = (
        ("draft writes", "draft", ""),
        ("target writes", "target", "////"),
        ("target scores", "score", "\\\\\\\\"),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            run.name,
            tokens.draft_written / run.summary.chains,
            tokens.target_written / run.summary.chains,
            tokens.target_scored / run.summary.chains,
        )
        for run in runs
        for tokens in (run.summary.tokens,)
    ]
    if not any(value for row in rows for value in row[1:]):
        return None  # an imported run may not say

    def draw(axes: "Axes") -> None:
        for place, (kind, tint, hatch) in enumerate(kinds):
            axes.barh(
                [number + (place - 1) * 0.27 for number in range(len(runs))],
                [float(row[place + 1] or 0) for row in rows],
                height=0.25,
                color=colour(tint),
                hatch=hatch,
                label=kind,
            )
        axes.set_yticks(range(len(runs)), [label(run.name) for run in runs])
        axes.set_ylim(len(runs) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("tokens per chain")
        legend_above(axes, columns=3)

    seen = "; ".join(
        f"{row[0]}: {row[1]:,.0f} draft tokens written, {row[2]:,.0f} target tokens written and "
        f"{row[3]:,.0f} scored"
        for row in rows
    )
    return Figure(
        "cost",
        "Tokens per chain",
        f"{seen}.",
        ("run", "draft written", "target written", "target scored"),
        rows,
        draw,
        height=1.6 + 0.6 * len(runs),
    )


def frontier(runs: Sequence[RunReport]) -> Figure | None:
    """Accuracy against target tokens; the frontier holds what no other run beats in both."""
    if len(runs) < 2 or not any(run.summary.tokens.target_written for run in runs):
        return None
    points = [
        ParetoPoint(
            run.summary.accuracy.estimate, run.summary.tokens.target_written / run.summary.chains
        )
        for run in runs
    ]
    best = [winner is None for winner in beaten_by(points)]
    rows: list[tuple[Cell, ...]] = [
        (run.name, tokens, right, run.summary.accuracy.low, run.summary.accuracy.high, on)
        for run, (right, tokens), on in zip(runs, points, best, strict=True)
    ]

    def draw(axes: "Axes") -> None:
        edge = sorted(point for point, on in zip(points, best, strict=True) if on)
        axes.step(
            [point.cost for point in edge],
            [100 * point.value for point in edge],
            where="post",
            color=colour("ink"),
            linewidth=0.9,
            linestyle=":",
        )
        for number, run in enumerate(runs):
            style = Style.of(number)
            right, tokens = points[number]
            found = run.summary.accuracy
            axes.errorbar(
                [tokens],
                [100 * right],
                yerr=[[100 * (right - found.low)], [100 * (found.high - right)]],
                fmt=style.marker,
                color=style.colour,
                capsize=2,
                markersize=6,
                label=label(run.name),
            )
        axes.set_xlabel("target tokens written per chain")
        axes.set_ylabel("accuracy per chain, %")
        axes.set_xlim(left=min(0.0, -0.03 * max(point.cost for point in points)))
        legend(axes, len(runs))

    on = ", ".join(run.name for run, is_on in zip(runs, best, strict=True) if is_on)
    return Figure(
        "frontier",
        "Accuracy against target tokens",
        f"On the frontier, where no run has both more accuracy and fewer target tokens: {on}. "
        f"{INTERVALS}",
        ("run", "target tokens per chain", "accuracy", "low", "high", "on the frontier"),
        rows,
        draw,
    )
