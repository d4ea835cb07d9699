"""What every command shares: where it prints, and how it ends.

Results go to standard output; progress, advice and errors go to standard error.
"""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from atts.errors import AttsError, CalibrationError, ConfigError, ProblemError
from atts.text import visible

if TYPE_CHECKING:
    from rich.console import Console

FAILED = 1
WRONG_USE = 2
INTERRUPTED = 130

EXIT_CODES = (
    "Exit codes: 0 done; 1 failed: a chain failed, or a folder or file could not be read or "
    "written; 2 wrong use: the command line, the configuration, the problems or the calibration; "
    "130 stopped by Ctrl-C."
)


def out() -> "Console":
    """The console for results.

    Made when it is needed, because a test, or a shell, may have replaced the stream by then.
    """
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def err() -> "Console":
    """The console for progress, advice and errors."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str, style: str | None = None) -> None:
    """Print text of any origin to standard error: nothing in it is markup or an escape."""
    err().print(visible(text), style=style, markup=False)


class Group(TyperGroup):
    """Commands, listed with the whole first sentence of their help, and examples as written."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """List the commands."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, command.get_short_help_str(limit=200)) for name, command in commands]
            )

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401
        """The command, whose help shows indented examples as they are written."""
        command = super().get_command(ctx, cmd_name)
        if command and command.epilog:
            command.epilog = as_written(command.epilog)
        return command


class Commands(Group):
    """The commands of ``atts``: an expected error becomes a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  (typer's own, vendored click types)
        """Run the command.

        Raises:
            typer.Exit: with 2 for wrong use and 1 for any other ``AttsError``.
        """
        try:
            return super().invoke(ctx)
        except AttsError as error:
            say(f"Error: {error}", style="red")
            wrong_use = isinstance(error, ConfigError | ProblemError | CalibrationError)
            raise typer.Exit(WRONG_USE if wrong_use else FAILED) from None


def as_written(text: str) -> str:
    r"""Text for ``--help``, in which indented paragraphs keep their lines.

    >>> as_written("Examples:\n\n    atts run\n    atts report")
    'Examples:\n\n\x08\n    atts run\n    atts report'
    """
    paragraphs = text.split("\n\n")
    return "\n\n".join(f"\b\n{each}" if each.startswith("  ") else each for each in paragraphs)


def command_line(*parts: object) -> str:
    """A command that can be pasted into a shell.

    >>> command_line("atts", "run", "--set", "prompt.system=Be brief.")
    "atts run --set 'prompt.system=Be brief.'"
    """
    return shlex.join(map(str, parts))


@contextmanager
def resumable(command: Sequence[object]) -> Iterator[None]:
    """On Ctrl-C, say how to go on and leave with exit code 130.

    Raises:
        typer.Exit: with 130, after Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        say("Stopped. The finished chains are kept. To go on from here:")
        say(f"  {command_line(*command)}")
        raise typer.Exit(INTERRUPTED) from None
