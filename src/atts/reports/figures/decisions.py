"""Decisions: the take-over rate by turn, problem and time; scores and p-values by outcome."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from atts.analysis.graded_run import ChainOutcome
from atts.analysis.report import RunReport
from atts.grading.intervals import clustered_interval
from atts.methods import METHODS
from atts.reports.figures.base import (
    INTERVALS,
    Axis,
    Cell,
    Figure,
    Line,
    Look,
    Mark,
    Rule,
    label,
)
from atts.text import visible
from atts.types import Decision

_Group = TypeVar("_Group", bound=Hashable)
Tally = dict[_Group, dict[str, list[bool]]]
"""Group -> problem id -> what was decided."""


def rate_by_turn(runs: Sequence[RunReport]) -> Figure | None:
    """The realised rate of each turn, with intervals."""
    decided = _aiming(runs)
    if not decided:
        return None
    rows: list[tuple[Cell, ...]] = []
    for _, run in decided:
        tally: Tally[int] = defaultdict(lambda: defaultdict(list))
        for chain in run.run.chains:
            for turn, decision in chain.decisions:
                tally[turn][chain.problem_id].append(decision.take_over)
        for turn, by_problem in sorted(tally.items()):
            groups = [by_problem[name] for name in sorted(by_problem)]
            found = clustered_interval(list(map(sum, groups)), list(map(len, groups)))
            decisions = sum(map(len, groups))
            rows.append((run.name, turn, decisions, found.estimate, found.low, found.high))

    marks = []
    for number, run in decided:
        mine = [row for row in rows if row[0] == run.name]
        turns, made, lows, highs = (_column(mine, index) for index in (1, 3, 4, 5))
        look = Look.of_run(number)
        marks.append(Line(label(run.name), look, turns, made, lows, highs, band=True))

    seen = []
    for _, run in decided:
        rates = sorted((float(row[3] or 0), row[1]) for row in rows if row[0] == run.name)
        (low, first), (high, last) = rates[0], rates[-1]
        seen.append(f"{run.name}: from {low:.2f} in turn {first} to {high:.2f} in turn {last}")
    return Figure(
        "rate-by-turn",
        "Take-over rate by turn",
        f"{'; '.join(seen)}. Dotted: the nominal rate. {INTERVALS}",
        ("run", "turn", "decisions", "rate", "low", "high"),
        rows,
        Axis("turn", whole=True),
        Axis("take-over rate", 0, 1),
        marks,
        _nominal(decided),
    )


def rate_by_problem(runs: Sequence[RunReport]) -> Figure | None:
    """The realised rate of each problem, from the lowest to the highest."""
    decided = _aiming(runs)
    if not decided:
        return None
    rows: list[tuple[Cell, ...]] = []
    for _, run in decided:
        tally: dict[str, list[bool]] = defaultdict(list)
        for chain in run.run.chains:
            tally[chain.problem_id] += [decision.take_over for _, decision in chain.decisions]
        rates = sorted((sum(made) / len(made), name, len(made)) for name, made in tally.items())
        rows += [(run.name, name, decisions, rate) for rate, name, decisions in rates]

    marks = []
    for number, run in decided:
        mine = [row for row in rows if row[0] == run.name]
        places = [(index + 0.5) / len(mine) for index in range(len(mine))]
        names = [visible(str(row[1])) for row in mine]
        marks.append(
            Line(label(run.name), Look.of_run(number), places, _column(mine, 3), tips=names)
        )

    seen = []
    for _, run in decided:
        of_run = _column([row for row in rows if row[0] == run.name], 3)
        seen.append(
            f"{run.name}: half of the problems between {of_run[len(of_run) // 4]:.2f} and "
            f"{of_run[(3 * len(of_run)) // 4]:.2f}"
        )
    return Figure(
        "rate-by-problem",
        "Take-over rate by problem",
        f"{'; '.join(seen)}. Dotted: the nominal rate.",
        ("run", "problem", "decisions", "rate"),
        rows,
        Axis("share of the problems, by their rate"),
        Axis("take-over rate", -0.02, 1.02),
        marks,
        _nominal(decided),
    )


def rate_over_time(runs: Sequence[RunReport]) -> Figure | None:
    """The rate of decisions in the order in which they were made."""
    budgets = [
        (number, run, run.profile.budget)
        for number, run in enumerate(runs)
        if run.profile.budget is not None
    ]
    if not budgets:
        return None
    rows: list[tuple[Cell, ...]] = [
        (
            run.name,
            part.first,
            part.decisions,
            part.realised.estimate,
            part.realised.low,
            part.realised.high,
            part.so_far,
        )
        for _, run, budget in budgets
        for part in budget.over_time
    ]

    marks = []
    for number, run, budget in budgets:
        look = Look.of_run(number)
        middles = [part.first + part.decisions / 2 for part in budget.over_time]
        parts = [part.realised for part in budget.over_time]
        rates, low, high = (
            [getattr(each, bound) for each in parts] for bound in ("estimate", "low", "high")
        )
        marks.append(Line(label(run.name), look._replace(line=""), middles, rates, low, high))
        ends = [part.first + part.decisions for part in budget.over_time]
        so_far = [part.so_far for part in budget.over_time]
        marks.append(Line("", look._replace(marker=""), ends, so_far))

    seen = "; ".join(
        f"{run.name}: {budget.realised.estimate:.3f} in all, and a tenth of the decisions was off "
        f"the nominal {budget.nominal:g} by {budget.largest_deviation:.3f} at most"
        for _, run, budget in budgets
    )
    return Figure(
        "rate-over-time",
        "Take-over rate over time",
        f"{seen}. Marks: tenths of the decisions; line: all so far. {INTERVALS}",
        ("run", "first decision", "decisions", "rate", "low", "high", "rate so far"),
        rows,
        Axis("decisions, in the order of their scores"),
        Axis("take-over rate", 0, 1),
        marks,
        _nominal([(number, run) for number, run, _ in budgets]),
    )


def _aiming(runs: Sequence[RunReport]) -> list[tuple[int, RunReport]]:
    """Runs of methods that decide by scores and aim at a rate; a run's number is its style."""
    return [
        (number, run)
        for number, run in enumerate(runs)
        if run.summary.take_over and run.summary.take_over.nominal is not None
    ]


def _nominal(decided: Sequence[tuple[int, RunReport]]) -> list[Rule]:
    rates = sorted({run.run.config.take_over.rate for _, run in decided})
    return [Rule(rate, Look("ink", "dotted", width=0.9)) for rate in rates]


def _column(rows: Sequence[tuple[Cell, ...]], index: int) -> list[float]:
    return [float(row[index] or 0) for row in rows]


BINS = 40

_FAR = 1e6
"""Nats per token; beyond it one score is like another."""

Values = NDArray[np.float64]


def scores(run: RunReport, number: int) -> Figure | None:
    """Histograms of the scores, and of those of the calibration."""
    decisions = [each for each in _decisions(run) if not each[0].passed]
    if not decisions:
        return None
    groups = {
        "right chains": _scores(decisions, "right"),
        "wrong chains": _scores(decisions, "wrong"),
        "others": _scores(decisions, "no answer", "ungraded", "not graded", "failed", "not needed"),
        "calibration": np.array(
            [score for turn in run.run.calibration.by_turn() for score in turn]
            if run.run.calibration
            else []
        ),
    }
    groups = {name: values for name, values in groups.items() if len(values)}
    # A score may be infinite, and no bins fit between infinite bounds.
    everything = np.clip([decision.score for decision, _ in decisions], -_FAR, _FAR)
    low, high = (float(bound) for bound in np.quantile(everything, [0.001, 0.995]))
    edges = np.linspace(low, max(high, low + 1e-9), BINS + 1)
    shares = {
        # What lies outside belongs to the outermost bins.
        name: np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / len(values)
        for name, values in groups.items()
    }
    rows: list[tuple[Cell, ...]] = [
        (float(edges[index]), float(edges[index + 1]), *(float(s[index]) for s in shares.values()))
        for index in range(BINS)
    ]
    looks = {
        "right chains": Look("right"),
        "wrong chains": Look("wrong", "dashed"),
        "others": Look("overhead", "dash-dot"),
        "calibration": Look("ink", "dotted"),
    }
    bins = [*map(float, edges)]
    marks = [
        Line(
            name,
            looks[name],
            bins,
            [100 * float(each) for each in (*share, share[-1])],  # the last bin has two edges
            steps=True,
            filled=name != "calibration",
            tips=[
                *(f"from {low:.3f} to {high:.3f}" for low, high in pairwise(bins)),
                f"up to {bins[-1]:.3f}",
            ],
        )
        for name, share in shares.items()
    ]

    seen = ", ".join(
        f"{name}: median {np.median(values):.3f} over {len(values):,} segments"
        for name, values in groups.items()
    )
    return Figure(
        f"scores-{number}",
        f"Scores, {run.name}",
        f"{seen}. The outermost bins hold what lies beyond.",
        ("from", "to", *(f"share, {name}" for name in shares)),
        rows,
        Axis("score, nats per token"),
        Axis("% of the segments", low=0),
        marks,
    )


def p_values(run: RunReport, number: int) -> Figure | None:
    """How often the p-value is at most p: the diagonal, if the calibration holds.

    Not for a method that ranks a problem's chains among each other: its ranks say nothing of a
    calibration.
    """
    decisions = _decisions(run)
    if not decisions or not METHODS[run.summary.method].needs_calibration:
        return None
    everything = np.sort([decision.p_value for decision, _ in decisions])
    groups = {
        "all": everything,
        "right chains": np.sort([d.p_value for d, outcome in decisions if outcome == "right"]),
        "wrong chains": np.sort([d.p_value for d, outcome in decisions if outcome == "wrong"]),
    }
    groups = {name: values for name, values in groups.items() if len(values)}
    grid = np.linspace(0.0, 1.0, 51)
    shares = {
        name: np.searchsorted(values, grid, side="right") / len(values)
        for name, values in groups.items()
    }
    rows: list[tuple[Cell, ...]] = [
        (float(grid[index]), *(float(share[index]) for share in shares.values()))
        for index in range(len(grid))
    ]
    looks = {
        "all": Look("ink", width=1.8),
        "right chains": Look("right", "dash-dot", width=1.1),
        "wrong chains": Look("wrong", "dashed", width=1.1),
    }
    marks: list[Mark] = [Line("uniform", Look("ink", "dotted", width=0.9), [0, 1], [0, 1])]
    for name, share in shares.items():
        marks.append(Line(name, looks[name], [*map(float, grid)], [*map(float, share)]))

    off = float(np.abs(shares["all"] - grid).max())
    return Figure(
        f"p-values-{number}",
        f"Calibration of the p-values, {run.name}",
        f"The largest distance from the diagonal, which valid p-values follow, is {off:.3f} over "
        f"{len(everything):,} decisions. Vertical: the nominal take-over rate.",
        ("p", *(f"share up to p, {name}" for name in shares)),
        rows,
        Axis("p", 0, 1),
        Axis("share of p-values up to p", 0, 1),
        marks,
        [Rule(run.run.config.take_over.rate, Look("faint", width=1.2), upright=True)],
    )


def _decisions(run: RunReport) -> list[tuple[Decision, ChainOutcome]]:
    return [
        (decision, run.graded.verdicts[chain.key].outcome)
        for chain in run.run.chains
        for _, decision in chain.decisions
    ]


def _scores(decisions: list[tuple[Decision, ChainOutcome]], *wanted: ChainOutcome) -> Values:
    return np.array([decision.score for decision, outcome in decisions if outcome in wanted])
