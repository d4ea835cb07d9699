"""How the commands are put together: groups that import a command when it is asked for, and the
command line that goes on where a command was stopped.
"""

import shlex
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from atts.cli import ending
from atts.cli.ending import Ended
from atts.cli.terminal import INTERRUPTED, UNAVAILABLE, say
from atts.errors import EngineGoneError

CONFIGURATION = ("config_file", "settings", "problems_folder")
"""The parameters of a command that make its configuration."""


class CommandGroup(TyperGroup):
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
        return _with_examples(super().get_command(ctx, cmd_name))


class LazyGroup(CommandGroup):
    """A group whose commands are imported when they are invoked or their help is shown."""

    homes: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """Name of a command -> the module whose ``app`` has it or is it, and the first sentence of its
    help, which is all that is known of it before.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        for name, (_, told) in self.homes.items():
            self.add_command(TyperCommand(name, help=told))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401
        """The command that is to be invoked, with its options."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else self.load(name), rest

    def load(self, name: str) -> Any:  # noqa: ANN401
        """Import a command; what it begins from then on, a signal puts in order."""
        module, _ = self.homes[name]
        group = typer.main.get_group(import_module(module).app)
        ending.unwind()
        return _with_examples(group.commands.get(name, group))


def new_app(**options: Any) -> typer.Typer:  # noqa: ANN401
    """A Typer for one command, or for the commands of a group."""
    # Rich would take longer to load than all the rest.
    return typer.Typer(cls=CommandGroup, no_args_is_help=True, rich_markup_mode=None, **options)


def _with_examples(command: Any) -> Any:  # noqa: ANN401  (typer's own, vendored click types)
    if command and command.epilog:
        command.epilog = as_written(command.epilog)
    return command


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


def given(context: typer.Context, only: Collection[str] = (), /, **changed: object) -> list[str]:
    """The arguments and options with which a command was called, as they can be given again.

    Args:
        context: of the command.
        only: names of parameters; the others are left out. Empty: all.
        changed: parameters that get another value, whether or not they were given.
    """
    values = {
        name: value
        for name, value in context.params.items()
        if (source := context.get_parameter_source(name))
        and source.name in ("COMMANDLINE", "ENVIRONMENT")
        and (not only or name in only)
    }
    values |= changed
    arguments: list[str] = []
    options: list[str] = []
    for parameter in context.command.params:
        value = values.pop(parameter.name or "", None)
        if value is None:
            continue
        each = value if isinstance(value, list | tuple) else [value]
        if parameter.param_type_name == "argument":
            arguments += map(str, each)
        elif isinstance(value, bool):
            options += [max(parameter.opts if value else parameter.secondary_opts, key=len)]
        else:
            options += [word for one in each for word in _option(parameter.opts, str(one))]
    if values:
        raise KeyError(f"{context.command.name} has no {', '.join(values)}")
    if any(argument.startswith("-") for argument in arguments):
        return [*options, "--", *arguments]
    return [*arguments, *options]


def _option(names: list[str], value: str) -> list[str]:
    name = max(names, key=len)
    return [f"{name}={value}"] if value.startswith("-") else [name, value]


def same_command(context: typer.Context, **changed: object) -> str:
    """The command line that was given, to be pasted into a shell; ``changed`` as of ``given``."""
    names: list[str] = []
    below: Any = context
    while below.parent is not None:
        names.insert(0, str(below.info_name))
        below = below.parent
    return command_line("atts", *names, *given(context, (), **changed))


@contextmanager
def resumable(context: typer.Context, **changed: object) -> Iterator[None]:
    """Say how to go on, and leave with exit code 128 + signal on Ctrl-C, SIGTERM or SIGHUP, and
    with 75 if an engine is gone.

    Args:
        context: of the command, which goes on if it is called again as it was.
        changed: parameters that must then be given, such as a folder that was chosen.

    Raises:
        typer.Exit: with 130, 143 or 129, after such a signal, or with 75.
    """
    try:
        yield
    except (KeyboardInterrupt, Ended) as stop:
        say("Stopped. The finished chains are kept. To go on from here:")
        say(f"  {same_command(context, **changed)}")
        raise typer.Exit(getattr(stop, "exit_code", INTERRUPTED)) from None
    except EngineGoneError as error:
        say(f"Error: {error}:", style="red")
        say(f"  {same_command(context, **changed)}")
        raise typer.Exit(UNAVAILABLE) from None
