"""The figures of a report, each with its numbers: for the HTML page and for papers alike."""

from collections.abc import Sequence

from atts.analysis.report import RunReport
from atts.reports.figures.base import Figure
from atts.reports.figures.decisions import (
    p_values,
    rate_by_problem,
    rate_by_turn,
    rate_over_time,
    scores,
)
from atts.reports.figures.drawing import save_figures
from atts.reports.figures.outcomes import accuracy, cost, frontier, pass_at_k
from atts.reports.figures.times import intensity, phases, timeline

__all__ = ["Figure", "make_figures", "save_figures"]


def make_figures(runs: Sequence[RunReport]) -> list[Figure]:
    """All figures that the runs have numbers for."""
    together = [
        maker(runs)
        for maker in (
            accuracy,
            pass_at_k,
            frontier,
            cost,
            rate_by_turn,
            rate_by_problem,
            rate_over_time,
            phases,
            intensity,
        )
    ]
    alone = [
        maker(run, number)
        for number, run in enumerate(runs)
        for maker in (scores, p_values, timeline)
    ]
    return [figure for figure in (*together, *alone) if figure is not None]
