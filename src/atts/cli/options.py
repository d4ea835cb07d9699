"""Options that several commands have."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atts.cli.terminal import TableFormat, say

if TYPE_CHECKING:
    from atts.runs.making import Opening

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

Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Make the chains on the nodes of a Ray cluster: HOST:PORT; auto is the one that this "
        "machine belongs to, local one of its own cores alone. Goes on with what was begun without "
        "it, and the other way round. See docs/cluster.md.",
        show_default="in this process",
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


@contextmanager
def opening(ray: str | None) -> "Iterator[Opening]":
    """What opens the models of runs: in this process, or, with ``--ray``, on a cluster.

    Raises:
        ConfigError: Ray is not installed, or there is no such cluster.
    """
    from atts.runs.setup import open_models  # slow to load, and some commands open none

    if ray is None:
        yield open_models
        return
    from atts.cluster.connection import connected

    with connected(ray):
        from atts.cluster.run import open_workers

        yield open_workers


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
