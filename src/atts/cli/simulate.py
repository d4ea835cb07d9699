"""``atts simulate``: how long a method would take, before anything is rented."""

from itertools import product
from pathlib import Path
from typing import Annotated

import typer

from atts.api.jobs import SIMULATED, simulated_config, simulated_hardware
from atts.cli.commands import new_app
from atts.cli.options import ConfigFile, Format, Settings
from atts.cli.progress import counting
from atts.cli.terminal import EXIT_CODES, TableFormat, echo_json, err, print_tables, say
from atts.errors import ConfigError
from atts.files import atomic_write
from atts.reports.simulation_table import fit_table, outcomes_table
from atts.simulation.deployment import Hardware, SimulatedMethod
from atts.simulation.fit import fit_run
from atts.simulation.simulate import SimulationOutcome, check
from atts.simulation.simulate import simulate as simulate_run
from atts.simulation.workload import load_workload

_MODELS = "The models, served by"
EXAMPLES = f"""Which method, on how many GPUs, with how many chains in flight:

    atts simulate --workload trace.jsonl.gz --set draft.model=DeepSeek-R1-Distill-Llama-8B \\
        --set target.model=QwQ-32B --target-gpus 2 --chains 16,64,256
    atts simulate --workload runs/atts-1234 --gpu h100 --set target.server.tensor_parallel=2 \\
        --target-gpus 2 target-only atts atts:limits.overlap=off reference

The rival, which decodes speculatively, at equal GPUs:

    atts simulate --workload runs/atts-1234 --target-gpus 4 --acceptance 0.8 target-only atts \
        target-only:target.server.speculative.method=ngram,target.server.tensor_parallel=4

With the efficiencies of servers that were measured:

    atts simulate --fit runs/atts-1234 --gpu h100 --out fitted.json
    atts simulate --workload runs/atts-1234 --gpu h100 --fitted fitted.json --chains 1024

docs/simulation.md says what is modelled, and what is not.

{EXIT_CODES}"""

app = new_app()


@app.command(epilog=EXAMPLES)
def simulate(
    methods: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="METHOD...",
            help="What to compare: METHOD, or METHOD:KEY=VALUE,... (keys as of --set). 'reference' "
            "is atts on the reference's schedule: one problem at a time, 16 requests in flight on "
            "the draft and 4 on the target.",
            show_default=" ".join(SIMULATED),
        ),
    ] = None,
    workload_path: Annotated[
        Path | None,
        typer.Option(
            "--workload",
            metavar="RUN_OR_TRACE",
            help="The recorded chains that are followed: a run directory, or a trace (.jsonl, "
            ".jsonl.gz).",
            show_default=False,
        ),
    ] = None,
    config_file: ConfigFile = None,
    settings: Settings = None,
    chains: Annotated[
        str, typer.Option(help="Chains in flight, with commas between; as many requests, too.")
    ] = "16,64,256",
    problems: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many problems, from the first recorded; past the last they come again.",
            show_default="all recorded",
        ),
    ] = None,
    target_only_ratio: Annotated[
        float,
        typer.Option(
            min=0.01,
            help="Tokens of a chain that the target writes alone, as a multiple of those that both "
            "models wrote in the recording.",
        ),
    ] = 1.0,
    model_cuts: Annotated[
        bool,
        typer.Option(
            "--model-cuts",
            help="Where a recording does not say what surprised the target, let the mode rewind "
            "cut a segment at a place that is drawn: 0.4 of it stays in the mean.",
        ),
    ] = False,
    gpu: Annotated[
        str,
        typer.Option(help="h200, h100, a100, a100-40gb, b200, l40s, cpu.", rich_help_panel=_MODELS),
    ] = "h200",
    draft_gpus: Annotated[
        str,
        typer.Option(
            help="GPUs of the draft, with commas between; a method of one model has all.",
            rich_help_panel=_MODELS,
        ),
    ] = "1",
    target_gpus: Annotated[
        str,
        typer.Option(help="GPUs of the target, with commas between.", rich_help_panel=_MODELS),
    ] = "1",
    shared: Annotated[
        bool,
        typer.Option(
            "--shared",
            help="Both models are on the same GPUs, whose time they share.",
            rich_help_panel=_MODELS,
        ),
    ] = False,
    draft_cache: Annotated[
        int | None,
        typer.Option(
            "--draft-cache-tokens",
            min=1,
            help="Tokens in the key-value cache of one copy.",
            show_default="what fits",
            rich_help_panel=_MODELS,
        ),
    ] = None,
    target_cache: Annotated[
        int | None,
        typer.Option(
            "--target-cache-tokens", min=1, show_default="what fits", rich_help_panel=_MODELS
        ),
    ] = None,
    acceptance: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Where a model decodes speculatively (server.speculative): the probability that a "
            "proposed token is kept, if those before it are.",
            rich_help_panel=_MODELS,
        ),
    ] = 0.7,
    mixed: Annotated[
        bool,
        typer.Option(
            "--mixed/--separate",
            help="Prefill and decoding share steps, as in vLLM, or decoding pauses for prefill, as "
            "in SGLang.",
            rich_help_panel=_MODELS,
        ),
    ] = False,
    fitted: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Efficiencies that --fit found.",
            show_default="SGLang on an H200",
            rich_help_panel=_MODELS,
        ),
    ] = None,
    fit: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Do not simulate, but find the efficiencies with which the simulated servers take "
            "as long as those of a measured run, and say how far off they are.",
            show_default=False,
        ),
    ] = None,
    fit_out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Where --fit writes them.")
    ] = Path("fitted.json"),
    form: Format = "text",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how long methods would take: the same code, on simulated servers, in virtual time.

    The sizes of the models come from draft.model and target.model: a folder with a config.json,
    or a name such as QwQ-32B. One copy of a model is split over server.tensor_parallel GPUs.
    """
    layouts = [
        simulated_hardware(
            gpu, gpus, (draft_cache, target_cache), shared, mixed, fitted, acceptance
        )
        for gpus in product(
            _numbers("--draft-gpus", draft_gpus), _numbers("--target-gpus", target_gpus)
        )
    ]
    if fit is not None:
        _fit(fit, layouts[0], fit_out, form, as_json)
        return
    if workload_path is None:
        raise ConfigError("--workload: name a run directory or a trace that chains should follow")
    config = simulated_config(config_file, settings, workload_path)
    workload = load_workload(workload_path, model_cuts)
    contenders = [SimulatedMethod.parse(name) for name in methods or SIMULATED]
    settings_of_each = list(product(layouts, _numbers("--chains", chains), contenders))
    outcomes: list[SimulationOutcome] = []
    with counting(err(), "simulating") as progress:
        for hardware, in_flight, contender in settings_of_each:
            progress(len(outcomes), len(settings_of_each))
            outcome = simulate_run(
                contender,
                config,
                workload,
                hardware.for_run(contender.config(config, in_flight)),
                in_flight,
                problems or len(workload.problems),
                target_only_ratio,
            )
            check(outcome)
            outcomes.append(outcome)
    if as_json:
        echo_json([outcome.model_dump(mode="json") for outcome in outcomes])
        return
    print_tables([outcomes_table(outcomes, gpu, shared)], form)


def _numbers(option: str, text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise ConfigError(f"{option} takes whole numbers with commas between, not {text!r}")
    return numbers


def _fit(run: Path, hardware: Hardware, path: Path, form: TableFormat, as_json: bool) -> None:
    found = fit_run(run, hardware)
    atomic_write(path, found.model_dump_json(indent=1) + "\n")
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    print_tables([fit_table(found)], form)
    say(f"Wrote {path}. To simulate with it: atts simulate --fitted {path} ...")
