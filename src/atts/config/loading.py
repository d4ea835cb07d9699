"""Configurations from YAML files and from settings of the command line."""

import difflib
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from atts import registry
from atts.config.run import Config, flatten
from atts.errors import ConfigError
from atts.files import read_plain

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


# A date that does not exist is a ValueError, and nesting without end a RecursionError.
_BAD_YAML = (yaml.YAMLError, ValueError, RecursionError)


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
    tree = _read_yaml(Path(path)) if path else {}
    for method in registry.METHODS.found.values() if tree else ():
        if method.translate and (translated := method.translate(tree, str(path))) is not None:
            tree = translated
            break
    for setting in settings or []:
        apply_setting(tree, setting)
    return parse_config(tree, str(path) if path else "the command line", defaults)


def parse_config(
    tree: dict[str, Any], source: str, defaults: dict[str, Any] | None = None
) -> Config:
    """Validate a nested mapping; what it leaves out, at any depth, is as in ``Config()``.

    Over those defaults go the caller's, and over both the settings of its ``preset``, which is
    no key of the configuration itself.

    Raises:
        ConfigError: naming each wrong key, what is wrong with it, and ``source``.

    >>> parse_config({"preset": "paper", "take_over": {"rate": 0.2}}, "here").take_over.control
    'split'
    """
    given = {key: value for key, value in tree.items() if key != "preset"}
    below = _merge(Config().model_dump(), defaults or {})
    if "preset" in tree:
        name = tree["preset"]
        if not isinstance(name, str) or name not in PRESETS:
            raise ConfigError(
                f"wrong configuration in {source}:\n  preset: there is no {name!r}, only "
                + " and ".join(PRESETS)
            )
        below = _merge(below, PRESETS[name])
    try:
        return Config.model_validate(_merge(below, given))
    except ValidationError as error:
        problems = [_explain(detail["loc"], detail["msg"]) for detail in error.errors()]
        raise ConfigError(f"wrong configuration in {source}:\n  " + "\n  ".join(problems)) from None


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
    key = ".".join(map(str, location))
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
    return f"{key}: {message}"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(read_plain(path).decode())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    except _BAD_YAML as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold keys and values, not a {type(tree).__name__}")
    return tree


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
    if not equals or not key:
        raise ConfigError(f"--set takes key=value, e.g. --set take_over.rate=0.3; got {setting!r}")
    try:
        value = yaml.safe_load(text)
    except _BAD_YAML as error:
        raise ConfigError(f"--set {setting}: the value is not valid YAML: {error}") from error
    *parents, leaf = key.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {setting}: {parent} is a value, not a group of keys")
        tree = child
    tree[leaf] = value
