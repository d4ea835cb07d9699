"""A profile as tables: phases, intensities, the chains that ended last, and the budget."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from atts.analysis.budget_use import BudgetUse
from atts.analysis.profile import RunProfile
from atts.analysis.spans import PHASES
from atts.reports.summary_table import ABSENT, percent, plain_table
from atts.text import safe_markup


def tables(profiles: Sequence[tuple[str, RunProfile]]) -> Iterator[Table]:
    """Those of all runs, each with its name, and then those of each run."""
    yield phases_table(profiles)
    found = [each for _, each in profiles]
    if len({(each.method, each.samples) for each in found}) > 1:
        yield intensity_table(found)
    for name, each in profiles:
        if each.late_chains:
            yield late_table(name, each)
        if each.budget:
            yield budget_table(name, each.budget)


def warnings(name: str, found: RunProfile) -> Iterator[str]:
    """What must be known of the figures of a run."""
    if found.untimed:
        yield (
            f"{name}: {found.untimed} of {found.chains} chains have no times of their requests and "
            "are in no phase"
        )
    if found.undivided:
        yield (
            f"{name}: an engine told of requests only when they ended, so the time in its queue "
            "counts as computing, and r is too high"
        )


def phases_table(profiles: Sequence[tuple[str, RunProfile]]) -> Table:
    table = plain_table("Chain-seconds, and their share in %. r = compute / (held back + waiting).")
    table.add_column("", no_wrap=True)
    for name, _ in profiles:
        table.add_column(safe_markup(name), justify="right", overflow="fold")
    by_phase = [{time.phase: time for time in found.phases} for _, found in profiles]
    for phase in PHASES:
        if any(phase in times for times in by_phase):
            table.add_row(
                phase,
                *(
                    f"{times[phase].seconds:,.1f}  {100 * times[phase].share:4.1f}"
                    if phase in times
                    else ABSENT
                    for times in by_phase
                ),
            )
    found = [each for _, each in profiles]
    for label, figures in (
        ("compute, T_c", [f"{each.intensity.compute:,.1f}" for each in found]),
        ("held back, T_m", [f"{each.intensity.memory:,.1f}" for each in found]),
        ("waiting for chains, T_s", [f"{each.intensity.synchronisation:,.1f}" for each in found]),
        ("r = T_c / (T_m + T_s)", [_ratio(each.intensity.r) for each in found]),
        ("  T_c / T_s", [_ratio(each.intensity.r_sync) for each in found]),
        ("wall time, s", [f"{each.wall_seconds:,.1f}" for each in found]),
        ("chains", [f"{each.chains:,}" for each in found]),
        ("  in flight, mean", [f"{each.mean_chains:,.1f}" for each in found]),
        ("  in flight, most", [f"{each.most_chains:,}" for each in found]),
        (
            "last twentieth of chains, s",
            [f"{each.tail.seconds:,.1f}  {100 * each.tail.share:4.1f}" for each in found],
        ),
    ):
        table.add_row(label, *figures)
    return table


def intensity_table(profiles: Sequence[RunProfile]) -> Table:
    """The intensities by chains per problem and method."""
    methods = list(dict.fromkeys(found.method for found in profiles))
    table = plain_table("r by chains per problem, and T_c / T_s in brackets.")
    table.add_column("chains per problem", justify="right")
    for method in methods:
        table.add_column(method, justify="right")
    for samples in sorted({found.samples for found in profiles}):
        cells = []
        for method in methods:
            intensities = [
                f"{_ratio(found.intensity.r)} ({_ratio(found.intensity.r_sync)})"
                for found in profiles
                if (found.method, found.samples) == (method, samples)
            ]
            cells.append("\n".join(intensities) or ABSENT)
        table.add_row(str(samples), *cells)
    return table


def late_table(name: str, found: RunProfile) -> Table:
    table = plain_table(
        f"{safe_markup(name)}: the chains that ended last, and by what they were later than the "
        "mean chain."
    )
    for column in ("problem", "chain", "end", "ended, s", "took, s", "turns", "taken over"):
        table.add_column(column, justify="left" if column in ("problem", "end") else "right")
    table.add_column("why")
    for late in found.late_chains:
        table.add_row(
            safe_markup(late.problem_id),
            str(late.sample),
            late.end,
            f"{late.done:,.1f}",
            f"{late.seconds:,.1f}",
            str(late.turns),
            str(late.take_overs),
            late.why,
        )
    return table


def budget_table(name: str, budget: BudgetUse) -> Table:
    caps = f"{budget.per_turn.most} in a problem's turn"
    if budget.per_turn.allowed is not None:
        caps += f" of {budget.per_turn.allowed} allowed"
    if budget.in_flight:
        caps += f", {budget.in_flight.most} in flight"
        if budget.in_flight.allowed is not None:
            caps += f" of {budget.in_flight.allowed} allowed"
    table = plain_table(
        f"{safe_markup(name)}: the take-over rate over time, nominal {100 * budget.nominal:g} %. "
        f"Take-overs at most: {caps}. {budget.refused:,} were refused by a cap."
    )
    for column in ("decisions", "until, s", "rate, %", "so far, %"):
        table.add_column(column, justify="right")
    for part in budget.over_time:
        table.add_row(
            f"{part.first:,}-{part.first + part.decisions - 1:,}",
            ABSENT if part.until is None else f"{part.until:,.1f}",
            percent(part.realised),
            f"{100 * part.so_far:.1f}",
        )
    return table


def _ratio(ratio: float | None) -> str:
    return ABSENT if ratio is None else f"{ratio:,.2f}"
