"""``atts calibrate`` and ``atts run``."""

from pathlib import Path
from typing import Annotated

import typer

from atts.analysis.summary import Summary, promised_rate
from atts.cli import ending
from atts.cli.commands import CONFIGURATION, command_line, given, new_app, resumable, same_command
from atts.cli.options import (
    AsJson,
    ConfigFile,
    ProblemsFolder,
    Ray,
    Settings,
    opening,
    with_folder,
)
from atts.cli.progress import Display
from atts.cli.terminal import (
    EXIT_CODES,
    echo_json,
    err,
    exit_if_failed,
    print_tables,
    say,
    say_guarantee,
)
from atts.config import Config, load_config
from atts.conformal.calibration import Calibration
from atts.reports.summary_table import comparison
from atts.runs import jobs, setup
from atts.store.contents import CALIBRATION, CHAINS
from atts.store.run_directory import config_yaml, former_defaults
from atts.store.shards import Share

CALIBRATE_EXAMPLES = f"""Examples:

    atts calibrate
    atts calibrate --set take_over.coverage=conditional --set take_over.rate=0.2

It prints the atts run command to use next.

{EXIT_CODES}"""

RUN_EXAMPLES = f"""The two models that come with atts; then from a calibration made before:

    atts run --set samples=8
    atts calibrate --set samples=8
    atts run --set samples=8 --set take_over.calibration=FILE

The target alone, to compare with, on a problem file of your own:

    atts run --set method=target-only --set problems.source=my.jsonl --set problems.count=null

Another method (docs/methods has a page for each), with its options in the group of its name:

    atts run --set method=specreason --set specreason.threshold=5

Every key, as a file to start your own from:

    atts run --show-config > my.yaml
    atts run --config my.yaml --set seed=1

The first eighth of the problems, in a job of its own, and all of them together:

    atts run --config my.yaml --shard 1/8
    atts merge runs/atts-1be15a13e53a9d30-shard-*

Stopped, killed, or the server was gone? The same command goes on where it was; finished chains are
not done again. Chains that failed are, if it was for want of a server.

{EXIT_CODES}"""

MANY = 1_000
"""Chains of which a new run says that they are many."""

app = new_app()


@app.command(epilog=CALIBRATE_EXAMPLES)
def calibrate(
    context: typer.Context,
    config_file: ConfigFile = None,
    settings: Settings = None,
    problems_folder: ProblemsFolder = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Where to.",
            show_default="runs/calibration-COVERAGE-DIGEST",
        ),
    ] = None,
    ray: Ray = None,
) -> None:
    """Make the calibration that decides when the target takes over.

    Marginal calibration runs chains on calibration problems, conditional calibration runs other
    chains on the problems of the run itself. Their scores are written to calibration.json.
    """
    settings = with_folder(settings, problems_folder)
    config = load_config(config_file, settings, former_defaults(directory))
    # What is wrong with the input shows here, before the models are loaded.
    prepared = setup.prepare_calibration(config)
    directory = directory or Path("runs") / setup.calibration_name(prepared)
    with resumable(context, directory=directory):
        prepared.check_directory(directory)
        calibration = ending.run(_calibrate(prepared, directory, ray))
    path = directory / CALIBRATION
    say(f"Wrote {path}, of {len(calibration.scores)} problems.")
    if promised := promised_rate(calibration, config.take_over):
        say(
            "By this one calibration alone (take_over.control=split) the target would take over "
            f"after {100 * promised.low:.1f} to {100 * promised.high:.1f} % of the segments of "
            f"problems like these, for a nominal {100 * config.take_over.rate:g} % (95 %, "
            "clustered by problem); adaptive control holds the rate."
        )
    say("To decide by it:")
    typer.echo(
        command_line(
            "atts", "run", *given(context, CONFIGURATION), "--set", f"take_over.calibration={path}"
        )
    )


@app.command(epilog=RUN_EXAMPLES)
def run(
    context: typer.Context,
    config_file: ConfigFile = None,
    settings: Settings = None,
    problems_folder: ProblemsFolder = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Where to.",
            show_default="runs/METHOD-DIGEST[-shard-I-of-N]",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N",
            help="Make the I-th of N equal shares of the problems alone, in a directory of its "
            "own, e.g. for array jobs; atts merge puts the shares together. Under split control "
            "they come out as in one run; adaptive and online control hold the rate in each share "
            "by itself. A calibration is made once, before.",
        ),
    ] = None,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed", help="Do again the chains that failed, for whatever reason."
        ),
    ] = False,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print the resolved configuration and exit.")
    ] = False,
    ray: Ray = None,
    as_json: AsJson = False,
) -> None:
    """Solve problems by one method, or go on with a run that was stopped.

    A run directory is named after the digest of its configuration, so the same command resumes
    the same run.
    """
    settings = with_folder(settings, problems_folder)
    config = load_config(config_file, settings, former_defaults(directory))
    if show_config:
        typer.echo(config_yaml(config), nl=False)
        return
    share = Share.parse(shard) if shard else None
    directory = directory or default_directory(config, share)
    with resumable(context, directory=directory):
        # What is wrong with the input shows here, before the models are loaded.
        prepared = setup.prepare_run(config)
        if share:
            prepared = prepared.share_of(share)
        prepared.check_directory(directory)
        if len(prepared.keys) >= MANY and not (directory / CHAINS).exists():
            say(
                f"{len(prepared.keys):,} chains: {len(prepared.problems):,} problems x "
                f"{config.samples}. atts advise says beforehand what that takes; --set "
                "problems.count=20 --set samples=4 is a small run."
            )
        summary = ending.run(_run(prepared, directory, retry_failed, ray, as_json))

    if as_json:
        echo_json({"run": str(directory), **summary.model_dump(mode="json")})
    else:
        print_tables([comparison([(directory.name, summary)])])
        say_guarantee(directory.name, summary, config.take_over)
        say(f"Everything is in {directory}")
    exit_if_failed(
        [(directory, summary)], same_command(context, directory=directory, retry_failed=True)
    )


def default_directory(config: Config, share: Share | None = None) -> Path:
    """The folder of a run, or of a share of it, where none is named."""
    name = f"{config.method}-{config.digest()}"
    return Path("runs") / (f"{name}-shard-{share.number}-of-{share.of}" if share else name)


async def _calibrate(prepared: setup.Setup, directory: Path, ray: str | None) -> Calibration:
    with opening(ray) as opened, Display(err()) as display:
        async with opened(prepared.config, ("draft", "target")) as models:
            return await jobs.calibrate(prepared, models, directory, display.stage("calibration"))


async def _run(
    prepared: setup.Setup, directory: Path, retry_failed: bool, ray: str | None, as_json: bool
) -> Summary:
    with opening(ray) as opened, Display(err(), as_json) as display:
        async with opened(prepared.config, None) as models:
            stage = display.stage(prepared.config.method)
            return await jobs.run(prepared, models, directory, stage, retry_failed)
