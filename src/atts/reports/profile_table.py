"""A profile as tables: phases, intensities, the chains that ended last, and the budget."""

from collections.abc import Iterator, Sequence

from atts.analysis.budget_use import BudgetUse
from atts.analysis.profile import RunProfile
from atts.analysis.spans import PHASES
from atts.reports.summary_table import heading, percent
from atts.reports.table_layout import ABSENT, Figure, Sheet


def tables(profiles: Sequence[tuple[str, RunProfile]]) -> Iterator[Sheet]:
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


def warnings(found: RunProfile) -> Iterator[str]:
    """What must be known of the figures of a run."""
    if found.untimed:
        yield (
            f"{found.untimed} of {found.chains} chains have no times of their requests and "
            "are in no phase"
        )
    if found.undivided:
        yield (
            "an engine told of requests only when they ended, so the time in its queue counts as "
            "computing, and r is too high"
        )


def phases_table(profiles: Sequence[tuple[str, RunProfile]]) -> Sheet:
    found = [each for _, each in profiles]
    by_phase = [{time.phase: time for time in each.phases} for each in found]
    figures = [
        Figure(
            phase,
            [
                _seconds(times[phase].seconds, times[phase].share) if phase in times else ABSENT
                for times in by_phase
            ],
        )
        for phase in PHASES
        if any(phase in times for times in by_phase)
    ]
    figures += [
        Figure("compute, T_c", [f"{each.intensity.compute:,.1f}" for each in found]),
        Figure("held back, T_m", [f"{each.intensity.memory:,.1f}" for each in found]),
        Figure(
            "waiting for chains, T_s", [f"{each.intensity.synchronisation:,.1f}" for each in found]
        ),
        Figure("r = T_c / (T_m + T_s)", [_ratio(each.intensity.r) for each in found]),
        Figure("  T_c / T_s", [_ratio(each.intensity.r_sync) for each in found]),
        Figure("wall time, s", [f"{each.wall_seconds:,.1f}" for each in found]),
        Figure("chains", [f"{each.chains:,}" for each in found]),
        Figure("  in flight, mean", [f"{each.mean_chains:,.1f}" for each in found]),
        Figure("  in flight, most", [f"{each.most_chains:,}" for each in found]),
        Figure(
            "last twentieth of chains, s",
            [_seconds(each.tail.seconds, each.tail.share) for each in found],
        ),
    ]
    return Sheet(
        things=[heading(name) for name, _ in profiles],
        figures=figures,
        caption="Chain-seconds, and their share in %. r = compute / (held back + waiting).",
    )


def intensity_table(profiles: Sequence[RunProfile]) -> Sheet:
    """The intensities by chains per problem and method."""

    def cell(method: str, samples: int) -> str:
        intensities = [
            f"{_ratio(found.intensity.r)} ({_ratio(found.intensity.r_sync)})"
            for found in profiles
            if (found.method, found.samples) == (method, samples)
        ]
        return "\n".join(intensities) or ABSENT

    methods = list(dict.fromkeys(found.method for found in profiles))
    return Sheet(
        things=methods,
        figures=[
            Figure(str(samples), [cell(method, samples) for method in methods])
            for samples in sorted({found.samples for found in profiles})
        ],
        caption="r by chains per problem, and T_c / T_s in brackets.",
        corner="chains per problem",
    )


def late_table(name: str, found: RunProfile) -> Sheet:
    late = found.late_chains
    return Sheet(
        things=[each.problem_id for each in late],
        figures=[
            Figure("chain", [str(each.sample) for each in late]),
            Figure("end", [each.end for each in late], is_words=True),
            Figure("ended, s", [f"{each.done:,.1f}" for each in late]),
            Figure("took, s", [f"{each.seconds:,.1f}" for each in late]),
            Figure("turns", [str(each.turns) for each in late]),
            Figure("taken over", [str(each.take_overs) for each in late]),
            Figure("why", [each.why for each in late], is_words=True),
        ],
        caption=f"{name}: the chains that ended last, and by what they were later than the mean "
        "chain.",
        corner="problem",
        as_rows=True,
    )


def budget_table(name: str, budget: BudgetUse) -> Sheet:
    caps = f"{budget.per_turn.most} in a problem's turn"
    if budget.per_turn.allowed is not None:
        caps += f" of {budget.per_turn.allowed} allowed"
    if budget.in_flight:
        caps += f", {budget.in_flight.most} in flight"
        if budget.in_flight.allowed is not None:
            caps += f" of {budget.in_flight.allowed} allowed"
    parts = budget.over_time
    return Sheet(
        things=[f"{part.first:,}-{part.first + part.decisions - 1:,}" for part in parts],
        figures=[
            Figure("until, s", [ABSENT if p.until is None else f"{p.until:,.1f}" for p in parts]),
            Figure("rate, %", [percent(part.realised) for part in parts]),
            Figure("so far, %", [f"{100 * part.so_far:.1f}" for part in parts]),
        ],
        caption=f"{name}: the take-over rate over time, nominal {100 * budget.nominal:g} %. "
        f"Take-overs at most: {caps}. {budget.refused:,} were refused by a cap.",
        corner="decisions",
        as_rows=True,
    )


def _seconds(seconds: float, share: float) -> str:
    return f"{seconds:,.1f}  {100 * share:4.1f}"


def _ratio(ratio: float | None) -> str:
    return ABSENT if ratio is None else f"{ratio:,.2f}"
