"""``atts calibrate``, ``atts run`` and ``atts report``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atts.cli.terminal import FAILED, command_line, err, out, resumable, say

if TYPE_CHECKING:
    from atts.analysis.graded_run import ReportedRun
    from atts.analysis.summary import Summary
    from atts.config import Config

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FILE", help="A YAML configuration.", show_default="the defaults"
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one key of the configuration, e.g. take_over.rate=0.3; may be repeated. "
        "atts run --show-config prints every key.",
    ),
]

ProblemsFolder = Annotated[
    Path | None,
    typer.Option(
        "--problems-dir",
        metavar="DIR",
        help="A folder of JSONL files named after the problem sets; sets problems.folder.",
        show_default="the Hugging Face hub",
    ),
]

AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print the figures as JSON at the end; meanwhile standard error has the progress as "
        "JSON, an object a line.",
    ),
]


def calibrate(
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
    import asyncio

    from atts.config import load_config
    from atts.runs.jobs import prepare_calibration

    settings = with_folder(settings, problems_folder)
    config = load_config(config_file, settings)
    # What is wrong with the input shows here, before the models are loaded.
    job = prepare_calibration(config)
    name = f"calibration-{config.take_over.coverage}-{job.config.digest()}"
    directory = directory or Path("runs") / name
    same = given(config_file, settings)
    with resumable(["atts", "calibrate", *same, "--out", directory]):
        asyncio.run(_calibrate(config, directory))
    path = directory / "calibration.json"
    say(f"Wrote {path}. To decide by it:")
    typer.echo(command_line("atts", "run", *same, "--set", f"take_over.calibration={path}"))


def run(
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
    import asyncio

    from atts.config import load_config
    from atts.store.run_directory import config_yaml

    settings = with_folder(settings, problems_folder)
    config = load_config(config_file, settings)
    if show_config:
        typer.echo(config_yaml(config), nl=False)
        return
    directory = directory or Path("runs") / f"{config.method}-{config.digest()}"
    command = ["atts", "run", *given(config_file, settings), "--out", directory]
    with resumable([*command, "--retry-failed"] if retry_failed else command):
        summary = asyncio.run(_run(config, directory, retry_failed, as_json))

    if as_json:
        echo_json({"run": str(directory), **summary.model_dump(mode="json")})
    else:
        from atts.reports.summary_table import comparison

        out().print(comparison([(directory.name, summary)]), soft_wrap=False)
        say_grounds(directory.name, summary, config.take_over.calibration is not None)
        say(f"Everything is in {directory}")
    exit_if_failed([(directory, summary)], command_line(*command, "--retry-failed"))


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
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
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with everything that was computed.")
    ] = False,
) -> None:
    """Compare runs in one table, computed anew from their recorded chains; draw them, too."""
    from atts.analysis.graded_run import read_reported
    from atts.analysis.run_names import run_names
    from atts.cli.progress import counting
    from atts.grading.cache import VerdictCache
    from atts.grading.grader import Grader
    from atts.reports.summary_table import comparison

    names = run_names(runs)
    with (
        counting(err(), "grading") as progress,
        Grader(cache=VerdictCache(), progress=progress) as grader,
    ):
        reported = [
            read_reported(name, directory, grader)
            for name, directory in zip(names, runs, strict=True)
        ]
    if html or figures:
        _write_figures(reported, html, figures)
    summaries = [each.summary for each in reported]
    if as_json:
        pairs = zip(runs, summaries, strict=True)
        echo_json([{"run": str(path), **found.model_dump(mode="json")} for path, found in pairs])
        return
    out().print(comparison(list(zip(names, summaries, strict=True))), soft_wrap=False)
    for each in reported:
        say_grounds(each.name, each.summary, each.run.calibration is not None)


def _write_figures(reported: "list[ReportedRun]", html: Path | None, folder: Path | None) -> None:
    from atts.files import atomic_write
    from atts.reports.figures import make_figures, save_figures

    made = make_figures(reported)
    if html:
        from atts.reports.html import render_page

        atomic_write(html, render_page(reported, made))
        say(f"Wrote {html}")
    if folder:
        save_figures(made, folder)
        say(f"Wrote {len(made)} figures to {folder}")


def echo_json(figures: object) -> None:
    """Print figures as JSON.

    ASCII only, so that what a model wrote cannot reach the terminal as a control character.
    """
    typer.echo(json.dumps(figures, indent=2))


def say_grounds(name: str, summary: "Summary", calibrated: bool) -> None:
    """Quote the certificate of a run, and say what its drift alarm has found."""
    if summary.certificate:
        say(f"{name}: {summary.certificate.quote}")
    if summary.drift and (message := summary.drift.message(calibrated)):
        say(f"{name}: {message}", style="yellow")


def with_folder(settings: list[str] | None, folder: Path | None) -> list[str] | None:
    """The settings, and that of ``--problems-dir``."""
    if folder is None:
        return settings
    # JSON is YAML: a path with a colon or a brace in it stays one text.
    return [*(settings or []), f"problems.folder={json.dumps(str(folder))}"]


def exit_if_failed(runs: "list[tuple[Path, Summary]]", retry: str) -> None:
    """Say which runs have failed chains and how to do those again.

    Raises:
        typer.Exit: with 1, if a chain failed.
    """
    failed = [(path, summary) for path, summary in runs if summary.failed]
    for path, summary in failed:
        say(
            f"{summary.failed} of {summary.chains} chains failed and count as wrong; their errors "
            f"are in {path / 'chains.jsonl'}",
            style="red",
        )
    if failed:
        say(f"To do them again:\n  {retry}")
        raise typer.Exit(FAILED)


async def _calibrate(config: "Config", directory: Path) -> None:
    from atts.cli.progress import Display
    from atts.runs import jobs

    with Display(err()) as display:
        async with jobs.open_models(config, ("draft", "target")) as models:
            await jobs.calibrate(config, models, directory, display.stage("calibration"))


async def _run(config: "Config", directory: Path, retry_failed: bool, as_json: bool) -> "Summary":
    from atts.cli.progress import Display
    from atts.runs import jobs

    jobs.prepare_run(config)  # what is wrong shows before the models are loaded
    with Display(err(), as_json) as display:
        async with jobs.open_models(config) as models:
            stage = display.stage(config.method)
            return await jobs.run(config, models, directory, stage, retry_failed)


def given(config_file: Path | None, settings: list[str] | None) -> list[object]:
    """The options that give the same configuration again."""
    given: list[object] = [] if config_file is None else ["--config", config_file]
    for setting in settings or []:
        given += ["--set", setting]
    return given
