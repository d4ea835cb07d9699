"""YAML as people write it, read with bounds, and refused where it cannot be meant."""

from pathlib import Path
from typing import Any

import yaml

from atts.errors import ConfigError
from atts.files import read_plain

LARGEST_FILE = 1_000_000
"""Bytes of a file with keys and values."""
MOST_VALUES = 100_000
"""Values of such a file, those counted again that an alias repeats: a few lines of aliases of
aliases stand for billions."""


def read_yaml(path: Path, what: str = "the configuration ") -> dict[str, Any]:
    """The keys and values of a file; none, if it is empty.

    Raises:
        ConfigError: it cannot be read, is no YAML, holds a key twice or a value within itself, or
            stands for more values than any such file has.
    """
    try:
        text = read_plain(path, LARGEST_FILE).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {what}{path}: {error}") from error
    try:
        tree = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold keys and values, not a {type(tree).__name__}")
    return tree


def parse_yaml(text: str) -> Any:  # noqa: ANN401 - whatever it stands for
    """The value of a YAML text. What an alias repeats is a value of its own.

    Raises:
        ValueError: it is no YAML, holds a key twice or a value within itself, or stands for too
            many values.

    >>> parse_yaml("a: &x [1]\\nb: *x")
    {'a': [1], 'b': [1]}
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, {})
        return _unshared(loader.construct_document(node))
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    except yaml.MarkedYAMLError as error:  # in words that do not repeat the line: it may be a key's
        parts = filter(None, (error.context, error.problem))
        raise ValueError(f"{', '.join(parts)}{_place(error.problem_mark)}") from error
    # What is no date, or no number, is told by whatever its reading ran into.
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(str(error)) from error


def _check(node: yaml.Node, sizes: dict[yaml.Node, int | None]) -> int:
    """For how many values a node stands; ``sizes`` are those known, None of those under way."""
    if node in sizes:
        size = sizes[node]
        if size is None:
            raise ValueError(f"a value is part of itself{_place(node.start_mark)}")
        return size
    sizes[node] = None
    size = 1
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen and key.value != "<<":
                    raise ValueError(
                        f"the key {key.value[:60]!r} is there twice{_place(key.start_mark)}, and "
                        "only one of the two would count; take one out"
                    )
                seen.add((key.tag, key.value))
            size += _check(key, sizes) + _check(value, sizes)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_check(each, sizes) for each in node.value)
    if size > MOST_VALUES:
        place = _place(node.start_mark)
        raise ValueError(f"it stands for more than {MOST_VALUES:,} values{place}")
    sizes[node] = size
    return size


def _place(mark: yaml.Mark | None) -> str:
    return f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _unshared(value: Any) -> Any:  # noqa: ANN401 - as above
    """A copy in which no part is another: a setting that changes one must leave the other."""
    if isinstance(value, dict):
        return {key: _unshared(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_unshared(each) for each in value]
    return value
