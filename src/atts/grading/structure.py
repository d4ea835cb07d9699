r"""What an answer is made of: a list, a set, a tuple or an interval, and its parts."""

import re
from typing import Literal, NamedTuple

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
