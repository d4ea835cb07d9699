"""Reads problems from JSON lines: ``id``, ``question``, and, where there are, ``answer`` and
``choices``.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, Self

from atts.errors import ProblemError
from atts.files import read_plain
from atts.grading.choices import choice_letter
from atts.grading.equivalence import equivalent
from atts.problems.programs import read_program_problem
from atts.text import shortened
from atts.types import LETTERS, Problem

_REQUIRED = ("id", "question")


_ESCAPES = {"\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}
# What is left of commands whose first letter was taken for an escape: \frac, \times, \neq.
_LOST = re.compile(
    "\b(?:oxed|eta|egin|inom|ar|igl?|igr|ullet|oldsymbol|mod|ackslash|ot)(?![A-Za-z])"
    "|\f(?:rac|box|orall|loor|lat)(?![a-z])"
    "|\r(?:ight|ho|angle|ightarrow|floor|ceil|m(?=[ {]))(?![a-z])"
    "|\t(?:imes|ext(?:bf|it|rm)?(?=[{ ])|heta|frac|au|ilde|riangle|herefore)(?![a-z])"
    "|\t(?:o(?=\\\\)|an(?=[({^\\\\]))"
    "|\n(?:eq|abla|otin|mid|earrow|ot(?=[ =<>\\\\])|e(?= ?[0-9])|u(?=[_^=]))(?![a-z])"
)


class _Decimal(float):
    """A number of the file, with its digits."""

    written: str

    def __new__(cls, written: str) -> Self:
        number = super().__new__(cls, written)
        number.written = written
        return number


def read_problems(path: Path) -> list[Problem]:
    """Read a problem file, in its order.

    Each line is a JSON object with the text keys ``id`` and ``question``, and optionally ``answer``
    and ``choices``, a list of texts. Without an answer, or with null, the chains of a problem are
    not graded. Numbers are taken for ids, answers and choices, with
    the digits that the file has; other keys are ignored, and so are blank lines. Of an answer that
    ends in ``#### 42`` the number counts. The answer to a question with choices is a letter, or the
    text or the value of a choice. A line with ``tests`` asks for a program, as does one of
    HumanEval's or LiveCodeBench's keys; see ``problems.programs``.

    Raises:
        ProblemError: the file cannot be read, holds no problem, or a line is malformed, repeats an
            id, lacks the key ``answer`` that other lines have, holds what a single backslash has
            made of LaTeX, or has a gold answer that no choice has; the message names the file and
            the line.
    """
    return [problem for problem, _ in read_entries(path)]


def read_entries(path: Path) -> list[tuple[Problem, dict[str, Any]]]:
    """The same, with all that each line says.

    Raises:
        ProblemError: see ``read_problems``.
    """
    entries: list[tuple[Problem, dict[str, Any]]] = []
    first_line: dict[str, int] = {}
    has_answers: bool | None = None
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
        if problem.tests is None and has_answers is None:
            has_answers = "answer" in values
        if problem.tests is None and ("answer" in values) != has_answers:
            raise ProblemError(
                f"{where}: the key 'answer' is in some lines and missing in others; "
                "where no answer is known, leave it out of all, or write null"
            )
        entries.append((problem, values))
    if not entries:
        raise ProblemError(f"{path} holds no problems; write one JSON object a line")
    return entries


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, numbered from 1."""
    try:
        content = read_plain(path)
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
        value = json.loads(line, parse_constant=_refuse_constant, parse_float=_Decimal)
    except (ValueError, RecursionError) as error:
        advice = "write one JSON object a line"
        if "escape" in str(error):
            advice = "write a backslash of LaTeX twice, or write the file with a JSON library"
        raise ProblemError(f"{where}: not valid JSON ({error}); {advice}") from None
    if not isinstance(value, dict):
        raise ProblemError(
            f"{where}: a JSON {type(value).__name__}, not an object; write "
            '{"id": ..., "question": ..., "answer": ...}'
        )
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _problem(values: dict[str, Any], where: str) -> Problem:
    if problem := read_program_problem(values, where):
        return problem
    if missing := [key for key in _REQUIRED if key not in values]:
        raise ProblemError(
            f"{where}: the key {missing[0]!r} is missing; every problem needs "
            f"{', '.join(_REQUIRED)}"
        )
    if not isinstance(values["question"], str):
        raise ProblemError(f"{where}: 'question' must be a text, got {_shown(values['question'])}")
    choices = values.get("choices")
    if choices is None:
        choices = []
    if not isinstance(choices, list):
        raise ProblemError(f"{where}: 'choices' must be a list of texts, got {_shown(choices)}")
    problem = Problem(
        id=_text(values["id"], "id", where),
        question=_text(values["question"], "question", where),
        answer=None
        if values.get("answer") is None
        else _gold(_text(values["answer"], "answer", where), where),
        choices=tuple(_text(choice, "choices", where) for choice in choices),
    )
    for key, text in (
        ("question", problem.question),
        ("answer", problem.answer or ""),
        *(("choices", choice) for choice in problem.choices),
    ):
        _refuse_lost_backslash(text, key, where)
    if problem.choices:
        _check_choices(problem, values.get("answer"), where)
    return problem


def _gold(answer: str, where: str) -> str:
    """The answer, or what follows ``####`` at its end, as in GSM8K."""
    _, mark, after = answer.rpartition("####")
    if not mark:
        return answer
    if not after.strip():
        raise ProblemError(f"{where}: 'answer' has nothing after ####; write the answer alone")
    return after.strip()


def _refuse_lost_backslash(text: str, key: str, where: str) -> None:
    if lost := _LOST.search(text):
        letter = _ESCAPES[lost[0][0]]
        raise ProblemError(
            f"{where}: {key!r} holds a control character where \\{letter}{lost[0][1:]} was meant; "
            f"in JSON a backslash of LaTeX is written twice: \\\\{letter}{lost[0][1:]}"
        )


def _check_choices(problem: Problem, written: object, where: str) -> None:
    count = len(problem.choices)
    if count > len(LETTERS):
        raise ProblemError(
            f"{where}: {count} choices, but there are letters for {len(LETTERS)}; leave some out"
        )
    if problem.answer is None:
        return
    # 2 may be the value of a choice, but not where the choice says "two".
    gold = problem.answer
    is_index = isinstance(written, int) and not any(
        equivalent(choice, gold) for choice in problem.choices
    )
    if not is_index and choice_letter(gold, problem.choices):
        return
    last = LETTERS[count - 1]
    advice = f"write its letter, A to {last}, or its text"
    if is_index or gold.isdecimal():
        advice = f"an index is not taken: {advice}"
    raise ProblemError(
        f"{where}: the answer {gold[:60]!r} is none of the {count} choices; {advice}"
    )


def _shown(value: object) -> str:
    """What stands where something else should."""
    try:
        return shortened(repr(value), 60)
    except (ValueError, RecursionError):  # a number of more digits than Python writes
        return f"a JSON {type(value).__name__}"


def _text(value: object, key: str, where: str) -> str:
    """A text that is not blank; a number is written out."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ProblemError(f"{where}: {key!r} is too large a number; write it as a text")
    if isinstance(value, _Decimal):
        return value.written
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ProblemError(f"{where}: {key!r} must be a text, got {_shown(value)}")
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
