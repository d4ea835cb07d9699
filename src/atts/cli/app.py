"""The commands, put together."""

import errno
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, ClassVar

import typer

from atts.cli.commands import LazyGroup
from atts.cli.ending import Ended
from atts.cli.terminal import EXIT_CODES, FAILED, UNAVAILABLE, WRONG_USE, drop_output, say
from atts.errors import AttsError, CalibrationError, ConfigError, EngineGoneError, ProblemError
from atts.package import DISTRIBUTION
from atts.text import shortened

_OUTPUT_LOST = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class Commands(LazyGroup):
    """The commands of ``atts``: an expected error becomes a message and an exit code."""

    sections: ClassVar[Mapping[str, Sequence[str]]] = {
        "Begin": ("demo", "solve", "doctor"),
        "Run": ("calibrate", "run", "merge", "compare", "tune", "suite"),
        "Look at runs": ("report", "view", "profile", "replay", "regrade"),
        "Plan and serve": ("advise", "simulate", "servers", "serve"),
        "Exchange": ("problems", "import", "export"),
    }
    homes: ClassVar[Mapping[str, tuple[str, str]]] = {
        "demo": (
            "atts.cli.demo",
            "Show what atts does, from calibration to a table that compares four ways to solve "
            "problems.",
        ),
        "solve": (
            "atts.cli.solve",
            "Solve one question, printed as it is written, and vote.",
        ),
        "doctor": (
            "atts.cli.doctor",
            "Try out the models, servers and packages of a configuration, and say how to mend "
            "each fault.",
        ),
        "calibrate": (
            "atts.cli.runs",
            "Make the calibration that decides when the target takes over.",
        ),
        "run": (
            "atts.cli.runs",
            "Solve problems by one method, or go on with a run that was stopped.",
        ),
        "merge": (
            "atts.cli.merge",
            "Put the shards of a run together that atts run --shard has made.",
        ),
        "report": (
            "atts.cli.report",
            "Compare runs in one table, computed anew from their recorded chains; draw them, too.",
        ),
        "view": (
            "atts.cli.view",
            "Show the report of runs in the browser, renewed while they go on, until Ctrl-C.",
        ),
        "compare": (
            "atts.cli.compare",
            "Run several methods over the same problems and seeds, and put them side by side.",
        ),
        "profile": (
            "atts.cli.report",
            "Show where the time of runs went: phases, waits, stragglers, and how the budget "
            "was kept.",
        ),
        "replay": (
            "atts.cli.replay",
            "Let controls decide on recorded scores, and compare how they hold the take-over rate.",
        ),
        "tune": (
            "atts.cli.tune",
            "Find the cheapest take-over rate that loses at most so much accuracy, with a "
            "certificate.",
        ),
        "regrade": (
            "atts.cli.regrade",
            "Find and judge the answers of a run again, from its stored reasoning.",
        ),
        "advise": (
            "atts.cli.advise",
            "Measure a pair and its engines for some minutes, and say whether and how ATTS pays.",
        ),
        "simulate": (
            "atts.cli.simulate",
            "Say how long methods would take: the same code, on simulated servers, in virtual "
            "time.",
        ),
        "import": (
            "atts.cli.exchange",
            "Read the reference implementation's results into a run directory, or its calibration.",
        ),
        "export": (
            "atts.cli.exchange",
            "Write a run in another format, with its answers as they were graded last.",
        ),
        "suite": (
            "atts.cli.suite",
            "Run a matrix of model pairs, problem sets, methods and coverages, one after the "
            "other.",
        ),
        "serve": (
            "atts.cli.serve",
            "Answer questions behind OpenAI's API, streamed as they are decided.",
        ),
        "problems": ("atts.cli.problems", "List, show and export problem sets."),
        "servers": (
            "atts.cli.servers",
            "Start, watch and stop the SGLang or vLLM servers of a configuration.",
        ),
    }

    def main(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        """Run the command line; what is printed is on its way when it ends, or said to be lost.

        Raises:
            SystemExit: with 1, if standard output takes no more, as on a full disk.
        """
        try:
            try:
                return super().main(*args, **options)
            finally:
                sys.stdout.flush()
        except OSError as error:
            if error.filename is not None or error.errno not in _OUTPUT_LOST:
                raise
            # Where nobody reads on, as with head, there is nobody to tell.
            if error.errno != errno.EPIPE:
                with suppress(OSError):
                    say(f"Error: cannot write standard output: {error.strerror}", style="red")
            drop_output()
            raise SystemExit(FAILED) from None

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  (typer's own, vendored click types)
        """Run the command.

        Raises:
            typer.Exit: with 2 for wrong use, 75 for a server that is gone, and 1 for any other
                ``AttsError``, or a file that nothing can be done with, such as one whose name is
                too long; with 128 + its number after a signal.
        """
        try:
            return super().invoke(ctx)
        except AttsError as error:
            say(f"Error: {_in_few_words(str(error))}", style="red")
            if isinstance(error, ConfigError | ProblemError | CalibrationError):
                raise typer.Exit(WRONG_USE) from None
            gone = isinstance(error, EngineGoneError)
            raise typer.Exit(UNAVAILABLE if gone else FAILED) from None
        except Ended as stop:
            say("Stopped.")
            raise typer.Exit(stop.exit_code) from None
        except OSError as error:
            if error.filename is None:  # of the output
                raise
            say(f"Error: {error.strerror}: {shortened(str(error.filename))}", style="red")
            raise typer.Exit(FAILED) from None


def _in_few_words(text: str) -> str:
    """A message whose longest words, such as a path of pages, are left out but for their ends."""
    return re.sub(r"(\S{200})\S{100,}(\S{50})", r"\1...\2", text)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    # Whatever the width of the terminal; that of commands, too.
    context_settings={"max_content_width": sys.maxsize},
    # Rich would take longer to load than all the rest.
    rich_markup_mode=None,
    # Local variables could hold a key for a model server.
    pretty_exceptions_show_locals=False,
    epilog=f"Start with: atts demo\n\n{EXIT_CODES}",
)


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version  # is slow to load, and seldom asked for

        typer.echo(f"atts {version(DISTRIBUTION)}")
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
