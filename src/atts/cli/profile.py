"""``atts profile``: where the time of runs went."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atts.cli.commands import new_app
from atts.cli.terminal import EXIT_CODES, out, say

if TYPE_CHECKING:
    from rich.table import Table

    from atts.analysis.budget_use import Budget
    from atts.analysis.profile import Profile

Profiles = list[tuple[str, "Profile"]]

EXAMPLES = f"""Examples:

    atts profile runs/atts-1234
    atts profile runs/atts-* runs/sync-ranking-* --trace trace.json

{EXIT_CODES}"""

app = new_app()


@app.command(epilog=EXAMPLES)
def profile(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    stragglers: Annotated[
        int, typer.Option("--stragglers", min=0, help="How many of the last chains to show.")
    ] = 5,
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace",
            metavar="FILE",
            help="Write a trace with a lane a chain, for https://ui.perfetto.dev.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with everything that was computed.")
    ] = False,
) -> None:
    """Show where the time of runs went: phases, waits, stragglers, and how the budget was kept.

    Every second of every chain belongs to one phase. r is the asynchronous arithmetic intensity
    (arXiv 2509.15148): chain-seconds of computing over chain-seconds of being held back by
    engines or waiting for other chains. docs/profiling.md says what exactly is counted.
    """
    from atts.analysis.profile import profile as profile_run
    from atts.analysis.report import run_names
    from atts.files import atomic_write
    from atts.store.run_directory import read_run

    names = run_names(runs)
    recorded = [read_run(directory) for directory in runs]
    if trace:
        from atts.reports.chrome_trace import chrome_trace

        atomic_write(trace, chrome_trace(list(zip(names, recorded, strict=True))))
        say(f"Wrote {trace}; open it at https://ui.perfetto.dev")
    profiles = [profile_run(run, stragglers) for run in recorded]
    if as_json:
        pairs = zip(runs, profiles, strict=True)
        content = [{"run": str(path), **found.model_dump(mode="json")} for path, found in pairs]
        typer.echo(json.dumps(content, indent=2))
        return
    named = list(zip(names, profiles, strict=True))
    out().print(_phases_table(named), soft_wrap=False)
    if len({(found.method, found.samples) for found in profiles}) > 1:
        out().print(_intensity_table(profiles), soft_wrap=False)
    for name, found in named:
        if found.late_chains:
            out().print(_late_table(name, found), soft_wrap=False)
        if found.budget:
            out().print(_budget_table(name, found.budget), soft_wrap=False)
        if found.untimed:
            say(
                f"{name}: {found.untimed} of {found.chains} chains have no times of their "
                "requests and are in no phase",
                style="yellow",
            )
        if found.undivided:
            say(
                f"{name}: an engine told of requests only when they ended, so the time in its "
                "queue counts as computing, and r is too high",
                style="yellow",
            )


def _phases_table(profiles: "Profiles") -> "Table":
    from atts.analysis.spans import PHASES
    from atts.reports.summary_table import ABSENT, plain_table
    from atts.text import safe_markup

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


def _intensity_table(profiles: "list[Profile]") -> "Table":
    """The intensities by chains per problem and method."""
    from atts.reports.summary_table import ABSENT, plain_table

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


def _late_table(name: str, found: "Profile") -> "Table":
    from atts.reports.summary_table import plain_table
    from atts.text import safe_markup

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


def _budget_table(name: str, budget: "Budget") -> "Table":
    from atts.reports.summary_table import ABSENT, percent, plain_table
    from atts.text import safe_markup

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
    from atts.reports.summary_table import ABSENT

    return ABSENT if ratio is None else f"{ratio:,.2f}"
