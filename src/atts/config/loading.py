"""Configurations from YAML files and from settings of the command line."""

import contextlib
import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from atts import registry
from atts.config.reading import parse_yaml, read_yaml
from atts.config.run import Config, flatten
from atts.config.secrets import hide_setting
from atts.errors import ConfigError

_PAPER: dict[str, Any] = {
    "method": "atts",
    "samples": 16,
    "sampling": {"temperature": 0.8, "top_p": 1.0},
    "turns": {"max_turns": 15, "draft_tokens": 500, "target_tokens": 500},
    "stop": {"when": "never", "repeating": False},
    "take_over": {
        "rate": 0.4,
        "mode": "continue",
        "control": "split",
        "coverage": "marginal",
        "by_turn": False,
        "score": {"kind": "mean"},
    },
    "calibration": {"samples": 16},
}

PRESETS: dict[str, dict[str, Any]] = {
    "paper": _PAPER,
    # Its own scripts calibrate on the problems that they evaluate, and work at one problem after
    # the other with a request or so for each of its chains.
    "reference": _PAPER
    | {
        "calibration": {"samples": 16, "allow_overlap": True},
        "limits": {
            "chains": 16,
            "chains_min": 16,
            "draft_requests": 16,
            "target_requests": 4,
            "overlap": "off",
        },
    },
}
"""``paper``: what arXiv 2509.15148 describes. ``reference``: what its own implementation does, as
far as it can be said in these keys (docs/reference.md has the rest)."""

FORMER_DEFAULTS: dict[str, Any] = {
    "turns": {"max_turns": 15, "draft_tokens": 500, "target_tokens": 500},
    "take_over": {"mode": "continue", "control": "split", "score": {"kind": "mean"}},
    "stop": {"repeating": False},
}
"""Defaults that have changed. They hold in a run whose ``config.yaml`` is so old that it lacks the
key, and where such a run is gone on with by a command that does not say otherwise."""


_LONGEST = 200
"""Characters of a key, or of a value, that a message repeats."""
_MOST_FAULTS = 20
_SURROGATE = re.compile("[\ud800-\udfff]")


def load_config(
    path: str | Path | None = None,
    settings: list[str] | None = None,
    defaults: dict[str, Any] | None = None,
) -> Config:
    """Read a YAML file (none: the defaults) and apply ``key=value`` settings to it.

    ``defaults`` is what the caller would have where neither says anything. The file may be of a
    method's own project, where that method can translate it. Values of settings are YAML too:
    ``take_over.rate=0.3``, ``problems.count=null``.

    Raises:
        ConfigError: the file or a setting cannot be read, or a key or value is wrong.
    """
    tree = read_yaml(Path(path)) if path else {}
    for method in registry.METHODS.found.values() if tree else ():
        if method.translate and (translated := method.translate(tree, str(path))) is not None:
            tree = translated
            break
    if path:
        _find_folders(tree, Path(path).parent)
    for setting in settings or []:
        apply_setting(tree, setting)
    return parse_config(tree, str(path) if path else "the command line", defaults, settings or ())


def _find_folders(tree: dict[str, Any], folder: Path) -> None:
    """Let relative paths of models in a file mean those beside it, where there are any.

    All others stay as written: names on the hub, and what lies below the working directory.
    """
    for author in ("draft", "target"):
        options = tree.get(author)
        if not isinstance(options, dict):
            continue
        for key in ("model", "gguf"):
            name = options.get(key)
            if not isinstance(name, str) or not name or Path(name).is_absolute():
                continue
            with contextlib.suppress(OSError, ValueError):
                beside = (folder / name).resolve()
                if beside.exists() and beside != Path(name).resolve():
                    options[key] = str(beside)


def parse_config(
    tree: dict[str, Any],
    source: str,
    defaults: dict[str, Any] | None = None,
    settings: Sequence[str] = (),
) -> Config:
    """Validate a nested mapping; what it leaves out, at any depth, is as in ``Config()``.

    Over those defaults go the caller's, and over both the settings of its ``preset``, which is
    no key of the configuration itself. ``settings`` are those that the mapping has its values from,
    and ``source`` is where the others come from.

    Raises:
        ConfigError: naming each wrong key, what is wrong with it, and the setting or ``source``.

    >>> parse_config({"preset": "paper", "take_over": {"rate": 0.2}}, "here").take_over.control
    'split'
    """
    if faults := list(_unusable(tree)):
        raise _wrong(source, faults)
    given = {key: value for key, value in tree.items() if key != "preset"}
    below = _merge(Config().model_dump(), defaults or {})
    if "preset" in tree:
        name = tree["preset"]
        if not isinstance(name, str) or name not in PRESETS:
            shown = f"{name!r}"[:_LONGEST]
            raise _wrong(source, [f"preset: there is no {shown}, only {' and '.join(PRESETS)}"])
        below = _merge(below, PRESETS[name])
    try:
        return Config.model_validate(_merge(below, given))
    except ValidationError as error:
        details = error.errors()
        faults = [_explain(each["loc"], each["msg"]) for each in details]
        given_by = [_setting_of(each["loc"], settings) for each in details]
        told = [fault + _said(by) for fault, by in zip(faults, given_by, strict=True)]
        raise _wrong("the command line" if all(given_by) else source, told) from None


def _setting_of(location: tuple[int | str, ...], settings: Sequence[str]) -> str:
    """The last setting of a key, or of a group that it is in; empty if it is not from one."""
    key = ".".join(map(str, location)) + "."
    return next((s for s in reversed(settings) if key.startswith(s.partition("=")[0] + ".")), "")


def _said(setting: str) -> str:
    """What a fault's message adds where the value is a setting's."""
    key, _, value = setting.partition("=")
    if not key or len(key) > _LONGEST:
        return ""
    if value:  # which may hold a password, and stands in the command
        return f" (of --set {key})"
    return f" (--set {key}= means null; --set {key}='\"\"' is the empty text)"


def _wrong(source: str, faults: Sequence[str]) -> ConfigError:
    shown = [*faults[:_MOST_FAULTS]]
    if len(faults) > len(shown):
        shown.append(f"and {len(faults) - len(shown):,} more")
    return ConfigError(f"wrong configuration in {source}:\n  " + "\n  ".join(shown))


def _unusable(value: object, key: str = "") -> Iterator[str]:
    """What no key takes, whatever it is: it would fail later, where nobody knows its key."""
    if isinstance(value, dict):
        for name, each in value.items():
            where = f"{key}.{name}" if key else f"{name}"
            yield from _unusable(name, where[:_LONGEST])
            yield from _unusable(each, where[:_LONGEST])
    elif isinstance(value, list | tuple | set):
        for each in value:
            yield from _unusable(each, key)
    elif isinstance(value, str):
        if "\0" in value or (not value.isprintable() and _SURROGATE.search(value)):
            yield f"{key}: holds NUL or half of a surrogate pair, which is no character"
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield f"{key}: is too large a number"


def _merge(defaults: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    # Validating a part of a group by itself would take the defaults of the group's class, which
    # are not those of the key that it stands under: of draft and target, or calibration.problems.
    return defaults | {
        key: _merge(defaults[key], value)
        if isinstance(value, dict) and isinstance(defaults.get(key), dict)
        else value
        for key, value in tree.items()
    }


def _explain(location: tuple[int | str, ...], message: str) -> str:
    key = ".".join(map(str, location))[:_LONGEST]
    if message == "Extra inputs are not permitted":
        names = flatten(Config().model_dump())
        groups = {name.rpartition(".")[0] for name in names} - {""}
        known = [name for name in (*names, *sorted(groups)) if name != key]
        leaf = key.rpartition(".")[2]
        close = [name for name in known if name.rpartition(".")[2] == leaf]
        close = close or difflib.get_close_matches(key, known, n=1)
        return f"{key}: unknown key" + (f"; did you mean {' or '.join(close)}?" if close else "")
    if message.startswith("Input should be a valid dictionary or instance of"):
        return f"{key}: is a group of keys, and takes no value itself; set one of {key}.KEY"
    return f"{key}: {message.removeprefix('Value error, ')}"


def method_and_settings(text: str) -> tuple[str, list[str]]:
    """What ``METHOD:key=value,...`` names; a comma belongs to a value unless a key follows.

    >>> method_and_settings("atts:take_over.rate=0.2,draft.urls=[a,b],seed=1")
    ('atts', ['take_over.rate=0.2', 'draft.urls=[a,b]', 'seed=1'])
    """
    method, _, settings = text.partition(":")
    return method, re.split(r",(?=[\w.]+=)", settings) if settings else []


def apply_setting(tree: dict[str, Any], setting: str) -> None:
    """Change a key of a nested mapping, as ``--set key=value`` does.

    Raises:
        ConfigError: the setting cannot be read, or goes through a value.
    """
    key, equals, text = setting.partition("=")
    shown = hide_setting(setting)[:_LONGEST]
    if not equals or not key:
        raise ConfigError(f"--set takes key=value, e.g. --set take_over.rate=0.3; got {shown!r}")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"--set {shown}: the value is not valid YAML: {error}") from error
    *parents, leaf = key.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            group = parent[:_LONGEST]
            raise ConfigError(f"--set {shown}: {group} is a value, not a group of keys")
        tree = child
    tree[leaf] = value
