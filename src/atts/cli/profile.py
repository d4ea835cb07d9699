"""``atts profile``: where the time of runs went."""

from pathlib import Path
from typing import Annotated

import typer

from atts.analysis.profile import profile as profile_run
from atts.analysis.report import run_names
from atts.cli.commands import new_app
from atts.cli.terminal import EXIT_CODES, echo_json, out, say
from atts.files import atomic_write
from atts.reports.chrome_trace import chrome_trace
from atts.reports.profile_table import tables, warnings
from atts.store.run_directory import read_run

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
    for table in tables(named):
        out().print(table, soft_wrap=False)
    for name, found in named:
        for warning in warnings(name, found):
            say(warning, style="yellow")
