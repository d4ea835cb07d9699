"""Scores and p-values, of right and of wrong chains apart."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from atts.analysis.graded_run import ChainOutcome
from atts.analysis.report import RunReport
from atts.methods import METHODS
from atts.reports.figures.base import Cell, Figure, colour
from atts.types import Decision

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 40

Values = NDArray[np.float64]


def scores(run: RunReport, number: int) -> Figure | None:
    """Histograms of the scores, and of those of the calibration."""
    decisions = _decisions(run)
    if not decisions:
        return None
    groups = {
        "right chains": _scores(decisions, "right"),
        "wrong chains": _scores(decisions, "wrong"),
        "others": _scores(decisions, "no answer", "ungraded", "failed", "not needed"),
        "calibration": np.array(
            [score for turn in run.run.calibration.by_turn() for score in turn]
            if run.run.calibration
            else []
        ),
    }
    groups = {name: values for name, values in groups.items() if len(values)}
    everything = np.array([decision.score for decision, _ in decisions])
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
        "right chains": (colour("right"), "-"),
        "wrong chains": (colour("wrong"), "--"),
        "others": (colour("overhead"), "-."),
        "calibration": (colour("ink"), ":"),
    }

    def draw(axes: "Axes") -> None:
        for name, share in shares.items():
            tint, line = looks[name]
            axes.stairs(100 * share, edges, color=tint, linestyle=line, linewidth=1.3, label=name)
            if name != "calibration":
                axes.stairs(100 * share, edges, color=tint, alpha=0.12, fill=True)
        axes.set_xlabel("score, nats per token")
        axes.set_ylabel("% of the segments")
        axes.legend()

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
        draw,
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
        "all": (colour("ink"), "-", 1.8),
        "right chains": (colour("right"), "-.", 1.1),
        "wrong chains": (colour("wrong"), "--", 1.1),
    }

    def draw(axes: "Axes") -> None:
        axes.plot(
            [0, 1], [0, 1], color=colour("ink"), linestyle=":", linewidth=0.9, label="uniform"
        )
        for name, share in shares.items():
            tint, line, width = looks[name]
            axes.plot(grid, share, color=tint, linestyle=line, linewidth=width, label=name)
        nominal = run.run.config.take_over.rate
        axes.axvline(nominal, color=colour("faint"), linewidth=1.2)
        axes.set_xlabel("p")
        axes.set_ylabel("share of p-values up to p")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.legend()

    off = float(np.abs(shares["all"] - grid).max())
    return Figure(
        f"p-values-{number}",
        f"Calibration of the p-values, {run.name}",
        f"The largest distance from the diagonal, which valid p-values follow, is {off:.3f} over "
        f"{len(everything):,} decisions. Vertical: the nominal take-over rate.",
        ("p", *(f"share up to p, {name}" for name in shares)),
        rows,
        draw,
    )


def _decisions(run: RunReport) -> list[tuple[Decision, ChainOutcome]]:
    return [
        (decision, run.graded.verdicts[chain.key].outcome)
        for chain in run.run.chains
        for _, decision in chain.decisions
    ]


def _scores(decisions: list[tuple[Decision, ChainOutcome]], *wanted: ChainOutcome) -> Values:
    return np.array([decision.score for decision, outcome in decisions if outcome in wanted])
