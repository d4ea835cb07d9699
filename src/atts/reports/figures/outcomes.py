"""How many chains and problems were solved."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atts.analysis.report import RunReport
from atts.grading.metrics import Interval
from atts.reports.figures.base import INTERVALS, Cell, Figure, Style, label, legend, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def accuracy(runs: Sequence[RunReport]) -> Figure:
    """Accuracy per chain, majority vote and pass@k, with intervals."""
    metrics: list[tuple[str, list[Interval]]] = [
        ("accuracy per chain", [run.summary.accuracy for run in runs]),
        ("majority vote", [run.summary.majority_vote for run in runs]),
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
                [place + offset for place in range(len(metrics))],
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
        f"{run.name}: {100 * run.summary.accuracy.estimate:.1f} % of chains right, "
        f"majority vote {100 * run.summary.majority_vote.estimate:.1f} %"
        for run in runs
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
