"""``atts demo``: the main job, with the models and the problems that come with atts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from atts.analysis.summary import Summary
from atts.cli import ending
from atts.cli.commands import command_line, new_app, resumable, same_command
from atts.cli.progress import Display
from atts.cli.terminal import EXIT_CODES, err, exit_if_failed, print_tables, say
from atts.config import Config, parse_config
from atts.engines.loading import require_in_process
from atts.errors import ConfigError, StoreError
from atts.grading.grader import Grader, VerdictCache
from atts.reports.summary_table import comparison
from atts.runs import jobs, setup
from atts.store.run_directory import former_defaults

PROBLEMS = 40
SAMPLES = 8
BASE: Mapping[str, Any] = {
    "turns": {"max_turns": 15, "draft_tokens": 32, "target_tokens": 24},
    "calibration": {"problems": {"split": "calibration", "count": 100}, "samples": 4},
    "limits": {"chains": 400, "chains_min": 400, "draft_requests": 400, "target_requests": 400},
}
"""What the demo changes of the default configuration."""

METHODS: Mapping[str, Mapping[str, Any]] = {
    "draft-only": {"method": "draft-only"},
    "target-only": {"method": "target-only"},
    "atts": {},
    "atts-marginal": {"take_over": {"control": "split", "coverage": "marginal"}},
}
"""The runs that are compared, and what each changes."""

FOLDER = Path("runs/demo")

app = new_app()


@app.command(epilog=f"Then: `atts problems show`, `atts run --help`.\n\n{EXIT_CODES}")
def demo(
    context: typer.Context,
    problems: Annotated[
        int, typer.Option("--problems", min=1, help="Problems to solve.")
    ] = PROBLEMS,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Chains per problem.")] = SAMPLES,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Where to; a demo that was stopped there goes on.",
            show_default="runs/demo/NUMBER",
        ),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh/--no-fresh",
            help="Without --out: start a new demo, or go on with the newest one.",
        ),
    ] = True,
) -> None:
    """Show what atts does, from calibration to a table that compares four ways to solve problems.

    The draft alone, the target alone, atts as it comes, and atts by a calibration made before solve
    the same problems, with two small language models that come with atts.
    """
    require_in_process()  # before there is a folder
    directory = directory or _numbered_folder(fresh)
    same: dict[str, object] = {"problems": problems, "samples": samples, "directory": directory}
    say(f"Writing to {directory}")
    with resumable(context, **same):
        summaries = ending.run(_demo(problems, samples, directory))
    print_tables([comparison(list(summaries.items()))])
    config = directory / "atts" / "config.yaml"
    say(f"Everything is in {directory}. To go on from here:")
    for text, parts in (
        ("this table again", ["report", *(directory / name for name in METHODS)]),
        ("the problems", ["problems", "show"]),
        (
            "another take-over rate",
            ["run", "--config", config, "--set", "take_over.rate=0.2"],
        ),
        ("your own models and problems", ["run", "--help"]),
    ):
        say(f"  {text}:\n    {command_line('atts', *parts)}")
    exit_if_failed(
        [(directory / name, summary) for name, summary in summaries.items()],
        same_command(context, **same),
    )


async def _demo(problems: int, samples: int, directory: Path) -> dict[str, Summary]:
    configs = demo_configs(problems, samples, directory)
    summaries = {}
    with Display(err()) as display, Grader(cache=VerdictCache()) as grader:
        for name, config in configs.items():
            # Anew for each, so that a model that runs alone has all cores.
            async with setup.open_models(config) as models:
                if path := config.take_over.calibration:
                    stage = display.stage(path.parent.name)
                    await jobs.calibrate(config, models, path.parent, stage)
                stage = display.stage(name)
                # On resuming, a chain that failed is tried again: the demo has no option for it.
                prepared = setup.prepare_run(config)
                made = await jobs.make_run(prepared, models, directory / name, grader, stage)
                summaries[name] = made.summary
    return summaries


def demo_configs(problems: int, samples: int, directory: Path) -> dict[str, Config]:
    """The configuration of each run of the demo, by the name of its folder in ``directory``."""
    configs = {}
    for name, changes in METHODS.items():
        tree = {**BASE, "problems": {"count": problems}, "samples": samples, **changes}
        if "take_over" in changes:
            path = directory / f"calibration-{changes['take_over']['coverage']}/calibration.json"
            tree["take_over"] = {**changes["take_over"], "calibration": str(path)}
        configs[name] = parse_config(tree, "the demo", former_defaults(directory / name))
    return configs


def _numbered_folder(fresh: bool) -> Path:
    """``runs/demo/001`` and so on: a new one, or the newest.

    Raises:
        ConfigError: there is no demo to go on with.
        StoreError: no folder can be made.
    """
    numbers = [int(path.name) for path in FOLDER.glob("*") if path.name.isdecimal()]
    newest = max(numbers, default=0)
    if not fresh:
        if not newest:
            raise ConfigError(f"there is no demo to go on with in {FOLDER}; leave out --no-fresh")
        return FOLDER / f"{newest:03}"
    try:
        while True:
            newest += 1
            directory = FOLDER / f"{newest:03}"
            try:
                directory.mkdir(parents=True)
            except FileExistsError:  # by another demo, at this moment
                continue
            return directory
    except OSError as error:
        raise StoreError(f"cannot make a folder in {FOLDER}: {error}; use --out") from error
