"""Options that several commands have."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from atts.cli.terminal import TableFormat, say

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

RunFolders = Annotated[
    list[Path], typer.Argument(metavar="RUN...", help="Run directories, or folders of runs.")
]

Format = Annotated[
    TableFormat,
    typer.Option(
        "--format",
        help="Tables as text for this terminal, as Markdown for issues and papers, or as CSV, a "
        "line a run, with an empty line between two tables.",
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


def with_folder(settings: list[str] | None, folder: Path | None) -> list[str] | None:
    """The settings, and that of ``--problems-dir``."""
    if folder is None:
        return settings
    # JSON is YAML: a path with a colon or a brace in it stays one text.
    return [*(settings or []), f"problems.folder={json.dumps(str(folder))}"]


def run_directories(paths: Sequence[Path]) -> list[Path]:
    """The run directories among paths, or in them; what is skipped is said."""
    from atts.store.folders import find_runs  # slow to load, and most commands name no runs

    runs, skipped = find_runs(paths)
    if skipped:
        told = ", ".join(f"{path} ({reason})" for path, reason in skipped)
        say(f"Skipped: {told}", style="yellow")
    return runs
