"""What every command shares: where it prints, and how it ends.

Results go to standard output; progress, advice and errors go to standard error.
"""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from atts.text import visible

if TYPE_CHECKING:
    from rich.console import Console

    from atts.analysis.summary import Summary
    from atts.config import TakeOverOptions
    from atts.reports.table_layout import Sheet

TableFormat = Literal["text", "md", "csv"]

FAILED = 1
WRONG_USE = 2
UNAVAILABLE = 75
"""As EX_TEMPFAIL of sysexits.h: the same command, later."""
INTERRUPTED = 130

EXIT_CODES = (
    "Exit codes: 0 done; 1 failed: a chain failed, or a folder or file could not be read or "
    "written; 2 wrong use: the command line, the configuration, the problems or the calibration; "
    "75 an engine is gone: it died, or did not answer for limits.patience_seconds; "
    "130 stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP."
)


def out() -> "Console":
    """The console for results.

    Made when it is needed, because a test, or a shell, may have replaced the stream by then.
    """
    return _console(stderr=False)


def err() -> "Console":
    """The console for progress, advice and errors."""
    return _console(stderr=True)


def _console(stderr: bool) -> "Console":
    from rich.console import Console  # which --help and --version do not need

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def say(text: str, style: str | None = None) -> None:
    """Print text of any origin to standard error: nothing in it is markup or an escape."""
    err().print(visible(text), style=style, markup=False)


def print_tables(sheets: "Iterable[Sheet]", form: "TableFormat" = "text") -> None:
    """Print tables, with an empty line between two."""
    from atts.reports.table_formats import to_csv, to_markdown

    console = out()
    for number, sheet in enumerate(sheets):
        if number:
            typer.echo()
        if form == "text":
            console.print(sheet, soft_wrap=False)
        else:
            typer.echo(to_csv(sheet) if form == "csv" else to_markdown(sheet), nl=False)


def echo_json(figures: object) -> None:
    """Print figures as JSON.

    ASCII only, so that what a model wrote cannot reach the terminal as a control character.
    """
    typer.echo(json.dumps(figures, indent=2))


def drop_output() -> None:
    """Let nothing more be written: what Python still holds would fail again when it exits."""
    with suppress(OSError, ValueError):  # a stream without a file has nothing to lose
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def say_guarantee(name: str, summary: "Summary", options: "TakeOverOptions") -> None:
    """Quote the certificate of a run, and say what its drift alarm has found."""
    from atts.reports.notes import drift_alarm

    if summary.certificate:
        say(f"{name}: {summary.certificate.quote}")
    if alarm := drift_alarm(summary, options.control, options.calibration is not None):
        say(f"{name}: {alarm}", style="yellow")


def exit_if_failed(runs: "Sequence[tuple[Path, Summary]]", retry: str) -> None:
    """Say which runs have failed chains and how to do those again.

    Raises:
        typer.Exit: with 1, if a chain failed.
    """
    failed = [(path, summary) for path, summary in runs if summary.failed]
    for path, summary in failed:
        say(
            f"{summary.failed} of {summary.chains} chains failed and count as wrong; their errors "
            f"are in {path / 'chains.jsonl'}",
            style="red",
        )
    if failed:
        say(f"To do them again:\n  {retry}")
        raise typer.Exit(FAILED)
