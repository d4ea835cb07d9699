"""``atts report`` and ``atts profile``: what recorded runs came to, and where their time went."""

from pathlib import Path
from typing import Annotated

import typer

from atts.analysis.labels import run_names
from atts.analysis.profile import profile as profile_run
from atts.analysis.report import RunReport, read_reports
from atts.cli.commands import new_app
from atts.cli.options import Format, RunFolders, run_directories
from atts.cli.progress import counting
from atts.cli.terminal import EXIT_CODES, echo_json, err, out, print_tables, say
from atts.files import atomic_write
from atts.grading.grader import Grader, VerdictCache
from atts.reports.chrome_trace import chrome_trace
from atts.reports.figures import make_figures, save_figures
from atts.reports.html import render_page
from atts.reports.notes import alarms, certificates, said_once
from atts.reports.profile_table import tables, warnings
from atts.reports.summary_table import comparison
from atts.reports.verdict import verdicts
from atts.store.run_directory import read_run
from atts.text import visible

REPORT_EXAMPLES = f"""Examples:

    atts report runs/target-only-* runs/atts-*
    atts report runs/*
    atts report runs/demo/001
    atts report runs/demo/001/target-only --json
    atts report runs/demo/001 --format md > table.md
    atts report runs/demo/001 --html report.html --figures figures/

{EXIT_CODES}"""

app = new_app()


@app.command(epilog=REPORT_EXAMPLES)
def report(
    runs: RunFolders,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Write one HTML file that needs no network: the figures, and the chains to read.",
        ),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            "--figures", metavar="DIR", help="Write each figure as PNG, SVG and CSV, for papers."
        ),
    ] = None,
    form: Format = "text",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with everything that was computed.")
    ] = False,
) -> None:
    """Compare runs in one table, computed anew from their recorded chains; draw them, too."""
    runs = run_directories(runs)
    with (
        counting(err(), "grading") as progress,
        Grader(cache=VerdictCache(), progress=progress) as grader,
    ):
        reported = read_reports(runs, grader)
    if html or figures:
        _write_figures(reported, html, figures)
    said = verdicts(reported)
    if as_json:
        echo_json(
            [
                {"run": str(each.directory), "label": each.name, "verdict": said[each.name]}
                | each.summary.model_dump(mode="json")
                for each in reported
            ]
        )
        return
    if form == "text":
        for sentence in said.values():
            out().print(visible(sentence), markup=False, highlight=False)
        typer.echo()
    print_tables([comparison([(each.name, each.summary) for each in reported])], form)
    for note in certificates(reported):
        say(note)
    for note in alarms(reported):
        say(note, style="yellow")


def _write_figures(reported: list[RunReport], html: Path | None, folder: Path | None) -> None:
    made = make_figures(reported)
    if html:
        atomic_write(html, render_page(reported, made))
        say(f"Wrote {html}")
    if folder:
        save_figures(made, folder)
        say(f"Wrote {len(made)} figures to {folder}")


PROFILE_EXAMPLES = f"""Examples:

    atts profile runs/atts-1234
    atts profile runs/atts-* runs/sync-ranking-* --trace trace.json

{EXIT_CODES}"""


@app.command(epilog=PROFILE_EXAMPLES)
def profile(
    runs: RunFolders,
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
    form: Format = "text",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with everything that was computed.")
    ] = False,
) -> None:
    """Show where the time of runs went: phases, waits, stragglers, and how the budget was kept.

    Every second of every chain belongs to one phase. r is the asynchronous arithmetic intensity
    (arXiv 2509.15148): chain-seconds of computing over chain-seconds of being held back by
    engines or waiting for other chains. docs/profiling.md says what exactly is counted.
    """
    runs = run_directories(runs)
    names = run_names(runs)
    recorded = [read_run(directory) for directory in runs]
    if trace:
        atomic_write(trace, chrome_trace(list(zip(names, recorded, strict=True))))
        say(f"Wrote {trace}; open it at https://ui.perfetto.dev")
    profiles = [profile_run(run, stragglers) for run in recorded]
    if as_json:
        pairs = zip(runs, profiles, strict=True)
        echo_json([{"run": str(path), **found.model_dump(mode="json")} for path, found in pairs])
        return
    named = list(zip(names, profiles, strict=True))
    print_tables(tables(named), form)
    warned = [(name, warning) for name, found in named for warning in warnings(found)]
    for note in said_once(warned, len(named)):
        say(note, style="yellow")
