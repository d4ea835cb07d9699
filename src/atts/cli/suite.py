"""``atts suite``: a matrix of pairs, problem sets, methods and coverages, unattended."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from atts.cli import ending
from atts.cli.commands import new_app, resumable
from atts.cli.progress import Display
from atts.cli.terminal import EXIT_CODES, FAILED, err, out, say
from atts.runs.suite import Entry, EntryOutcome, load_suite, run_suite
from atts.text import safe_markup

EXAMPLES = f"""A suite's file names, on each axis, parts of a configuration:

    pairs: {{small: {{draft: {{model: ...}}, target: {{model: ...}}}}, large: large.yaml}}
    problems: {{maths: {{problems: {{source: my.jsonl, count: null}}}}}}
    methods: [target-only, atts]
    coverages: [marginal, conditional]

The folder configs/ of the source has one to start from.

{EXIT_CODES}"""

app = new_app()


@app.command(epilog=EXAMPLES)
def suite(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The suite, in YAML.")],
    directory: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where to.", show_default="runs/FILE"),
    ] = None,
    list_only: Annotated[bool, typer.Option("--list", help="Print the entries and exit.")] = False,
) -> None:
    """Run a matrix of model pairs, problem sets, methods and coverages, one after the other.

    For each pair the servers are started, calibrations are made where none fits, the entries are
    run, and the servers are ended. An entry that fails is reported and the others go on. The same
    command goes on where a suite was stopped, in the middle of an entry too.
    """
    directory = directory or Path("runs") / file.stem
    entries = load_suite(file, directory)
    if list_only:
        for entry in entries:
            typer.echo(f"{entry.pair}/{entry.name}")
        return
    with resumable(context, directory=directory):
        outcomes = ending.run(_run(entries, directory))
    out().print(_table(outcomes), soft_wrap=False)
    say(f"Everything is in {directory}; atts report compares any of the runs in detail.")
    if any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(FAILED)


async def _run(entries: list[Entry], directory: Path) -> list[EntryOutcome]:
    with Display(err()) as display:
        return await run_suite(entries, directory, say, display.stage)


def _table(outcomes: list[EntryOutcome]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("pair", overflow="fold")
    table.add_column("run", overflow="fold")
    for name in ("accuracy\n%", "majority\n%", "take-over\n%", "target\ntokens", "wall\ns"):
        table.add_column(name, justify="right")
    table.add_column("status", overflow="fold")
    for entry, summary, error, status in outcomes:
        cells = ["-"] * 5
        if summary:
            cells = [
                *(
                    f"{100 * found.estimate:.1f}" if found else "-"
                    for found in (summary.accuracy, summary.majority_vote)
                ),
                f"{100 * summary.take_over.realised.estimate:.1f}" if summary.take_over else "-",
                f"{summary.tokens.target_written:,}",
                f"{summary.wall_seconds:,.0f}",
            ]
        told = f"{status}: {error.splitlines()[0]}" if error else status
        table.add_row(safe_markup(entry.pair), safe_markup(entry.name), *cells, safe_markup(told))
    return table
