"""``atts tune``: the cheapest take-over rate whose accuracy loss is certified."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from atts.api.jobs import CERTIFIABLE, RATES
from atts.cli import ending
from atts.cli.commands import CONFIGURATION, command_line, given, new_app, resumable
from atts.cli.options import ConfigFile, Settings
from atts.cli.progress import Display
from atts.cli.terminal import EXIT_CODES, FAILED, err, out, say
from atts.config import flatten, load_config
from atts.conformal.risk import Certificate, problems_needed
from atts.reports.summary_table import percent, plain_table
from atts.runs import setup, tuning
from atts.runs.tuning import Tuning, TuningPlan, prepare_tuning
from atts.store.contents import CALIBRATION, CERTIFICATE

EXAMPLES = f"""Examples:

    atts tune --set calibration.problems.count=300 --set samples=8
    atts tune --set calibration.problems.source=labelled.jsonl --loss 0.02 --confidence 0.95

It prints the atts run command to use next; reports of that run quote the certificate. Where the
problems are too few to certify anything, it says how many would do, before any work starts.

{EXIT_CODES}"""

app = new_app()


@app.command(epilog=EXAMPLES)
def tune(
    context: typer.Context,
    config_file: ConfigFile = None,
    settings: Settings = None,
    rates: Annotated[
        list[float] | None,
        typer.Option(
            "--rate",
            min=0.0,
            max=1.0,
            help="A take-over rate to try; may be repeated. They are tested from the highest down.",
            show_default="0.8 0.6 0.4 0.2",
        ),
    ] = None,
    loss: Annotated[
        float,
        typer.Option("--loss", help="Accuracy that may be lost against the target alone."),
    ] = 0.05,
    confidence: Annotated[float, typer.Option("--confidence", help="Of the certificate.")] = 0.9,
    directory: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Where to.", show_default="runs/tune-DIGEST"),
    ] = None,
) -> None:
    """Find the cheapest take-over rate that loses at most so much accuracy, with a certificate.

    Runs the target alone and each rate on labelled calibration problems (calibration.problems),
    and tests from the highest rate down whether the accuracy by majority vote is at most LOSS
    below that of the target alone. Problems that the run evaluates are not touched.
    """
    config = load_config(config_file, settings, CERTIFIABLE)
    tried = sorted(set(rates or RATES), reverse=True)
    plan = prepare_tuning(config, tried, loss, confidence)
    directory = directory or Path("runs") / f"tune-{config.digest()}"
    with resumable(context, directory=directory):
        found, certificate = ending.run(_tune(plan, directory, tried, loss, confidence))
    out().print(_frontier(found), soft_wrap=False)
    if certificate is None:
        say(_refusal(found), style="yellow")
        raise typer.Exit(FAILED)
    say(f"Take-over rate {certificate.rate:g} is {certificate.quote}. To use it:")
    use = ["--set", f"take_over.rate={certificate.rate:g}"]
    for key, value in flatten(CERTIFIABLE).items():
        use += ["--set", f"{key}={str(value).lower()}"]
    if certificate.calibration is not None:
        path = directory / f"calibration-{certificate.rate:g}" / CALIBRATION
        use += ["--set", f"take_over.calibration={path}"]
    use += ["--set", f"take_over.certificate={directory / CERTIFICATE}"]
    typer.echo(command_line("atts", "run", *given(context, CONFIGURATION), *use))


async def _tune(
    plan: TuningPlan, directory: Path, rates: list[float], loss: float, confidence: float
) -> tuple[Tuning, Certificate | None]:
    with Display(err()) as display:
        async with setup.open_models(plan.config, ("draft", "target")) as models:
            return await tuning.tune(
                plan, models, directory, rates, loss, confidence, display.stage
            )


def _frontier(tuning: Tuning) -> Table:
    table = plain_table(
        f"{tuning.problems} problems. Lost: right by the target alone, wrong here. p: chance of so "
        f"few losses if {100 * tuning.limit:g} % of all problems were lost; certified down to the "
        f"first above {1 - tuning.confidence:.2g}. Intervals are 95 %, clustered by problem."
    )
    table.add_column("take-over rate")
    for name in ("majority vote, %", "target tokens a chain", "lost", "p", "certified"):
        table.add_column(name, justify="right")
    for point in (tuning.target, *tuning.points):
        tokens = point.target_tokens
        alone = point.rate is None
        table.add_row(
            "target alone" if alone else f"{point.rate:g}",
            percent(point.majority_vote),
            f"{tokens.estimate:,.0f} ({tokens.low:,.0f}-{tokens.high:,.0f})",
            "-" if alone else str(point.losses),
            "-" if alone else f"{point.p_value:.2g}",
            "-" if alone else "yes" if point.certified else "no",
        )
    return table


def _refusal(tuning: Tuning) -> str:
    """Why nothing is certified, and what would do."""
    safest = tuning.points[0]
    share = safest.losses / tuning.problems
    needed = problems_needed(tuning.limit, 1.0 - tuning.confidence, share)
    return (
        f"No rate is certified: at {safest.rate:g}, the safest tried, {safest.losses} of "
        f"{tuning.problems} problems are lost. "
        + (
            f"If as large a share is lost of more problems, {needed} would do."
            if needed
            else "With such a share no number of problems would do: allow a larger --loss, or try "
            "higher rates."
        )
    )
