r"""Compares two answers by algebra, with math-verify. Runs only in the processes of ``grader``.

SymPy may take for ever or all memory over a few characters (``9^{9^{9^9}}``), so who calls this
must be ready to lose the process. Only that process imports math-verify, which is slow. Answers
are read by a LaTeX grammar alone: math-verify's other reader, for plain expressions, ends in
Python's ``eval``.
"""

import contextlib
import logging
import re
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from atts.grading.equivalence import compare_exactly, without_idle_spaces
from atts.grading.expressions import value
from atts.grading.normalize import normalize
from atts.grading.units import read_measure
from atts.grading.values import compare_values, ends_of

Kind = Literal["single", "list", "set", "round", "square", "half"]

_MOST_PARTS = 60
_OPENING, _CLOSING = "([{", ")]}"
_AND = re.compile(
    r"\s*(?:,|;)?\s*(?:\\(?:text|mathrm|textrm)\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])"
    r"|\\(?:land|wedge|lor|vee)(?![A-Za-z]))\s*"
)
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
# "x \in \{1, 2\}", "(x, y) = (1, 2)", "x = 1, 2"
_LABEL = re.compile(
    r"^\s*(?:[A-Za-z](?:_\{?\w{1,3}\}?)?\s*\\in(?![A-Za-z])|"
    r"\(\s*[A-Za-z](?:_\{?\w{1,3}\}?)?(?:\s*,\s*[A-Za-z](?:_\{?\w{1,3}\}?)?)+\s*\)\s*(?:=|\\in(?![A-Za-z])))\s*"
)
_NAMED = re.compile(r"^\s*\\?[A-Za-z]{1,6}(?:_\{?\w{1,3}\}?)?(?:\([A-Za-z0-9]\))?\s*=")


class Structure(NamedTuple):
    """An answer and its parts."""

    kind: Kind
    parts: tuple[str, ...]
    text: str
    is_labelled: bool = False
    """Whether each part begins with a name of its own, as in ``x = 1, y = 2``."""


def read_structure(text: str) -> Structure:
    r"""The structure of a normalised text; what has one part and no brackets is ``single``.

    >>> read_structure(r"\{1, 2\}")[:2], read_structure("(0, 1]")[:2]
    (('set', ('1', '2')), ('half', ('0', '1')))
    >>> read_structure(r"2 \text{ and } 1")[:2], read_structure("(1,2),(3,4)")[:2]
    (('list', ('2', '1')), ('list', ('(1,2)', '(3,4)')))
    """
    text = _LABEL.sub("", text).strip()
    parts = _split(text)
    if len(parts) > 1:
        named = [_NAMED.match(part) is not None for part in parts]
        # x = 1, 2 are two values of one variable.
        if named[0] and not any(named[1:]) and text.count("=") == 1:
            parts[0] = parts[0].split("=", 1)[1].strip()
            named[0] = False
        # So are x = 1, x = 2.
        elif all(named) and len({part.split("=", 1)[0].strip() for part in parts}) == 1:
            parts = [part.split("=", 1)[1].strip() for part in parts]
            named = [False]
        return Structure("list", tuple(parts), text, all(named))
    opening, closing = text[:1], text[-1:]
    if text.startswith("\\{") and text.endswith("\\}") and _closes(text, 1):
        return Structure("set", tuple(_split(text[2:-2])), text)
    if text.startswith("{") and closing == "}" and _closes(text, 0):
        return read_structure(text[1:-1])
    inner = _split(text[1:-1]) if len(text) > 1 and opening in "([" and closing in ")]" else []
    if len(inner) > 1 and _closes(text, 0):
        kinds: dict[str, Kind] = {"()": "round", "[]": "square"}
        return Structure(kinds.get(opening + closing, "half"), tuple(inner), text)
    return Structure("single", (text,), text)


def _split(text: str) -> list[str]:
    """The parts between the commas that are in no brackets."""
    text = _AND.sub(",", text)
    # Where commas with spaces part the numbers, one without parts thousands.
    if re.search(r",\s", text):
        text = _THOUSANDS.sub("", text)
    parts, depth, begin, place = [], 0, 0, 0
    while place < len(text):
        character = text[place]
        if character == "\\" and text[place + 1 : place + 2] in ("{", "}"):
            place += 1
            character = text[place]
        if character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        elif character in ",;" and depth == 0:
            parts.append(text[begin:place])
            begin = place + 1
        place += 1
    parts.append(text[begin:])
    if "\\begin" in text or len(parts) > _MOST_PARTS:
        return [text]
    return [part.strip() for part in parts if part.strip()] or [text]


def _closes(text: str, begin: int) -> bool:
    """Whether the bracket at a place is closed by the last one of the text."""
    depth = 0
    for place in range(begin, len(text)):
        if text[place] in _OPENING:
            depth += 1
        elif text[place] in _CLOSING:
            depth -= 1
            if depth == 0:
                return place == len(text) - 1
    return False


# A line break and the letters of a relation, where a command was meant: nothing that can be read.
_ESCAPED = re.compile(r"\\\\(?:l|g|n)(?:e|t|eq)q?(?![A-Za-z])|\\\\in(?![A-Za-z])")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_DEEPEST = 4


def start(memory_bytes: int) -> None:
    """Set up a process that grades: little memory, and no log lines of what it is given."""
    import math_verify  # noqa: F401 - so that the first pair's time does not go into this

    logging.disable(logging.CRITICAL)
    try:
        import resource
    except ImportError:  # Windows has none; the time limit is all there is
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        memory_bytes = min(memory_bytes, hard)
    # macOS refuses this limit.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, hard))


def same_by_algebra(one: str, other: str) -> bool | None:
    r"""Whether two answers are the same mathematics; symmetric.

    Lists, sets and tuples are compared part by part: the order counts in a tuple alone, and a set
    is no tuple. math-verify is asked both ways, and both must agree: it takes ``1`` for
    ``2x + z = 1`` one way round only.

    Returns:
        None if one of them cannot be read, or there was not enough memory or stack.
    """
    try:
        return _same(normalize(one), normalize(other), 0)
    except (MemoryError, RecursionError):
        return None


def _same(one: str, other: str, depth: int) -> bool | None:
    if depth:
        for compare in (compare_exactly, compare_values):
            if (verdict := compare(one, other)) is not None:
                return verdict
    if _ESCAPED.search(one) or _ESCAPED.search(other):
        return None
    first, second = read_structure(one), read_structure(other)
    if depth < _DEEPEST and (verdict := _by_parts(first, second, depth)) is not None:
        return verdict
    return _by_math_verify(*_prepared(one, other))


def _by_parts(one: Structure, other: Structure, depth: int) -> bool | None:
    """A verdict on lists, sets and tuples; None where math-verify must tell."""
    kinds = {one.kind, other.kind}
    sizes = len(one.parts), len(other.parts)
    if "set" in kinds and kinds & {"round", "square", "half"}:
        inner, outer = (one, other) if one.kind == "set" else (other, one)
        if len(inner.parts) == 1:
            return _same(inner.parts[0], outer.text, depth + 1)
        return False
    if kinds <= {"set", "list"}:
        return _same_members(one, other, depth)
    brackets = {text[:1] + text[-1:] for text in (one.text, other.text)}
    if kinds <= {"round", "square", "half"} and len(brackets) > 1 and sizes == (2, 2):
        return False  # an interval with its ends is another one than without
    if kinds == {"round"}:
        if sizes[0] != sizes[1]:
            return None
        return _all(
            _same(first, second, depth + 1)
            for first, second in zip(one.parts, other.parts, strict=True)
        )
    if "single" in kinds and kinds & {"set", "list"}:
        many, single = (other, one) if one.kind == "single" else (one, other)
        if len(set(many.parts)) == 1:
            return _same(many.parts[0], single.text, depth + 1)
        # "32, 349" is no number; but 2 and -2 are \pm 2.
        if value(read_measure(single.text).number) is not None:
            return False
    return None


def _same_members(one: Structure, other: Structure, depth: int) -> bool | None:
    """Whether each part of one is a part of the other; each only counts once."""
    if one.is_labelled != other.is_labelled and len(one.parts) == len(other.parts):
        # x = 1, y = 2 are 1 and 2 in this order.
        return _all(
            _same(first, second, depth + 1)
            for first, second in zip(one.parts, other.parts, strict=True)
        )
    for first, second in ((one, other), (other, one)):
        for part in first.parts:
            verdicts = [_same(part, candidate, depth + 1) for candidate in second.parts]
            if True in verdicts:
                continue
            numbers = all(
                value(read_measure(text).number) is not None for text in (part, *second.parts)
            )
            return False if numbers else None
    return True


def _all(verdicts: Any) -> bool | None:  # noqa: ANN401
    """True if all are, False if one is, or None."""
    result: bool | None = True
    for verdict in verdicts:
        if verdict is False:
            return False
        if verdict is None:
            result = None
    return result


def _prepared(one: str, other: str) -> tuple[str, str]:
    """Both without words around them, and without the equation that one ends in the answer."""
    texts = []
    for text in ends_of(one, other):
        measure = read_measure(text)
        text = measure.number if measure.base is None else text
        texts.append(text + "\\%" if measure.percent else text)
    return texts[0], texts[1]


def _by_math_verify(one: str, other: str) -> bool | None:
    first, second = _read(without_idle_spaces(one)), _read(without_idle_spaces(other))
    if not first or not second:
        return False if _is_no_number(one, other) or _is_no_number(other, one) else None
    return _verify(first, second) and _verify(second, first)


def _is_no_number(text: str, number: str) -> bool:
    """Whether one text is in no notation of numbers at all, and the other is a number."""
    foreign = not re.search(r"[0-9\\]", text) or _CONTROL.search(text)
    return bool(foreign) and value(number) is not None


@lru_cache(maxsize=1024)
def _read(answer: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    # The time limits of math-verify are alarms; here the process is killed instead.
    found: list[Any] = parse(
        f"\\boxed{{{answer}}}",
        (LatexExtractionConfig(boxed_match_priority=0),),
        fallback_mode="no_fallback",
        parsing_timeout=None,
    )
    return found


def _verify(gold: list[Any], answer: list[Any]) -> bool:
    from math_verify import verify

    try:
        same: bool = verify(
            gold, answer, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True
        )
    except (MemoryError, RecursionError):
        raise
    except Exception:  # SymPy raises all kinds where two things cannot be compared
        return False
    return same
