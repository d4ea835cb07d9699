"""``atts regrade``: grade a recorded run anew, without its models."""

import math
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Literal

import typer

from atts.api.jobs import corrected_problems
from atts.cli import ending
from atts.cli.commands import new_app, resumable, same_command
from atts.cli.progress import counting
from atts.cli.terminal import EXIT_CODES, FAILED, err, out, print_tables, say
from atts.config.secrets import key_in
from atts.errors import ConfigError
from atts.grading.grader import Grader, VerdictCache
from atts.grading.judge import Endpoint, Judge
from atts.reports.summary_table import comparison
from atts.runs import regrade as jobs
from atts.runs.regrade import Change, Regraded
from atts.store.grades import LEDGER
from atts.text import visible

SHOWN = 20
"""Changes that are printed; the others are counted."""


EXAMPLES = f"""Examples:

    atts regrade runs/atts-1234 --dry-run
    atts regrade runs/atts-1234 --judge both --model gpt-5.2
    atts regrade runs/atts-1234 --extract llm --base-url http://127.0.0.1:8000/v1 --model MODEL

{EXIT_CODES}"""

app = new_app()


@app.command(epilog=EXAMPLES)
def regrade(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    extract: Annotated[
        Literal["regex", "llm"],
        typer.Option("--extract", help="How answers are found in the stored reasoning."),
    ] = "regex",
    judge: Annotated[
        Literal["rules", "llm", "both"],
        typer.Option(
            "--judge",
            help="Whose verdict counts. both: that of the rules, and of the language model where "
            "they have none; reports how far they agree.",
        ),
    ] = "rules",
    base_url: Annotated[
        str | None,
        typer.Option(
            "--base-url",
            metavar="URL",
            envvar="OPENAI_BASE_URL",
            help="An OpenAI-compatible endpoint, e.g. http://127.0.0.1:8000/v1.",
            show_default="OpenAI's",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="NAME", envvar="OPENAI_MODEL", help="The model to ask there."
        ),
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=1, help="Requests in flight.")
    ] = 16,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.001, help="Longest time of a request, in seconds.")
    ] = 120.0,
    retries: Annotated[
        int, typer.Option("--retries", min=0, help="More tries of a request that fails.")
    ] = 5,
    seconds: Annotated[
        float,
        typer.Option("--seconds", min=0.001, help="Longest time of the rules for one answer."),
    ] = 5.0,
    problems: Annotated[
        str | None,
        typer.Option(
            "--problems",
            metavar="SOURCE",
            help="The set or file with the run's problems, to take corrected gold answers from.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print what would change; send nothing and write nothing. Replies that are "
            "already there are used.",
        ),
    ] = False,
) -> None:
    """Find and judge the answers of a run again, from its stored reasoning.

    No model of the run is needed. The run's chains stay as they are: grades.jsonl beside them
    holds each answer as it was and as it is now, and atts report goes by it. A key for the
    endpoint is taken from OPENAI_API_KEY. Every reply is kept in judge.jsonl, so the same command
    goes on where it was stopped, and asks nothing twice.
    """
    asked = extract == "llm" or judge != "rules"
    helper = None
    if asked:
        helper = Judge(
            Endpoint(_required(model), base_url, _key(base_url), concurrency, timeout, retries),
            run / LEDGER,
            offline=dry_run,
        )
    with resumable(context):
        result = ending.run(_regrade(run, extract, judge, helper, seconds, dry_run, problems))
    lacks = result.cost.failed > 0 and not dry_run
    if lacks:  # before all that follows from it
        say(
            f"{result.cost.failed} questions got no usable reply; the last error: {result.error}",
            style="red",
        )
    _print(run, result, dry_run)
    if lacks:
        say(f"What was done is kept. To go on from here:\n  {same_command(context)}")
        raise typer.Exit(FAILED)


async def _regrade(
    run: Path,
    extract: Literal["regex", "llm"],
    judge: Literal["rules", "llm", "both"],
    helper: Judge | None,
    seconds: float,
    dry_run: bool,
    source: str | None,
) -> Regraded:

    async with AsyncExitStack() as stack:
        if helper:
            await stack.enter_async_context(helper)
        asked = stack.enter_context(counting(err(), "questions to the model"))
        graded = stack.enter_context(counting(err(), "grading"))
        grader = stack.enter_context(Grader(seconds, cache=VerdictCache(), progress=graded))
        problems = corrected_problems(run, source) if source else None
        return await jobs.regrade(run, extract, judge, helper, grader, dry_run, asked, problems)


def _print(run: Path, result: Regraded, dry_run: bool) -> None:
    for change in result.changes[:SHOWN]:
        out().print(_line(change), markup=False)
    if len(result.changes) > SHOWN:
        out().print(f"... and {len(result.changes) - SHOWN} more")
    answers = sum(change.answer_before != change.answer_after for change in result.changes)
    out().print(f"{len(result.changes)} chains change, {answers} of them in their answer")
    if result.corrected:
        out().print(f"{len(result.corrected)} problems have another gold answer now")
    if result.ungraded:
        hint = "" if result.agreement or result.cost.requests else "; --judge both asks a model"
        for reason, count in result.ungraded.items():
            out().print(f"{count} answers are ungraded: {reason}{hint}")
    print_tables([comparison([("before", result.before), ("after", result.after)])])
    if agreement := result.agreement:
        kappa = "undefined" if math.isnan(agreement.kappa) else f"{agreement.kappa:.3f}"
        out().print(
            f"rules and language model agree on {100 * agreement.share:.1f} % of {sum(agreement)} "
            f"answers (Cohen's kappa {kappa}): both right {agreement.both_right}, only the rules "
            f"{agreement.only_rules}, only the model {agreement.only_llm}, both wrong "
            f"{agreement.both_wrong}"
        )
    cost = result.cost
    if any(cost):
        out().print(
            f"language model: {cost.requests} requests, {cost.prompt_tokens:,} prompt and "
            f"{cost.completion_tokens:,} completion tokens; {cost.reused} replies were there "
            "before"
        )
    if dry_run and cost.failed:
        say(f"Would ask the language model {cost.failed} questions; nothing was sent or written")
    elif dry_run:
        say("Nothing was written")
    elif result.written:
        say(f"Wrote {' and '.join(str(run / name) for name in result.written)}")
    else:
        say("Nothing was written: no question got a usable reply")


def _line(change: Change) -> str:
    verdicts = {True: "right", False: "wrong", None: "ungraded"}
    parts = []
    for answer, correct in (
        (change.answer_before, change.correct_before),
        (change.answer_after, change.correct_after),
    ):
        parts.append("no answer" if answer is None else f"{_short(answer)} ({verdicts[correct]})")
    where = f"{_short(change.key.problem_id)} / {change.key.sample}"
    return f"{where}: {parts[0]} -> {parts[1]}"


def _short(text: str) -> str:
    line = visible(" ".join(text.split()))
    return line if len(line) <= 60 else line[:57] + "..."


def _required(model: str | None) -> str:
    if not model:
        raise ConfigError("name the model to ask: --model NAME, or OPENAI_MODEL")
    return model


def _key(base_url: str | None) -> str | None:
    """The key, which only the environment holds: a command line can be read by others."""
    key = key_in("OPENAI_API_KEY")
    if not key and base_url is None:
        raise ConfigError(
            "OpenAI asks for a key: set OPENAI_API_KEY, or name another endpoint by --base-url"
        )
    return key
