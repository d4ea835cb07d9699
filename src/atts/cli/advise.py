"""``atts advise``: whether and how ATTS pays, in minutes, before a long run."""

from pathlib import Path
from typing import Annotated

import typer

from atts.advice.advice import Advice
from atts.advice.advising import AdvicePlan, measure, not_probed, prepare_advice, recommended
from atts.advice.pilot import usual_ways
from atts.advice.probe import LEVELS
from atts.api.advise import LOSS, PROBLEMS, SAMPLES, SECONDS, recorded_advice
from atts.cli import ending
from atts.cli.commands import new_app, resumable
from atts.cli.options import (
    AsJson,
    ConfigFile,
    Format,
    ProblemsFolder,
    Settings,
    run_directories,
    with_folder,
)
from atts.cli.progress import Display
from atts.cli.terminal import EXIT_CODES, echo_json, err, print_tables, say
from atts.config import load_config
from atts.errors import ConfigError
from atts.files import atomic_write
from atts.grading.grader import Grader, VerdictCache
from atts.reports.advice_table import tables
from atts.store.run_directory import config_yaml

EXAMPLES = f"""Examples:

    atts advise -c my.yaml --write advised.yaml
    atts advise -c my.yaml --way atts:take_over.rate=0.1 --in-flight 64 --in-flight 512
    atts advise runs/target-only-1234 runs/atts-5678 --d 0.15 --s 0.05

{EXIT_CODES}"""

app = new_app()


@app.command(epilog=EXAMPLES)
def advise(
    context: typer.Context,
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN...]",
            help="Run directories, or folders of runs, one of the target alone: advise by these, "
            "without models.",
            show_default="measure the models of the configuration",
        ),
    ] = None,
    config_file: ConfigFile = None,
    settings: Settings = None,
    problems_folder: ProblemsFolder = None,
    directory: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where to.", show_default="runs/advise-DIGEST"),
    ] = None,
    ways: Annotated[
        list[str] | None,
        typer.Option(
            "--way",
            metavar="METHOD:KEY=VALUE,...",
            help="A way to try, besides target-only; may be repeated.",
            show_default="several rates, modes and lengths",
        ),
    ] = None,
    in_flight: Annotated[
        list[int] | None,
        typer.Option(
            "--in-flight",
            min=1,
            metavar="N",
            help="Chains in flight to measure and to predict; may be repeated.",
            show_default=" ".join(map(str, LEVELS)),
        ),
    ] = None,
    problems: Annotated[
        int, typer.Option("--problems", min=2, help="Calibration problems of the pilot.")
    ] = PROBLEMS,
    samples: Annotated[
        int, typer.Option("--samples", min=1, help="Chains of the pilot for each of them.")
    ] = SAMPLES,
    loss: Annotated[
        float, typer.Option("--loss", help="Accuracy of a chain that may be lost.")
    ] = LOSS,
    seconds: Annotated[
        float,
        typer.Option("--seconds", min=0.0, help="About the most for the probe of the engines."),
    ] = SECONDS,
    draft_cost: Annotated[
        float | None,
        typer.Option(
            "--d",
            min=0.0,
            help="With RUN and --s: what a token costs that the draft writes, in those that the "
            "target writes.",
            show_default="the runs' own times count",
        ),
    ] = None,
    score_cost: Annotated[
        float | None,
        typer.Option("--s", min=0.0, help="What a token costs that the target scores."),
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option(
            "--prices", metavar="FILE", help="With RUN: the advice.json whose measured prices hold."
        ),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option("--write", metavar="FILE", help="Write the recommended configuration."),
    ] = None,
    auto: Annotated[
        bool,
        typer.Option(
            "--auto",
            help="With --write: method=auto, which begins as advised and goes on measuring.",
        ),
    ] = False,
    form: Format = "text",
    as_json: AsJson = False,
) -> None:
    """Measure a pair and its engines for some minutes, and say whether and how ATTS pays.

    A pilot on calibration problems tells accuracy, tokens and turns of several ways; a probe tells
    what drafting, scoring and writing take by how many chains are in flight. What follows is
    predicted, with what limits it and what to take. docs/advise.md explains each figure.
    """
    config = load_config(config_file, with_folder(settings, problems_folder))
    levels = in_flight or LEVELS
    if (draft_cost is None) != (score_cost is None):
        raise ConfigError("--d and --s are given together")
    costs = None
    if draft_cost is not None and score_cost is not None:
        costs = (draft_cost, score_cost)
    if runs:
        advice = recorded_advice(run_directories(runs), loss, costs, prices, in_flight or ())
        if left_out := not_probed(advice, in_flight or ()):
            say(
                f"Not predicted: {', '.join(map(str, left_out))} in flight, of which {prices} has "
                "no prices: atts advise -c CONFIG --in-flight N probes them"
            )
    else:
        if costs or prices:
            raise ConfigError("--d, --s and --prices are for stored runs: name their directories")
        place = directory or Path("runs") / f"advise-{config.digest()}"
        tried = ways or usual_ways(config)
        plan = prepare_advice(config, tried, place, problems, samples, levels, loss, seconds)
        with resumable(context, directory=place):
            advice = ending.run(_measure(plan, as_json))
    if as_json:
        echo_json(advice.model_dump(mode="json"))
    else:
        print_tables(tables(advice), form)
    say(advice.why)
    if write:
        atomic_write(write, config_yaml(recommended(config, advice, auto)))
        say(f"Wrote {write}: atts run -c {write}")


async def _measure(plan: AdvicePlan, as_json: bool) -> Advice:
    with Grader(cache=VerdictCache()) as grader, Display(err(), as_json) as display:
        return await measure(plan, grader, display.stage, say)
