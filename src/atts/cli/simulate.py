"""``atts simulate``: how long a method would take, before anything is rented."""

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atts.cli.commands import new_app
from atts.cli.options import ConfigFile, Settings
from atts.cli.terminal import EXIT_CODES, out, say

if TYPE_CHECKING:
    from rich.table import Table

    from atts.config import Config
    from atts.simulation.deployment import Hardware
    from atts.simulation.fit import Fit
    from atts.simulation.simulate import SimulationOutcome

SIMULATED = ("target-only", "sync-ranking", "atts")
_MODELS = "The models, served by"

EXAMPLES = f"""Which method, on how many GPUs, with how many chains in flight:

    atts simulate --workload trace.jsonl.gz --set draft.model=DeepSeek-R1-Distill-Llama-8B \\
        --set target.model=QwQ-32B --target-gpus 2 --chains 16,64,256
    atts simulate --workload runs/atts-1234 --gpu h100 --set target.server.tensor_parallel=2 \\
        --target-gpus 2 target-only atts atts:limits.overlap=off reference

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
    gpu: Annotated[
        str,
        typer.Option(help="h200, h100, a100, a100-40gb, b200, l40s, cpu.", rich_help_panel=_MODELS),
    ] = "h200",
    draft_gpus: Annotated[
        str,
        typer.Option(help="GPUs of the draft, with commas between.", rich_help_panel=_MODELS),
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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how long methods would take: the same code, on simulated servers, in virtual time.

    The sizes of the models come from draft.model and target.model: a folder with a config.json,
    or a name such as QwQ-32B. One copy of a model is split over server.tensor_parallel GPUs.
    """
    from atts.errors import ConfigError

    layouts = [
        _hardware(gpu, gpus, (draft_cache, target_cache), shared, mixed, fitted)
        for gpus in product(
            _numbers("--draft-gpus", draft_gpus), _numbers("--target-gpus", target_gpus)
        )
    ]
    if fit is not None:
        _fit(fit, layouts[0], fit_out, as_json)
        return
    if workload_path is None:
        raise ConfigError("--workload: name a run directory or a trace that chains should follow")
    from atts.simulation.contender import SimulatedMethod
    from atts.simulation.simulate import check, simulate
    from atts.simulation.workload import load_workload

    config = _config(config_file, settings, workload_path)
    workload = load_workload(workload_path)
    contenders = [SimulatedMethod.parse(name) for name in methods or SIMULATED]
    outcomes = []
    for hardware, in_flight, contender in product(
        layouts, _numbers("--chains", chains), contenders
    ):
        gpus = f"{hardware.draft.gpus} + {hardware.target.gpus} GPUs"
        say(f"{contender.name}, {gpus}, {in_flight} chains in flight ...")
        outcome = simulate(
            contender,
            config,
            workload,
            hardware.split_as(config),
            in_flight,
            problems or len(workload.problems),
            target_only_ratio,
        )
        check(outcome)
        outcomes.append(outcome)
    if as_json:
        typer.echo(json.dumps([outcome.model_dump(mode="json") for outcome in outcomes], indent=2))
        return
    out().print(outcomes_table(outcomes, gpu, shared), soft_wrap=False)


def _hardware(
    gpu: str,
    gpus: tuple[int, int],
    caches: tuple[int | None, int | None],
    shared: bool,
    mixed: bool,
    fitted: Path | None,
) -> "Hardware":
    from atts.simulation.deployment import Hardware, ModelHardware
    from atts.simulation.fit import read_fit

    models = []
    efficiencies = read_fit(fitted) if fitted else {}
    for author, count, cache in zip(("draft", "target"), gpus, caches, strict=True):
        options: dict[str, object] = {"gpus": count, "cache_tokens": cache}
        if author in efficiencies:
            options["efficiency"] = efficiencies[author]
        models.append(ModelHardware.model_validate(options))
    return Hardware(gpu=gpu, draft=models[0], target=models[1], shared=shared, mixed=mixed)


def _config(config_file: Path | None, settings: list[str] | None, workload: Path) -> "Config":
    """The configuration given, or that of the run that is followed."""
    from atts.config import load_config

    if config_file is None and (workload / "config.yaml").is_file():
        config_file = workload / "config.yaml"
    return load_config(config_file, settings)


def _numbers(option: str, text: str) -> list[int]:
    from atts.errors import ConfigError

    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise ConfigError(f"{option} takes whole numbers with commas between, not {text!r}")
    return numbers


def outcomes_table(outcomes: "list[SimulationOutcome]", gpu: str, shared: bool) -> "Table":
    """One row an outcome, with its speedup over target-only with as many chains in flight and as
    many GPUs of the target.
    """
    from atts.methods import METHODS
    from atts.reports.comparison_table import heading
    from atts.reports.summary_table import plain_table
    from atts.text import safe_markup

    def place(outcome: "SimulationOutcome") -> tuple[int, int]:
        return outcome.chains_in_flight, outcome.target.gpus if outcome.target else 0

    alone = {place(o): o.wall_seconds for o in outcomes if METHODS[o.method].is_reference}
    first = outcomes[0]
    sharing = "shared by both models" if shared else "draft + target"
    table = plain_table(
        f"{first.chains:,} chains of {first.problems:,} problems, simulated; so many chains in "
        f"flight. GPUs: {gpu}, {sharing}. Speedup: over target-only with as many chains in flight "
        "and GPUs of the target. Busy: share of the time with a request to work on, draft/target, "
        "in %. Cache: largest share taken by running requests. Queue: mean over the target's "
        "requests. Barrier: mean over chains of the time spent waiting for others."
    )
    table.add_column("method", overflow="fold")
    names = ("chains", "GPUs", "wall", "speedup", "busy", "cache", "queue", "barrier")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for each in outcomes:
        reference = alone.get(place(each))
        uses = [use for use in (each.draft, each.target) if use]
        table.add_row(
            safe_markup(heading(each.name)),
            f"{each.chains_in_flight:,}",
            str(uses[0].gpus) if shared else "+".join(str(use.gpus) for use in uses),
            _duration(each.wall_seconds),
            f"{reference / each.wall_seconds:.2f}" if reference else "-",
            _shares([use.busy if use else None for use in (each.draft, each.target)]),
            _shares([use.peak_cache if use else None for use in (each.draft, each.target)]),
            _duration(each.target.queued_seconds) if each.target else "-",
            _duration(each.waited_seconds) if each.waited_seconds else "-",
        )
    return table


def _shares(shares: Sequence[float | None]) -> str:
    """Percentages of both models.

    >>> _shares([None, 0.5])
    '-/50'
    """
    return "/".join("-" if share is None else f"{100 * share:.0f}" for share in shares)


def _duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> _duration(0.25), _duration(75.0), _duration(10_000.0)
    ('0.25 s', '1.2 min', '2.8 h')
    """
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _fit(run: Path, hardware: "Hardware", path: Path, as_json: bool) -> None:
    from atts.files import atomic_write
    from atts.simulation.fit import fit_run

    found = fit_run(run, hardware)
    atomic_write(path, found.model_dump_json(indent=1) + "\n")
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    out().print(_fit_table(found), soft_wrap=False)
    say(f"Wrote {path}. To simulate with it: atts simulate --fitted {path} ...")


def _fit_table(found: "Fit") -> "Table":
    from atts.reports.summary_table import plain_table

    table = plain_table(
        f"{found.requests:,} requests of {found.run}. Error: simulated over measured seconds, "
        "median (middle 80 %), on chains that the fit did not see. Wall time: simulated "
        f"{_duration(found.simulated_wall_seconds)}, measured "
        f"{_duration(found.measured_wall_seconds)}."
    )
    for name in ("phase", "requests", "measured, mean", "simulated, mean", "ratio, median"):
        table.add_column(name, justify="left" if name == "phase" else "right")
    for phase in found.phases:
        table.add_row(
            phase.phase,
            f"{phase.requests:,}",
            f"{phase.measured_seconds:.4f} s",
            f"{phase.simulated_seconds:.4f} s",
            f"{phase.ratio:.2f} ({phase.low:.2f}-{phase.high:.2f})",
        )
    return table
