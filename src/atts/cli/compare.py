"""``atts compare``: several methods over the same problems, side by side."""

from pathlib import Path
from typing import Annotated

import typer

from atts.analysis import comparison as analysis
from atts.analysis.comparison import Comparison
from atts.analysis.tokens import TokenBudget
from atts.cli import ending
from atts.cli.commands import new_app, resumable, same_command
from atts.cli.options import (
    AsJson,
    ConfigFile,
    Format,
    ProblemsFolder,
    Ray,
    Settings,
    opening,
    run_directories,
    with_folder,
)
from atts.cli.progress import Display, counting
from atts.cli.terminal import (
    EXIT_CODES,
    FAILED,
    echo_json,
    err,
    exit_if_failed,
    out,
    print_tables,
    say,
)
from atts.files import atomic_write
from atts.grading.grader import Grader, VerdictCache
from atts.reports.comparison_table import frontier_lines, table, to_csv
from atts.reports.plots import check_drawable, plot_frontiers
from atts.runs.candidates import (
    ComparisonPlan,
    is_method,
    named_runs,
    parse_candidates,
    prepare,
    reference_name,
    run_missing,
)

EXAMPLES = f"""Examples:

    atts compare target-only draft-only atts --set samples=8 --plot frontier.png
    atts compare target-only atts:take_over.rate=0.2 atts:take_over.rate=0.4 -c my.yaml
    atts compare runs/target-only-1234 runs/atts-5678 --budget 4000 --json

{EXIT_CODES}"""

app = new_app()


@app.command(epilog=EXAMPLES)
def compare(
    context: typer.Context,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="METHOD, METHOD:KEY=VALUE,... (keys as of --set), or a run directory, which is "
            "taken as it stands, or a folder of such.",
        ),
    ],
    config_file: ConfigFile = None,
    settings: Settings = None,
    problems_folder: ProblemsFolder = None,
    folder: Annotated[
        Path,
        typer.Option(
            "--out", metavar="DIR", help="Where runs and calibrations are kept, and looked for."
        ),
    ] = Path("runs"),
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="RUN",
            help="What the others are tested against.",
            show_default="the first target-only, else the first",
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget",
            min=0.0,
            metavar="TOKENS",
            help="Let each run count with as many chains as this pays for, in target-equivalent "
            "tokens a problem.",
            show_default="all chains",
        ),
    ] = None,
    draft_cost: Annotated[
        float,
        typer.Option(
            "--draft-cost",
            min=0.0,
            help="With --budget: what a token that the draft writes costs, in tokens that the "
            "target writes; about the ratio of the models' sizes.",
        ),
    ] = 0.1,
    score_cost: Annotated[
        float,
        typer.Option(
            "--score-cost",
            min=0.0,
            help="With --budget: what a token that the target scores costs. In arithmetic as much "
            "as one that it writes, in time far less.",
        ),
    ] = 1.0,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            help="Draw the frontiers of accuracy against target tokens: .png, .svg or .pdf.",
        ),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the figures as CSV.")
    ] = None,
    ray: Ray = None,
    form: Format = "text",
    as_json: AsJson = False,
) -> None:
    """Run several methods over the same problems and seeds, and put them side by side.

    Runs and calibrations that are already in the folder are used; what is missing is made, and the
    same command goes on where it was stopped. The table has accuracy, time, throughput, tokens of
    both models, and a paired test against the reference; below it stands which runs no other one
    beats on accuracy and target tokens. docs/comparing.md explains each row.
    """
    if plot:
        check_drawable(plot)
    settings = with_folder(settings, problems_folder)
    candidates = parse_candidates(_expanded(runs), config_file, settings or [], folder)
    limit = None
    if budget is not None:
        limit = TokenBudget(tokens=budget, draft_cost=draft_cost, score_cost=score_cost)
    plan = prepare(candidates, folder)
    chosen = reference_name(candidates, plan, reference)
    with resumable(context), Grader(cache=VerdictCache()) as grader:
        failed = ending.run(_run(plan, grader, ray, as_json)) if plan.missing else []
        if chosen in failed:
            say(f"The reference, {chosen}, could not be made: there is nothing to compare with")
            raise typer.Exit(FAILED)
        with counting(err(), "grading") as grader.progress:
            comparison = analysis.compare(named_runs(candidates, plan), chosen, grader, limit)
    if csv:
        atomic_write(csv, to_csv(comparison))
    if plot:
        plot_frontiers(comparison, plot)
    if as_json:
        echo_json(comparison.model_dump(mode="json"))
    else:
        print_tables([table(comparison)], form)
        if form == "text":
            _print_frontiers(comparison)
        _say_differences(comparison)
    for path in filter(None, (csv, plot)):
        say(f"Wrote {path}")
    exit_if_failed(
        [(Path(run.directory), run.summary) for run in comparison.runs],
        same_command(context),
    )
    if failed:
        raise typer.Exit(FAILED)


def _expanded(texts: list[str]) -> list[str]:
    """What was named, with the runs in place of folders."""
    folders = [text for text in texts if not is_method(text) and Path(text).is_dir()]
    if not folders:
        return texts
    found = run_directories(list(map(Path, folders)))
    expanded = []
    for text in texts:
        if text in folders:
            expanded += [str(run) for run in found if Path(text) in (run, run.parent)]
        else:
            expanded.append(text)
    return expanded


async def _run(plan: ComparisonPlan, grader: Grader, ray: str | None, as_json: bool) -> list[str]:
    with opening(ray) as opened, Display(err(), as_json) as display:
        return await run_missing(plan, grader, display.stage, say, opened)


def _print_frontiers(comparison: Comparison) -> None:
    console = out()
    console.print("\nThe frontiers: no other run is at least as accurate for no more tokens.")
    for line in frontier_lines(comparison):
        console.print(line, markup=False)


def _say_differences(comparison: Comparison) -> None:
    if comparison.left_out:
        say(
            f"{comparison.left_out} problems do not count: not all runs have them, with all chains "
            "done",
            style="yellow",
        )
    if comparison.differing:
        say(
            f"The runs also differ in {', '.join(comparison.differing)}: what is compared are not "
            "the methods alone",
            style="yellow",
        )
