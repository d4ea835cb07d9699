"""How many chains and problems were solved, and at what cost."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atts.analysis.comparison import ParetoPoint, beaten_by
from atts.analysis.report import RunReport
from atts.grading.intervals import Interval
from atts.reports.figures.base import (
    INTERVALS,
    Cell,
    Figure,
    Style,
    colour,
    label,
    legend,
    legend_above,
    whole_numbers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def accuracy(runs: Sequence[RunReport]) -> Figure | None:
    """Accuracy per chain, majority vote and pass@k, with intervals; of the runs that are graded."""
    runs = [run for run in runs if run.summary.accuracy]
    if not runs:
        return None
    metrics: list[tuple[str, list[Interval]]] = [
        ("accuracy per chain", [found for run in runs if (found := run.summary.accuracy)]),
        ("majority vote", [found for run in runs if (found := run.summary.majority_vote)]),
    ]
    if all(run.summary.pass_at_k for run in runs):  # none where chains were ended early
        at_all = [run.summary.pass_at_k[max(run.summary.pass_at_k)] for run in runs]
        metrics.append(("pass@all", at_all))
    rows: list[tuple[Cell, ...]] = [
        (run.name, metric, found.estimate, found.low, found.high)
        for metric, intervals in metrics
        for run, found in zip(runs, intervals, strict=True)
    ]

    def draw(axes: "Axes") -> None:
        for number, run in enumerate(runs):
            style = Style.of(number)
            offset = (number - (len(runs) - 1) / 2) * 0.7 / max(len(runs), 1)
            found = [intervals[number] for _, intervals in metrics]
            axes.errorbar(
                [100 * each.estimate for each in found],
                [index + offset for index in range(len(metrics))],
                xerr=[
                    [100 * (each.estimate - each.low) for each in found],
                    [100 * (each.high - each.estimate) for each in found],
                ],
                fmt=style.marker,
                color=style.colour,
                capsize=2,
                markersize=5,
                label=label(run.name),
            )
        axes.set_yticks(range(len(metrics)), [metric for metric, _ in metrics])
        axes.set_ylim(len(metrics) - 0.5, -0.5)
        axes.set_xlim(0, 102)
        axes.set_xlabel("%")
        legend(axes, len(runs))

    seen = "; ".join(
        f"{run.name}: {100 * right.estimate:.1f} % of chains right, "
        f"majority vote {100 * vote.estimate:.1f} %"
        for run, right, vote in zip(runs, metrics[0][1], metrics[1][1], strict=True)
    )
    return Figure(
        "accuracy",
        "Accuracy",
        f"{seen}. {INTERVALS}",
        ("run", "metric", "estimate", "low", "high"),
        rows,
        draw,
        height=2.4 + 0.25 * len(runs),
    )


def pass_at_k(runs: Sequence[RunReport]) -> Figure | None:
    """The chance that one of k chains is right, by k."""
    if all(len(run.summary.pass_at_k) <= 1 for run in runs):
        return None
    runs = [run for run in runs if run.summary.pass_at_k]
    rows: list[tuple[Cell, ...]] = [
        (run.name, k, found.estimate, found.low, found.high)
        for run in runs
        for k, found in run.summary.pass_at_k.items()
    ]

    def draw(axes: "Axes") -> None:
        for number, run in enumerate(runs):
            style = Style.of(number)
            ks, found = zip(*run.summary.pass_at_k.items(), strict=True)
            axes.plot(
                ks,
                [100 * each.estimate for each in found],
                color=style.colour,
                linestyle=style.line,
                marker=style.marker,
                markersize=3.5,
                label=label(run.name),
            )
            axes.fill_between(
                ks,
                [100 * each.low for each in found],
                [100 * each.high for each in found],
                color=style.colour,
                alpha=0.12,
                linewidth=0,
            )
        axes.set_xlabel("k, chains of a problem")
        axes.set_ylabel("pass@k, %")
        axes.set_ylim(0, 102)
        whole_numbers(axes)
        legend(axes, len(runs))

    seen = "; ".join(
        f"{run.name}: from {100 * run.summary.pass_at_k[1].estimate:.1f} % at 1 to "
        f"{100 * run.summary.pass_at_k[max(run.summary.pass_at_k)].estimate:.1f} % at "
        f"{max(run.summary.pass_at_k)}"
        for run in runs
    )
    return Figure(
        "pass-at-k",
        "At least one of k chains is right",
        f"{seen}. {INTERVALS}",
        ("run", "k", "estimate", "low", "high"),
        rows,
        draw,
    )


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
        for index, (kind, tint, hatch) in enumerate(kinds):
            axes.barh(
                [number + (index - 1) * 0.27 for number in range(len(runs))],
                [float(row[index + 1] or 0) for row in rows],
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
    graded = [(run, found) for run in runs if (found := run.summary.accuracy)]
    runs = [run for run, _ in graded]
    if len(runs) < 2 or not any(run.summary.tokens.target_written for run in runs):
        return None
    points = [
        ParetoPoint(found.estimate, run.summary.tokens.target_written / run.summary.chains)
        for run, found in graded
    ]
    best = [winner is None for winner in beaten_by(points)]
    rows: list[tuple[Cell, ...]] = [
        (run.name, tokens, right, found.low, found.high, on)
        for (run, found), (right, tokens), on in zip(graded, points, best, strict=True)
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
        for number, (run, found) in enumerate(graded):
            style = Style.of(number)
            right, tokens = points[number]
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
