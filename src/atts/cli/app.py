"""The commands, put together."""

from typing import Annotated

import typer

from atts.cli.compare import compare
from atts.cli.demo import demo
from atts.cli.doctor import doctor
from atts.cli.exchange import export, import_
from atts.cli.problems import app as problems_app
from atts.cli.profile import profile
from atts.cli.regrade import regrade
from atts.cli.replay import replay
from atts.cli.runs import calibrate, report, run
from atts.cli.servers import app as servers_app
from atts.cli.simulate import simulate
from atts.cli.suite import suite
from atts.cli.terminal import EXIT_CODES, Commands
from atts.cli.tune import tune

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    # Rich would take longer to load than all the rest.
    rich_markup_mode=None,
    # Local variables could hold a key for a model server.
    pretty_exceptions_show_locals=False,
    epilog=f"Start with: atts demo\n\n{EXIT_CODES}",
)


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"atts {version('atts')}")
        raise typer.Exit


@app.callback()
def atts(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Asynchronous test-time scaling: a small draft model writes, a large target model scores,
    and each chain decides by itself, at once, whether the target takes over.
    """


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

REPORT_EXAMPLES = f"""Examples:

    atts report runs/target-only-* runs/atts-*
    atts report runs/demo/001/target-only --json
    atts report runs/demo/001/atts-* --html report.html --figures figures/

{EXIT_CODES}"""

PROFILE_EXAMPLES = f"""Examples:

    atts profile runs/atts-1234
    atts profile runs/atts-* runs/sync-ranking-* --trace trace.json

{EXIT_CODES}"""

TUNE_EXAMPLES = f"""Examples:

    atts tune --set calibration.problems.count=300 --set samples=8
    atts tune --set calibration.problems.source=labelled.jsonl --loss 0.02 --confidence 0.95

It prints the atts run command to use next; reports of that run quote the certificate. Where the
problems are too few to certify anything, it says how many would do, before any work starts.

{EXIT_CODES}"""

COMPARE_EXAMPLES = f"""Examples:

    atts compare target-only draft-only atts --set samples=8 --plot frontier.png
    atts compare target-only atts:take_over.rate=0.2 atts:take_over.rate=0.4 -c my.yaml
    atts compare runs/target-only-1234 runs/atts-5678 --budget 4000 --json

{EXIT_CODES}"""

REPLAY_EXAMPLES = f"""Examples:

    atts replay runs/demo/001/atts-marginal
    atts replay trace.jsonl.gz --rate 0.2 --rate 0.4 --control online --control adaptive
    atts replay trace.jsonl.gz --control split,by_turn=false,calibration=ppls.npy --plot rates.png

Only scores are replayed: had a control taken over elsewhere, the text and so the later scores
would have been others. docs/statistics.md says what each control guarantees.

{EXIT_CODES}"""

REGRADE_EXAMPLES = f"""Examples:

    atts regrade runs/atts-1234 --dry-run
    atts regrade runs/atts-1234 --judge both --model gpt-5.2
    atts regrade runs/atts-1234 --extract llm --base-url http://127.0.0.1:8000/v1 --model MODEL

{EXIT_CODES}"""

IMPORT_EXAMPLES = f"""Examples:

    atts import results/my_math500_run --problems math500/paper --out runs/imported
    atts import ppls_math500.npy --config my.yaml --out calibration.json

{EXIT_CODES}"""

EXPORT_EXAMPLES = f"""Examples:

    atts export runs/atts-1234 chains.parquet --format parquet
    atts export runs/atts-1234 results/atts-1234 --format reference

{EXIT_CODES}"""

SUITE_EXAMPLES = f"""A suite's file names, on each axis, parts of a configuration:

    pairs: {{small: {{draft: {{model: ...}}, target: {{model: ...}}}}, large: large.yaml}}
    problems: {{maths: {{problems: {{source: my.jsonl, count: null}}}}}}
    methods: [target-only, atts]
    coverages: [marginal, conditional]

The folder configs/ of the source has one to start from.

{EXIT_CODES}"""

SIMULATE_EXAMPLES = f"""Which method, on how many GPUs, with how many chains in flight:

    atts simulate --workload trace.jsonl.gz --set draft.model=DeepSeek-R1-Distill-Llama-8B \\
        --set target.model=QwQ-32B --target-gpus 2 --chains 16,64,256
    atts simulate --workload runs/atts-1234 --gpu h100 --set target.server.tensor_parallel=2 \\
        --target-gpus 2 target-only atts atts:limits.overlap=off reference

With the efficiencies of servers that were measured:

    atts simulate --fit runs/atts-1234 --gpu h100 --out fitted.json
    atts simulate --workload runs/atts-1234 --gpu h100 --fitted fitted.json --chains 1024

docs/simulation.md says what is modelled, and what is not.

{EXIT_CODES}"""

app.command(epilog=f"Then: `atts problems show`, `atts run --help`.\n\n{EXIT_CODES}")(demo)
app.command(epilog=EXIT_CODES)(doctor)
app.command(epilog=CALIBRATE_EXAMPLES)(calibrate)
app.command(epilog=RUN_EXAMPLES)(run)
app.command(epilog=REPORT_EXAMPLES)(report)
app.command(epilog=COMPARE_EXAMPLES)(compare)
app.command(epilog=PROFILE_EXAMPLES)(profile)
app.command(epilog=REPLAY_EXAMPLES)(replay)
app.command(epilog=TUNE_EXAMPLES)(tune)
app.command(epilog=REGRADE_EXAMPLES)(regrade)
app.command(epilog=SIMULATE_EXAMPLES)(simulate)
app.command("import", epilog=IMPORT_EXAMPLES)(import_)
app.command(epilog=EXPORT_EXAMPLES)(export)
app.command(epilog=SUITE_EXAMPLES)(suite)
app.add_typer(problems_app, name="problems")
app.add_typer(servers_app, name="servers")
