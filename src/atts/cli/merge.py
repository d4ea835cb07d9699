"""``atts merge``: the shards of a run, put together."""

from pathlib import Path
from typing import Annotated

import typer

from atts.cli.commands import command_line, new_app
from atts.cli.progress import counting
from atts.cli.runs import default_directory
from atts.cli.terminal import (
    EXIT_CODES,
    FAILED,
    err,
    exit_if_failed,
    print_tables,
    say,
    say_guarantee,
)
from atts.grading.grader import Grader, VerdictCache
from atts.reports.summary_table import comparison
from atts.runs.merging import Merged
from atts.runs.merging import merge as merge_shards
from atts.store.contents import CONFIG, read_config
from atts.store.shards import shards_among

EXAMPLES = f"""Examples:

    atts merge runs/atts-1be15a13e53a9d30-shard-*
    atts merge shards/ --to runs/whole

With 1 it ends, too, where shards or chains are missing.

{EXIT_CODES}"""

_NAMED = 3
"""Missing chains of a shard that are named."""

app = new_app()


@app.command(epilog=EXAMPLES)
def merge(
    directories: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Directories of shards, or folders of them."),
    ],
    target: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="OUT",
            help="The run directory to write.",
            show_default="runs/METHOD-DIGEST, as atts run",
        ),
    ] = None,
) -> None:
    """Put the shards of a run together that atts run --shard has made.

    The run directory is one like any other: for report, compare, replay and profile. Where shards
    or chains are missing they are named, and atts run makes them there. In times it is as if all
    shards had begun at once. The shards stay as they are.
    """
    found = shards_among(directories)
    target = target or default_directory(read_config(found[0]))
    with (
        counting(err(), "grading") as progress,
        Grader(cache=VerdictCache(), progress=progress) as grader,
    ):
        merged = merge_shards(found, target, grader)
    say(f"Wrote {len(merged.run.chains)} chains of {len(found)} shards to {target}")
    go_on = command_line("atts", "run", "--config", target / CONFIG, "--out", target)
    if merged.summary is None:
        _say_missing(merged, go_on)
        raise typer.Exit(FAILED)
    print_tables([comparison([(target.name, merged.summary)])])
    say_guarantee(target.name, merged.summary, merged.run.config.take_over)
    exit_if_failed([(target, merged.summary)], f"{go_on} --retry-failed")


def _say_missing(merged: Merged, go_on: str) -> None:
    config, problems = merged.run.config, merged.shards[0].shard.problems
    for share in merged.absent:
        count = len(share.positions(problems))
        say(
            f"Shard {share} is missing: {count * config.samples} chains of {count} problems",
            style="red",
        )
    for each in merged.shards:
        if missing := each.missing:
            named = ", ".join(f"{key.problem_id} {key.sample}" for key in missing[:_NAMED])
            rest = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            say(
                f"Shard {each.shard.share} ({each.directory}) lacks {len(missing)} chains: "
                f"{named}{rest}",
                style="red",
            )
    say(f"Make them in their shards and merge again, or all of them here:\n  {go_on}")
