"""``atts calibrate`` and ``atts run``."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from atts.analysis.summary import Summary
from atts.cli.commands import (
    CONFIGURATION,
    command_line,
    given,
    new_app,
    resumable,
    same_command,
)
from atts.cli.options import AsJson, ConfigFile, ProblemsFolder, Settings, with_folder
from atts.cli.progress import Display
from atts.cli.terminal import (
    EXIT_CODES,
    echo_json,
    err,
    exit_if_failed,
    out,
    say,
    say_guarantee,
)
from atts.config import Config, load_config
from atts.reports.summary_table import comparison
from atts.runs import jobs
from atts.store.run_directory import CALIBRATION, config_yaml

CALIBRATE_EXAMPLES = f"""Examples:

    atts calibrate
    atts calibrate --set take_over.coverage=conditional --set take_over.rate=0.2

It prints the atts run command to use next.

{EXIT_CODES}"""

RUN_EXAMPLES = f"""The two models that come with atts, by a calibration made before:

    atts calibrate --set samples=8
    atts run --set samples=8 --set take_over.calibration=FILE

The target alone, to compare with, on a problem file of your own:

    atts run --set method=target-only --set problems.source=my.jsonl --set problems.count=null

Another method (docs/methods has a page for each), with its options in the group of its name:

    atts run --set method=specreason --set specreason.threshold=5

Every key, as a file to start your own from:

    atts run --show-config > my.yaml
    atts run --config my.yaml --set seed=1

Stopped or killed? The same command goes on where it was; finished chains are not done again.

{EXIT_CODES}"""

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
) -> None:
    """Make the calibration that decides when the target takes over.

    Marginal calibration runs chains on calibration problems, conditional calibration runs other
    chains on the problems of the run itself. Their scores are written to calibration.json.
    """
    settings = with_folder(settings, problems_folder)
    config = load_config(config_file, settings)
    # What is wrong with the input shows here, before the models are loaded.
    job = jobs.prepare_calibration(config)
    name = f"calibration-{config.take_over.coverage}-{job.config.digest()}"
    directory = directory or Path("runs") / name
    with resumable(context, directory=directory):
        asyncio.run(_calibrate(config, directory))
    path = directory / CALIBRATION
    say(f"Wrote {path}. To decide by it:")
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
        typer.Option("--out", metavar="DIR", help="Where to.", show_default="runs/METHOD-DIGEST"),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Do the chains that failed again.")
    ] = False,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print the resolved configuration and exit.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Solve problems by one method, or go on with a run that was stopped.

    A run directory is named after the digest of its configuration, so the same command resumes
    the same run.
    """
    settings = with_folder(settings, problems_folder)
    config = load_config(config_file, settings)
    if show_config:
        typer.echo(config_yaml(config), nl=False)
        return
    directory = directory or Path("runs") / f"{config.method}-{config.digest()}"
    with resumable(context, directory=directory):
        summary = asyncio.run(_run(config, directory, retry_failed, as_json))

    if as_json:
        echo_json({"run": str(directory), **summary.model_dump(mode="json")})
    else:
        out().print(comparison([(directory.name, summary)]), soft_wrap=False)
        say_guarantee(directory.name, summary, config.take_over.calibration is not None)
        say(f"Everything is in {directory}")
    exit_if_failed(
        [(directory, summary)], same_command(context, directory=directory, retry_failed=True)
    )


async def _calibrate(config: Config, directory: Path) -> None:
    jobs.check_directory(jobs.prepare_calibration(config), directory)
    with Display(err()) as display:
        async with jobs.open_models(config, ("draft", "target")) as models:
            await jobs.calibrate(config, models, directory, display.stage("calibration"))


async def _run(config: Config, directory: Path, retry_failed: bool, as_json: bool) -> Summary:
    # What is wrong shows before the models are loaded.
    jobs.check_directory(jobs.prepare_run(config), directory)
    with Display(err(), as_json) as display:
        async with jobs.open_models(config) as models:
            stage = display.stage(config.method)
            return await jobs.run(config, models, directory, stage, retry_failed)
