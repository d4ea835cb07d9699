"""``atts import`` and ``atts export``: runs and calibrations in the formats of others."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from atts.analysis.graded_run import grade_run
from atts.analysis.summary import summarise
from atts.cli.commands import command_line, new_app
from atts.cli.options import ConfigFile, Settings
from atts.cli.problems import Folder
from atts.cli.terminal import EXIT_CODES, out, print_tables, say
from atts.config import FORMER_DEFAULTS, Config, flatten, load_config, parse_config
from atts.errors import StoreError
from atts.exchange.calibration import calibration_from
from atts.exchange.hub import dataset, send
from atts.exchange.inspect_log import inspect_log
from atts.exchange.reference import read_folder, read_settings, write_folder
from atts.exchange.tables import read_records, write_parquet
from atts.files import atomic_write
from atts.problems import load_problems
from atts.reports.summary_table import comparison
from atts.store.npy import read_perplexities
from atts.store.run_directory import RecordedRun, RunStore, read_run
from atts.types import Problem

IMPORT_EXAMPLES = f"""Examples:

    atts import results/my_math500_run --problems math500/paper --out runs/imported
    atts import ppls_math500.npy --config my.yaml --out calibration.json

{EXIT_CODES}"""

EXPORT_EXAMPLES = f"""Examples:

    atts export runs/atts-1234 chains.parquet --format parquet
    atts export runs/atts-1234 results/atts-1234 --format reference
    atts export runs/atts-1234 logs/atts-1234.json --format inspect && inspect view --log-dir logs
    atts export runs/atts-1234 OWNER/NAME --to hub --dry-run

{EXIT_CODES}"""

app = new_app()


@app.command("import", epilog=IMPORT_EXAMPLES)
def import_(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A folder of problem_XXXX.json files, or a .npy file of calibration perplexities.",
        ),
    ],
    target: Annotated[
        Path,
        typer.Option(
            "--out", metavar="OUT", help="The run directory or the calibration file to write."
        ),
    ],
    problems: Annotated[
        str | None,
        typer.Option(
            "--problems",
            metavar="SOURCE",
            help="The set or JSONL file with the gold answers; for a calibration by question, the "
            "problems in the order of its numbers.",
        ),
    ] = None,
    folder: Folder = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples", min=1, help="Chains per problem.", show_default="as the questions repeat"
        ),
    ] = None,
    config_file: ConfigFile = None,
    settings: Settings = None,
) -> None:
    """Read the reference implementation's results into a run directory, or its calibration.

    An imported run can be reported, regraded and exported like any other. An imported calibration
    is bound to the configuration that is given with --config and --set: it must be the one that
    the scores were made under, because the file does not say. Pickled files are read by a reader
    that can build nothing but dictionaries, lists and numbers.
    """
    known = _problems(problems, folder)
    if source.suffix == ".npy":
        _import_calibration(source, target, known, load_config(config_file, settings))
    else:
        _import_run(source, target, known, samples, config_file, settings)


@app.command(epilog=EXPORT_EXAMPLES)
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    target: Annotated[
        str,
        typer.Argument(
            metavar="OUT", help="The folder or file to write; with --to hub, OWNER/NAME."
        ),
    ],
    kind: Annotated[
        Literal["reference", "jsonl", "parquet", "inspect"],
        typer.Option(
            "--format",
            help="reference: a folder of problem_XXXX.json files; jsonl and parquet: a row per "
            "chain, e.g. for datasets.load_dataset; inspect: a log that inspect view opens.",
        ),
    ] = "jsonl",
    to: Annotated[
        Literal["file", "hub"],
        typer.Option(
            "--to",
            help="hub: a dataset of the Hugging Face hub, with a row a chain, the configuration "
            "without paths and addresses, the figures and a card.",
        ),
    ] = "file",
    public: Annotated[
        bool, typer.Option("--public", help="A new dataset of the hub is for all to see.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent to the hub; send nothing.")
    ] = False,
) -> None:
    """Write a run in another format, with its answers as they were graded last."""
    if to == "hub":
        _send(run, target, public, dry_run)
    else:
        _write(run, Path(target), kind)


def _send(run: Path, repository: str, public: bool, dry_run: bool) -> None:
    files = dataset(grade_run(read_run(run)), run.resolve().name)
    if dry_run:
        for name, data in files.files.items():
            out().print(f"{name:<14} {len(data):>12,} bytes", markup=False)
        say(f"Would send {files.chains} chains to the dataset {repository}; nothing was sent")
        return
    say(f"Sent {files.chains} chains to {send(files, repository, private=not public)}")


def _write(run: Path, target: Path, kind: str) -> None:
    if kind == "inspect":
        recorded = grade_run(read_run(run))
        atomic_write(target, json.dumps(inspect_log(recorded, run), allow_nan=False))
        count = len(recorded.run.chains)
    elif kind == "reference":
        as_made = read_run(run)
        _refuse_filled(target)
        count = write_folder(
            as_made.problems,
            sorted(as_made.chains_as_graded(), key=lambda chain: chain.key),
            as_made.config.samples,
            lambda name, text: atomic_write(target / name, text),
        )
    else:
        table = read_records(run)
        if kind == "parquet":
            write_parquet(target, table)
        else:
            atomic_write(target, "".join(json.dumps(row) + "\n" for row in table))
        count = len(table)
    say(f"Wrote {count} chains to {target}")


def _import_run(
    source: Path,
    target: Path,
    known: list[Problem],
    samples: int | None,
    config_file: Path | None,
    settings: list[str] | None,
) -> None:

    imported = read_folder(source, known, samples)
    named = [f"{key}={value}" for key, value in flatten(read_settings(source)).items()]
    fixed = [f"samples={imported.samples}", f"problems.source={json.dumps(str(source))}"]
    config = load_config(config_file, [*named, *(settings or []), *fixed], FORMER_DEFAULTS)
    with RunStore.open(target, config, imported.problems, None) as store:
        for chain in imported.chains:
            if chain.key not in store.chains:
                store.append(chain)
        chains = tuple(store.chains.values())
        summary = summarise(grade_run(RecordedRun(config, tuple(imported.problems), chains)))
        store.write_summary(summary)
    print_tables([comparison([(target.resolve().name, summary)])])
    say(f"Wrote {len(imported.chains)} chains to {target}. To extract the answers again:")
    say(f"  {command_line('atts', 'regrade', target)}")


def _import_calibration(source: Path, target: Path, known: list[Problem], config: Config) -> None:
    calibration, dropped = calibration_from(read_perplexities(source), known, config, str(source))
    atomic_write(target, calibration.to_json())
    count = sum(map(len, calibration.scores.values()))
    if dropped:
        say(f"{dropped} perplexities were no numbers above 0 and are left out", style="yellow")
    say(f"Wrote {count} scores ({calibration.coverage}) to {target}")


def _problems(source: str | None, folder: Path | None) -> list[Problem]:
    if source is None:
        return []
    options = {"source": source, "folder": folder}
    return load_problems(parse_config({"problems": options}, "the command line").problems)


def _refuse_filled(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(f"{folder} is not an empty folder; choose another one")
