"""How the commands are put together: what is imported when, and the line that goes on."""

import asyncio
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, cast, get_type_hints

import pytest
import typer
from typer.testing import Result

from atts.cli import commands as commands_module
from atts.cli.app import Commands, app
from atts.cli.commands import CommandGroup, LazyGroup, given, same_command
from atts.config import load_config
from atts.errors import ConfigError

Invoke = Callable[..., Result]


def whole() -> LazyGroup:
    found = typer.main.get_group(app)
    assert isinstance(found, LazyGroup)
    return found


def parsed(*arguments: str) -> typer.Context:
    """The context of the command that the arguments name; nothing is run."""
    group: Any = whole()
    context = group.make_context("atts", list(arguments))
    rest = [*context._protected_args, *context.args]
    command: Any
    while isinstance(context.command, CommandGroup):
        name, command, rest = context.command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
        rest = [*getattr(context, "_protected_args", []), *context.args]
    return cast(typer.Context, context)


def commands() -> Iterator[tuple[str, ...]]:
    """The words of every command."""
    group = whole()
    for name in Commands.homes:
        command = group.load(name)
        if isinstance(command, CommandGroup):
            yield from ((name, below) for below in command.commands)
        else:
            yield (name,)


def sample(command: Any, name: str) -> list[str]:  # noqa: ANN401
    """Values that a parameter takes, none of which is its default, as they are written."""
    kind = str(get_type_hints(command.callback.__wrapped__)[name])
    if "Literal" in kind:
        return re.findall("'([^']+)'", kind)[-1:]
    value = "7" if "int" in kind else "0.25" if "float" in kind else "-a b's"
    return [value, value] if "list" in kind else [value]


def written(command: Any, parameter: Any) -> list[list[str]]:  # noqa: ANN401
    """Each way to give an option."""
    if parameter.is_flag:
        return [[name] for name in [*parameter.opts, *parameter.secondary_opts]]
    values = sample(command, parameter.name)
    return [[word for value in values for word in (name, value)] for name in parameter.opts]


def every_way(command: Any) -> Iterator[list[str]]:  # noqa: ANN401
    """What is required alone, then each option beside it, then all at once."""
    options = [each for each in command.params if each.param_type_name == "option"]
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    behind = ["--", *(value for argument in arguments for value in sample(command, argument.name))]
    required = [word for each in options if each.required for word in written(command, each)[0]]
    others = [written(command, each) for each in options if not each.required]
    yield [*required, *behind]
    for forms in others:
        yield from ([*form, *required, *behind] for form in forms)
    yield [*(word for forms in others for word in forms[0]), *required, *behind]


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_the_line_that_goes_on_gives_every_option_again(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_MODEL"):
        monkeypatch.delenv(name, raising=False)
    command = whole().load(words[0])
    if len(words) > 1:
        command = command.commands[words[1]]
    for arguments in every_way(command):
        first = parsed(*words, *arguments)
        again = parsed(*shlex.split(same_command(first))[1:])
        assert again.command_path == first.command_path
        assert again.params == first.params
        sources = [
            {name: context.get_parameter_source(name) for name in context.params}
            for context in (first, again)
        ]
        assert sources[0] == sources[1]


def test_what_was_chosen_is_named_and_replaces_what_was_given() -> None:
    context = parsed("run", "--set", "samples=1", "--out", "x")
    assert same_command(context, directory=Path("my runs"), retry_failed=True) == (
        "atts run --set samples=1 --out 'my runs' --retry-failed"
    )
    assert given(context, ("settings",)) == ["--set", "samples=1"]
    with pytest.raises(KeyError):
        same_command(context, nonsense=1)


def test_what_the_environment_says_is_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_MODEL", "a model")
    line = same_command(parsed("regrade", "run", "--judge", "llm", "--retries", "0"))
    assert line == "atts regrade run --judge llm --model 'a model' --retries 0"


def stopped(job: Coroutine[Any, Any, object]) -> None:
    job.close()
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["calibrate", "--problems-dir", "sets"], None),
        (
            ["run", "--set", "method=draft-only", "--problems-dir", "sets", "--json"],
            "--set method=draft-only --problems-dir sets --out runs/draft-only-",
        ),
        (["compare", "target-only", "--reference", "target-only", "--score-cost", "0.5"], None),
        (["demo", "--samples", "2", "--out", "here"], "--problems 40 --samples 2 --out here"),
        (["tune", "--rate", "0.3", "--rate", "0.1", "--loss", "0.1", "--out", "here"], None),
        (["suite", "my.yaml"], "my.yaml --out runs/my"),
        (["advise", "--out", "here", "--way", "atts", "--in-flight", "4"], None),
        (
            ["regrade", "here", "--concurrency", "2", "--timeout", "9.0", "--seconds", "1.5"],
            None,
        ),
    ],
)
def test_ctrl_c_drops_no_option(
    invoke: Invoke,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    command: str | None,
) -> None:
    (tmp_path / "sets").mkdir()
    (tmp_path / "my.yaml").write_text("pairs: {one: {}}\nproblems: {a: {}}\n")
    monkeypatch.setattr(asyncio, "run", stopped)
    result = invoke(*arguments)
    assert result.exit_code == 130, result.output
    line = result.stderr.splitlines()[-1]
    assert line.startswith(f"  atts {arguments[0]} {command or shlex.join(arguments[1:])}")


def test_every_command_that_can_be_stopped_goes_on_by_that_line() -> None:
    """The commands above are all of those that say how to go on."""
    source = Path(commands_module.__file__).parent
    modules = {path.stem for path in source.glob("*.py") if "resumable(" in path.read_text()}
    assert modules == {"commands", "runs", "compare", "demo", "tune", "suite", "regrade", "advise"}


@pytest.mark.parametrize("name", list(Commands.homes))
def test_what_is_listed_is_the_first_sentence_of_the_help(name: str) -> None:
    group = whole()
    told = group.commands[name].get_short_help_str(limit=200)
    assert told == group.load(name).get_short_help_str(limit=200)


def test_only_the_command_that_is_asked_for_is_imported() -> None:
    code = (
        "import sys\nfrom atts.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print(*(name for name in sys.modules if name.startswith('atts.cli.')))\n"
    )

    def imported(*arguments: str) -> set[str]:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
        )
        return set(done.stdout.splitlines()[-1].replace("atts.cli.", "").split())

    common = {"app", "commands", "ending", "terminal"}
    assert imported("--help") == common
    assert imported("problems", "--help") == common | {"problems"}
    assert imported("doctor", "--help") == common | {"doctor", "options"}


def test_a_command_that_is_mistyped_is_suggested(invoke: Invoke) -> None:
    result = invoke("calibrat")
    assert result.exit_code == 2
    assert "Did you mean 'calibrate'?" in result.stderr


def test_the_line_that_goes_on_repeats_no_secret() -> None:
    secret = "s3cret"  # noqa: S105
    for setting in (
        f"draft.server.environment.HF_TOKEN={secret}",
        f"target.server.environment={{A: {secret}, B=c: d}}",
        f"draft.server.arguments=[--api-key, {secret}]",
        f"draft={{server: {{environment: {{A: {secret}}}}}}}",
        f"draft.server={{arguments: [--token, {secret}], port: 5}}",
        f"draft.urls=['https://me:{secret}@host']",
    ):
        for words in (["run", "--set", setting], ["compare", f"atts:samples=2,{setting},seed=1"]):
            line = same_command(parsed(*words))
            assert secret not in line
            assert setting.partition("=")[0] in line
            # Pasted as it is, it says what to do.
            value = next(word for word in shlex.split(line) if setting.partition("=")[0] in word)
            if "urls" not in setting and words[0] == "run":
                with pytest.raises(ConfigError, match=r"put it in again|is a group|valid tuple"):
                    load_config(None, [value])
    kept = "atts:draft.server.port=5,draft.server.context_length=9"
    assert same_command(parsed("compare", kept)) == f"atts compare {kept}"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["problems", "list"]])
def test_a_full_disk_under_standard_output_is_one_line(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "atts", *arguments],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "Error: cannot write standard output: No space left on device\n"


def test_every_command_is_in_one_section_of_the_help() -> None:
    group = whole()
    named = [name for names in group.sections.values() for name in names]
    assert sorted(named) == sorted(group.homes)


def as_a_process(*arguments: str, **environment: str) -> str:
    code = "from atts.cli import main; import sys; sys.argv[0] = 'atts'; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


@pytest.mark.parametrize("width", [60, 150])
@pytest.mark.parametrize("command", [[], ["run"]])
def test_the_help_is_as_wide_as_the_terminal(width: int, command: list[str]) -> None:
    lines = as_a_process(*command, "--help", COLUMNS=str(width)).splitlines()
    longest = max(len(line) for line in lines if not line.startswith("      atts"))
    assert width - 15 < longest < width


@pytest.mark.parametrize(
    ("words", "completion"), [("atts rep", "report"), ("atts run --retr", "--retry-failed")]
)
def test_shells_complete_commands_and_their_options(words: str, completion: str) -> None:
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    shown = as_a_process(_ATTS_COMPLETE="complete_bash", **asked)
    assert completion in shown.split()
