"""``atts suite``: a matrix of pairs, problem sets, methods and coverages, unattended."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from atts.analysis.summary import Summary
from atts.cli import ending
from atts.cli.commands import new_app, resumable
from atts.cli.options import Ray, opening
from atts.cli.progress import Display
from atts.cli.terminal import EXIT_CODES, FAILED, err, print_tables, say
from atts.grading.intervals import Interval
from atts.reports.table_layout import ABSENT, Figure, Sheet
from atts.runs.suite import Entry, EntryOutcome, PairServers, load_suite, run_suite

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
    ray: Ray = None,
    list_only: Annotated[bool, typer.Option("--list", help="Print the entries and exit.")] = False,
) -> None:
    """Run a matrix of model pairs, problem sets, methods and coverages, one after the other.

    For each pair the servers are started (with --ray on the cluster's nodes), calibrations are
    made where none fits, the entries are run, and the servers are ended. An entry that fails is
    reported and the others go on. The same command goes on where a suite was stopped, in the
    middle of an entry too.
    """
    directory = directory or Path("runs") / file.stem
    entries = load_suite(file, directory)
    if list_only:
        for entry in entries:
            typer.echo(f"{entry.pair}/{entry.name}")
        return
    with resumable(context, directory=directory):
        outcomes = ending.run(_run(entries, directory, ray))
    print_tables([_table(outcomes)])
    say(f"Everything is in {directory}; atts report compares any of the runs in detail.")
    if any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(FAILED)


async def _run(entries: list[Entry], directory: Path, ray: str | None) -> list[EntryOutcome]:
    with opening(ray) as opened, Display(err()) as display:
        return await run_suite(entries, directory, say, display.stage, opened, _servers(ray))


def _servers(ray: str | None) -> PairServers | None:
    if ray is None:
        return None
    from atts.cluster.connection import LOCAL
    from atts.cluster.pair_servers import PlacedServers

    return None if ray == LOCAL else PlacedServers(ray)


def _table(outcomes: list[EntryOutcome]) -> Sheet:
    def of_each(cell: Callable[[Summary], str]) -> list[str]:
        return [cell(each.summary) if each.summary else ABSENT for each in outcomes]

    def percent(found: Interval | None) -> str:
        return f"{100 * found.estimate:.1f}" if found else ABSENT

    return Sheet(
        things=[f"{entry.pair}/{entry.name}" for entry, *_ in outcomes],
        figures=[
            Figure("accuracy, %", of_each(lambda s: percent(s.accuracy))),
            Figure("majority, %", of_each(lambda s: percent(s.majority_vote))),
            Figure(
                "take-over, %",
                of_each(lambda s: percent(s.take_over.realised if s.take_over else None)),
            ),
            Figure("target tokens", of_each(lambda s: f"{s.tokens.target_written:,}")),
            Figure("wall, s", of_each(lambda s: f"{s.wall_seconds:,.0f}")),
            Figure(
                "status",
                [
                    f"{each.status}: {each.error.splitlines()[0]}" if each.error else each.status
                    for each in outcomes
                ],
                is_words=True,
            ),
        ],
        corner="run",
        as_rows=True,
    )
