"""Simulated runs, and a fit, as tables."""

from collections.abc import Sequence

from rich.table import Table

from atts.methods import METHODS
from atts.reports.comparison_table import heading
from atts.reports.summary_table import ABSENT, plain_table
from atts.simulation.fit import Fit
from atts.simulation.simulate import SimulationOutcome
from atts.text import safe_markup


def outcomes_table(outcomes: Sequence[SimulationOutcome], gpu: str, shared: bool) -> Table:
    """One row an outcome, with its speedup over target-only with as many chains in flight and as
    many GPUs of the target.
    """

    def setting(outcome: SimulationOutcome) -> tuple[int, int]:
        return outcome.chains_in_flight, outcome.target.gpus if outcome.target else 0

    alone = {setting(o): o.wall_seconds for o in outcomes if METHODS[o.method].is_reference}
    first = outcomes[0]
    sharing = "shared by both models" if shared else "draft + target"
    table = plain_table(
        f"{first.chains:,} chains of {first.problems:,} problems, simulated; so many chains in "
        f"flight. GPUs: {gpu}, {sharing}. Speedup: over target-only with as many chains in flight "
        "and GPUs of the target. Busy: share of the time with a request to work on, draft/target, "
        "in %. Cache: largest share taken by running requests. Queue: mean over the target's "
        "requests. Barrier: mean over chains of the time spent waiting for others."
    )
    table.add_column("method", overflow="fold")
    names = ("chains", "GPUs", "wall", "speedup", "busy", "cache", "queue", "barrier")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for each in outcomes:
        reference = alone.get(setting(each))
        uses = [use for use in (each.draft, each.target) if use]
        table.add_row(
            safe_markup(heading(each.name)),
            f"{each.chains_in_flight:,}",
            str(uses[0].gpus) if shared else "+".join(str(use.gpus) for use in uses),
            duration(each.wall_seconds),
            f"{reference / each.wall_seconds:.2f}" if reference else ABSENT,
            _shares([use.busy if use else None for use in (each.draft, each.target)]),
            _shares([use.peak_cache if use else None for use in (each.draft, each.target)]),
            duration(each.target.queued_seconds) if each.target else ABSENT,
            duration(each.waited_seconds) if each.waited_seconds else ABSENT,
        )
    return table


def _shares(shares: Sequence[float | None]) -> str:
    """Percentages of both models.

    >>> _shares([None, 0.5])
    '-/50'
    """
    return "/".join(ABSENT if share is None else f"{100 * share:.0f}" for share in shares)


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(0.25), duration(75.0), duration(10_000.0)
    ('0.25 s', '1.2 min', '2.8 h')
    """
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def fit_table(found: Fit) -> Table:
    table = plain_table(
        f"{found.requests:,} requests of {found.run}. Error: simulated over measured seconds, "
        "median (middle 80 %), on chains that the fit did not see. Wall time: simulated "
        f"{duration(found.simulated_wall_seconds)}, measured "
        f"{duration(found.measured_wall_seconds)}."
    )
    for name in ("phase", "requests", "measured, mean", "simulated, mean", "ratio, median"):
        table.add_column(name, justify="left" if name == "phase" else "right")
    for phase in found.phases:
        table.add_row(
            phase.phase,
            f"{phase.requests:,}",
            f"{phase.measured_seconds:.4f} s",
            f"{phase.simulated_seconds:.4f} s",
            f"{phase.ratio:.2f} ({phase.low:.2f}-{phase.high:.2f})",
        )
    return table
