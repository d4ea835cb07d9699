"""Simulated runs, and a fit, as tables."""

from collections.abc import Sequence

from atts.methods import METHODS
from atts.reports.summary_table import heading
from atts.reports.table_layout import ABSENT, Figure, Sheet
from atts.simulation.fit import Fit
from atts.simulation.simulate import SimulationOutcome


def outcomes_table(outcomes: Sequence[SimulationOutcome], gpu: str, shared: bool) -> Sheet:
    """One row an outcome, with its speedup over target-only with as many chains in flight and as
    many GPUs in all.
    """

    def setting(outcome: SimulationOutcome) -> tuple[int, int]:
        gpus = [use.gpus for use in (outcome.draft, outcome.target) if use]
        return outcome.chains_in_flight, max(gpus) if shared else sum(gpus)

    alone: dict[tuple[int, int], float] = {}
    for each in outcomes:
        if METHODS[each.method].is_reference:  # the first of them, if several decode differently
            alone.setdefault(setting(each), each.wall_seconds)
    first = outcomes[0]
    sharing = "shared by both models" if shared else "draft + target"
    rows = []
    for each in outcomes:
        reference = alone.get(setting(each))
        both = (each.draft, each.target)
        gpus = [str(use.gpus) for use in both if use]
        rows.append(
            (
                f"{each.chains_in_flight:,}",
                gpus[0] if shared else "+".join(gpus),
                duration(each.wall_seconds),
                f"{reference / each.wall_seconds:.2f}" if reference else ABSENT,
                _shares([use.busy if use else None for use in both]),
                _shares([use.peak_cache if use else None for use in both]),
                duration(each.target.queued_seconds) if each.target else ABSENT,
                duration(each.waited_seconds) if each.waited_seconds else ABSENT,
            )
        )
    labels = ("chains", "GPUs", "wall", "speedup", "busy", "cache", "queue", "barrier")
    return Sheet(
        things=[heading(each.name) for each in outcomes],
        figures=list(map(Figure, labels, zip(*rows, strict=True))),
        caption=f"{first.chains:,} chains of {first.problems:,} problems, simulated; so many "
        f"chains in flight. GPUs: {gpu}, {sharing}. Speedup: over the first target-only with as "
        "many chains in flight and GPUs. Busy: share of the time with a request to work on, "
        "draft/target, in %. Cache: largest share taken by running requests. Queue: mean over the "
        "target's requests. Barrier: mean over chains of the time spent waiting for others.",
        corner="method",
        as_rows=True,
    )


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


def fit_table(found: Fit) -> Sheet:
    phases = found.phases
    return Sheet(
        things=[phase.phase for phase in phases],
        figures=[
            Figure("requests", [f"{phase.requests:,}" for phase in phases]),
            Figure("measured, mean", [f"{phase.measured_seconds:.4f} s" for phase in phases]),
            Figure("simulated, mean", [f"{phase.simulated_seconds:.4f} s" for phase in phases]),
            Figure(
                "ratio, median",
                [f"{phase.ratio:.2f} ({phase.low:.2f}-{phase.high:.2f})" for phase in phases],
            ),
        ],
        caption=f"{found.requests:,} requests of {found.run}. Error: simulated over measured "
        "seconds, median (middle 80 %), on chains that the fit did not see. Wall time: simulated "
        f"{duration(found.simulated_wall_seconds)}, measured "
        f"{duration(found.measured_wall_seconds)}.",
        corner="phase",
        as_rows=True,
    )
