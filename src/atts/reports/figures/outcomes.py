"""How many chains and problems were solved, and at what cost."""

from collections.abc import Sequence

from atts.analysis.comparison import ParetoPoint, beaten_by
from atts.analysis.report import RunReport
from atts.grading.intervals import Interval
from atts.reports.figures.base import (
    INTERVALS,
    Axis,
    Bars,
    Cell,
    Figure,
    Line,
    Look,
    label,
    rows_from_the_top,
)


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

    marks = []
    for number, run in enumerate(runs):
        bars = [intervals[number] for _, intervals in metrics]
        beside = (number - (len(runs) - 1) / 2) * 0.7 / len(runs)
        marks.append(
            Line(
                label(run.name),
                Look.of_run(number)._replace(line=""),
                [100 * each.estimate for each in bars],
                [index + beside for index in range(len(metrics))],
                [100 * each.low for each in bars],
                [100 * each.high for each in bars],
                across=True,
            )
        )

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
        Axis("%", 0, 102),
        rows_from_the_top([metric for metric, _ in metrics]),
        marks,
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

    marks = []
    for number, run in enumerate(runs):
        ks, found = zip(*run.summary.pass_at_k.items(), strict=True)
        rates, low, high = (
            [100 * getattr(each, bound) for each in found] for bound in ("estimate", "low", "high")
        )
        look = Look.of_run(number)
        marks.append(Line(label(run.name), look, ks, rates, low, high, band=True))

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
        Axis("k, chains of a problem", whole=True),
        Axis("pass@k, %", 0, 102),
        marks,
    )


def cost(runs: Sequence[RunReport]) -> Figure | None:
    """Tokens per chain, by what was done with them."""
    kinds = (
        ("draft writes", Look("draft")),
        ("target writes", Look("target", hatch="/")),
        ("target scores", Look("score", hatch="\\")),
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

    marks = [
        Bars(
            kind,
            look,
            y=[number + (index - 1) * 0.27 for number in range(len(runs))],
            begin=[0.0] * len(runs),
            length=[float(row[index + 1] or 0) for row in rows],
            thickness=0.25,
        )
        for index, (kind, look) in enumerate(kinds)
    ]

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
        Axis("tokens per chain"),
        rows_from_the_top([label(run.name) for run in runs]),
        marks,
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

    on_it = [point for point, is_on in zip(points, best, strict=True) if is_on]
    edge = sorted(on_it, key=lambda point: (point.cost, point.value))
    marks = [
        Line(
            "",
            Look("ink", "dotted", width=0.9),
            [point.cost for point in edge],
            [100 * point.value for point in edge],
            steps=True,
        )
    ]
    for number, (run, found) in enumerate(graded):
        right, tokens = points[number]
        look = Look.of_run(number)._replace(line="")
        bounds = [100 * found.low], [100 * found.high]
        marks.append(Line(label(run.name), look, [tokens], [100 * right], *bounds))

    on = ", ".join(run.name for run, is_on in zip(runs, best, strict=True) if is_on)
    return Figure(
        "frontier",
        "Accuracy against target tokens",
        f"On the frontier, where no run has both more accuracy and fewer target tokens: {on}. "
        f"{INTERVALS}",
        ("run", "target tokens per chain", "accuracy", "low", "high", "on the frontier"),
        rows,
        Axis("target tokens written per chain", low=-0.03 * max(each.cost for each in points)),
        Axis("accuracy per chain, %"),
        marks,
    )
