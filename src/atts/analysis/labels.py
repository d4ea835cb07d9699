"""What runs are called where several stand side by side."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atts.config import differing_keys
from atts.errors import AttsError
from atts.store.contents import read_config

LONGEST = 60
_GIVEN = re.compile(
    r"(?P<method>.+)-(?P<digest>[0-9a-f]{16})(-shard-(?P<shard>\d+)-of-(?P<shards>\d+))?"
)
"""A name that ``atts run`` gives to a folder; any other was chosen by somebody."""
_PLAIN = ("take_over.mode", "take_over.rate", "take_over.control", "take_over.score.kind")
"""Settings whose values say what they are; the first in a name."""
_LONGEST_VALUE = 24


def run_names(directories: Sequence[Path]) -> list[str]:
    """A different name for each run directory, in which it does not matter how they are ordered.

    A folder that somebody named has that name. One that ``atts run`` named is called by its
    method, and by the values of the settings in which the runs of this method differ. Where that
    would be longer than ``LONGEST`` it is the method and the beginning of the digest; where two
    would have one name, the paths.

    >>> run_names([Path("runs/a"), Path("runs/b")]), run_names([Path("x/a"), Path("y/a")])
    (['a', 'b'], ['x/a', 'y/a'])
    >>> run_names([Path("runs/atts-1be15a13e53a9d30"), Path("runs/target-only-d99249398214dccf")])
    ['atts', 'target-only']
    """
    folders = [directory.resolve() for directory in directories]
    given = {folder: found for folder in folders if (found := _GIVEN.fullmatch(folder.name))}
    by_method: dict[str, list[Path]] = {}
    for folder, found in given.items():
        by_method.setdefault(found["method"], []).append(folder)
    names = {folder: folder.name for folder in folders}
    for method, some in by_method.items():
        for folder, label in zip(some, _labels(method, some), strict=True):
            digest, shard, shards = given[folder].group("digest", "shard", "shards")
            short = label if len(label) <= LONGEST else f"{method}-{digest[:4]}"
            names[folder] = f"{short}, shard {shard} of {shards}" if shard else short
    called = [names[folder] for folder in folders]
    for other in (directories, folders):  # two names, or even two relative paths, may be one
        often = Counter(called)
        called = [
            str(path) if often[name] > 1 else name for name, path in zip(called, other, strict=True)
        ]
    return called


def _labels(method: str, folders: Sequence[Path]) -> list[str]:
    """Method and differing settings of some of its runs, in their order."""
    if len(folders) == 1:
        return [method]
    settings = [_settings(folder) for folder in folders]
    keys = differing_keys(*settings)
    others = [key for key in keys if key not in _PLAIN]
    ends = Counter(map(_end, others))
    called = {key: "" for key in _PLAIN if key in keys}
    called |= {key: f"{_end(key) if ends[_end(key)] == 1 else key}=" for key in others}
    labels = []
    for each in settings:
        words = [f"{name}{_value(each[key])}" for key, name in called.items() if key in each]
        labels.append(", ".join([method, *words]))
    return labels


def _end(key: str) -> str:
    return key.split(".")[-1]


def _settings(folder: Path) -> dict[str, Any]:
    try:
        return read_config(folder).what_results_depend_on()
    except AttsError:  # whoever reads the run says what is wrong with it
        return {}


def _value(value: object) -> str:
    """A value in few words: of a path its end."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    text = text.rstrip("/").rsplit("/")[-1]
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"
