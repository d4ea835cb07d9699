"""Reads problems from JSON lines: ``id``, ``question``, ``answer``, optionally ``choices``."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from atts.errors import ProblemError
from atts.types import Problem

_REQUIRED = ("id", "question", "answer")


def read_problems(path: Path) -> list[Problem]:
    """Read a problem file, in its order.

    Each line is a JSON object with the text keys ``id``, ``question`` and ``answer``, and
    optionally ``choices``, a list of texts. Numbers are taken for ids, answers and choices, as
    they are written in Python; other keys are ignored, and so are blank lines.

    Raises:
        ProblemError: the file cannot be read, holds no problem, or a line is malformed or
            repeats an id; the message names the file and the line.
    """
    return [problem for problem, _ in read_entries(path)]


def read_entries(path: Path) -> list[tuple[Problem, dict[str, Any]]]:
    """The same, with all that each line says.

    Raises:
        ProblemError: see ``read_problems``.
    """
    entries: list[tuple[Problem, dict[str, Any]]] = []
    first_line: dict[str, int] = {}
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        values = _object(line, where)
        problem = _problem(values, where)
        if problem.id in first_line:
            raise ProblemError(
                f"{where}: the id {problem.id!r} was given before, in line "
                f"{first_line[problem.id]}; every problem needs an id of its own"
            )
        first_line[problem.id] = number
        entries.append((problem, values))
    if not entries:
        raise ProblemError(f"{path} holds no problems; write one JSON object a line")
    return entries


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, numbered from 1."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ProblemError(f"there is no problem file {path}; check the path") from None
    except IsADirectoryError:
        raise ProblemError(f"{path} is a folder; name a JSONL file in it") from None
    except OSError as error:
        raise ProblemError(f"cannot read the problem file {path}: {error}") from error
    # Not str.splitlines: a question may hold the separators U+2028 and U+0085 as they are.
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            line = raw.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise ProblemError(
                f"{path}, line {number}: not UTF-8 ({error.reason} at byte {error.start} of the "
                "line); save the file as UTF-8"
            ) from None
        if line:
            yield number, line


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProblemError(
            f"{where}: not valid JSON ({error}); write one JSON object a line"
        ) from None
    if not isinstance(value, dict):
        raise ProblemError(
            f"{where}: a JSON {type(value).__name__}, not an object; write "
            '{"id": ..., "question": ..., "answer": ...}'
        )
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _problem(values: dict[str, Any], where: str) -> Problem:
    if missing := [key for key in _REQUIRED if key not in values]:
        raise ProblemError(
            f"{where}: the key {missing[0]!r} is missing; every problem needs "
            f"{', '.join(_REQUIRED)}"
        )
    if not isinstance(values["question"], str):
        raise ProblemError(f"{where}: 'question' must be a text, got {values['question']!r}")
    choices = values.get("choices")
    if choices is None:
        choices = []
    if not isinstance(choices, list):
        raise ProblemError(f"{where}: 'choices' must be a list of texts, got {choices!r}")
    return Problem(
        id=_text(values["id"], "id", where),
        question=_text(values["question"], "question", where),
        answer=_text(values["answer"], "answer", where),
        choices=tuple(_text(choice, "choices", where) for choice in choices),
    )


def _text(value: object, key: str, where: str) -> str:
    """A text that is not blank; a number is written out."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ProblemError(f"{where}: {key!r} is too large a number; write it as a text")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ProblemError(f"{where}: {key!r} must be a text, got {value!r}")
    if not value.strip():
        raise ProblemError(f"{where}: {key!r} is blank; fill it in or delete the line")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ProblemError(
            f"{where}: {key!r} holds half of a surrogate pair, which is no character; mend the "
            "\\u escape"
        ) from None
    return value
