"""Finds the answer in a chain's text. A run stops a chain by the same rules as it is graded by."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from atts.grading.choices import choice_letter, stated_letter
from atts.models.thought import Parts, divide

_BOX = r"\\\\?(?:boxed|fbox|framebox)"

# An escaped character is consumed whole, so that \{ and \} do not count as braces. Every
# alternative is bounded or advances, so the search is linear in the text. The second backslash
# is for models that write \\boxed, as in a string literal. \framebox may name a width.
_TOKEN = re.compile(
    rf"(?P<box>{_BOX}\s*+(?:\[[^\[\]{{}}]{{0,40}}\]\s*+){{0,2}}\{{)"
    # Without braces a box holds what follows: a number, a letter, or a command with its arguments.
    rf"|{_BOX}\s*+(?P<bare>[+-]?[0-9]+(?:[.,][0-9]+)*(?:/[0-9]+)?|[A-Z](?![A-Za-z])"
    r"|[a-z](?=\s*(?:\$|\\\)|\\\]))|\\[dt]?frac\{[^{}]{1,40}\}\{[^{}]{1,40}\}"
    r"|\\(?:text|mathrm|mathbf|sqrt)\{[^{}]{1,80}\})"
    r"|\\.|(?P<open>\{)|(?P<close>\})",
    re.DOTALL,
)

_DELIMITER = r"(?:\$\$?|\\[()\[\]]|\*\*)"
_AND = (
    r"(?:[,;&]|\\q?quad|\\[,;:! ]|\\\\|\s|\band\b|\bor\b"
    r"|\\(?:text|mathrm|textrm)\s?\{\s*(?:,?\s*(?:and|or)\b|[,;])?\s*\})"
)
_NAME = r"(?:\\?[A-Za-z]{1,5}(?:_\{?\w{1,3}\}?)?\s{0,3}=)"
# Between two boxes of one answer: a comma, "and", perhaps the name of what the next one is.
_JOINED = re.compile(rf"(?:{_DELIMITER}|{_AND}){{0,24}}(?:{_NAME}|{_DELIMITER}|\s){{0,6}}")
_SAYS_SO = re.compile(r"[,;&]|\band\b|\bor\b|\\q?quad|\\text")
_TEXT = re.compile(r"\\(?:text|mbox|mathrm)\s?\{[^{}]*\}|\\q?quad")
_TAKEN_BACK = re.compile(r"(?i)\b(?:not|no|wrong|false|instead|but|so|then|hence|actually)\b")
_LEAVES_FORMULA = re.compile(r"\$|\\[()\[\]]|\n\s*\n|[.!?](?:\s|$)|[A-Za-z]{4,}")
_LONGEST_BETWEEN = 80
_MOST_PARTS = 50


class Box(NamedTuple):
    """A complete box that holds something."""

    start: int
    """Where its content starts."""
    end: int
    """Where the text goes on after it."""
    begin: int
    """Where its command begins."""
    content: str
    has_braces: bool = True


def find_boxes(text: str) -> list[Box]:
    r"""All complete boxes that hold something, by where they start; takes linear time.

    >>> [box.content for box in find_boxes(r"\boxed{1}, \fbox 2 or \framebox[9pt]{\{3}, \boxed{4")]
    ['1', '2', '\\{3']
    """
    # Most texts have none yet, and this is asked after every turn, of all of the chain.
    if "boxed" not in text and "fbox" not in text and "framebox" not in text:
        return []
    boxes: list[Box] = []
    # One entry for each open brace: the box that it opens, or None for a plain brace.
    open_braces: list[re.Match[str] | None] = []
    for token in _TOKEN.finditer(text):
        if token["box"]:
            open_braces.append(token)
        elif token["bare"]:
            boxes.append(
                Box(token.start("bare"), token.end(), token.start(), token["bare"].strip(), False)
            )
        elif token["open"]:
            open_braces.append(None)
        elif token["close"] and open_braces:
            opened = open_braces.pop()
            content = text[opened.end() : token.start()].strip() if opened else ""
            if opened and content:
                boxes.append(Box(opened.end(), token.end(), opened.start(), content))
    return sorted(boxes)


def extract_boxed(text: str) -> str | None:
    r"""The content of the last complete ``\boxed{...}``, without surrounding spaces.

    Braces nest; ``\{`` and ``\}`` do not count; ``\fbox`` counts as a box. A box that is not
    closed is passed over, as is one that holds nothing. Of boxes inside each other the
    innermost, which begins last, is taken. Takes time linear in the length of the text.

    Returns:
        None if no complete box holds anything.

    >>> extract_boxed(r"So \boxed{1}, no: \boxed{\frac{1}{2}}. Or \boxed{3")
    '\\frac{1}{2}'
    >>> extract_boxed(r"The answer goes into \boxed{}.") is None
    True
    """
    braced = [box for box in find_boxes(text) if box.has_braces]
    return braced[-1].content if braced else None


def last_answer(text: str, since: int = 0) -> str | None:
    r"""What the last box says, or the last boxes together where they are joined.

    Boxes that follow each other with nothing but a comma, "and" or the name of the next one
    between them, or within one formula, are one answer of several parts. Boxes apart are tries,
    of which the last counts.

    Args:
        text: what is searched.
        since: boxes that end before this place do not count.

    >>> last_answer(r"The roots are $\boxed{3}$ and $\boxed{5}$.")
    '3, 5'
    >>> last_answer(r"First \boxed{4}. That fails. So it is \boxed{9}.")
    '9'
    """
    boxes = _innermost([box for box in find_boxes(text) if box.end > since])[-_MOST_PARTS:]
    if not boxes:
        return None
    parts = [boxes[-1].content]
    for before, after in zip(reversed(boxes[:-1]), reversed(boxes[1:]), strict=True):
        if not _are_joined(text, before, after):
            break
        parts.insert(0, before.content)
    return ", ".join(dict.fromkeys(parts))


def joins_on(text: str) -> bool:
    r"""Whether a text ends after a box with a word that joins another one to it.

    >>> joins_on(r"\boxed{3} and "), joins_on(r"\boxed{3}, $y="), joins_on(r"\boxed{3}.")
    (True, True, False)
    """
    boxes = find_boxes(text) if text and text[-_LONGEST_BETWEEN:].rfind("}") >= 0 else []
    between = text[boxes[-1].end :] if boxes else ""
    return bool(_SAYS_SO.search(between) and _JOINED.fullmatch(between))


def _innermost(boxes: list[Box]) -> list[Box]:
    """The boxes that hold no other one."""
    kept: list[Box] = []
    for box in boxes:
        while kept and kept[-1].end >= box.end:
            kept.pop()
        kept.append(box)
    return kept


def _are_joined(text: str, before: Box, after: Box) -> bool:
    if after.begin - before.end > _LONGEST_BETWEEN:
        return False
    between = text[before.end : after.begin]
    if _JOINED.fullmatch(between):
        # Without a word of joining, boxes on different lines are one answer said twice.
        return bool(_SAYS_SO.search(between)) or "\n" not in between
    return _in_one_formula(text, before, after) and not re.match(
        r"\s*(?:=|\\approx|\\equiv|\\to|\\(?:implies|Rightarrow|Longrightarrow|rightarrow))",
        between,
    )


def _in_one_formula(text: str, before: Box, after: Box) -> bool:
    between = text[before.end : after.begin]
    # What a formula says in words is part of it, but it may take the first box back.
    if _TAKEN_BACK.search(between) or _LEAVES_FORMULA.search(_TEXT.sub("", between)):
        return False
    # A formula was opened before the first one and is closed after the last.
    opened = text.rfind("$", 0, before.begin), text.rfind("\\[", 0, before.begin)
    closed = text.find("$", after.end), text.find("\\]", after.end)
    return (max(opened) >= 0 and max(closed) >= 0) or "\\(" in text[: before.begin]


_END_OF_WORD = re.compile(r"(?<!\w)\w{1,40}\Z")


def extract_answer(
    text: str,
    choices: Sequence[str] = (),
    ends: Iterable[str] | None = None,
    in_thought: bool = False,
    since: int = 0,
    finished: bool = True,
) -> str | None:
    r"""The answer that a chain has come to, or None while there is none.

    It is looked for after the end of the thought. There it is what the last box holds, or the last
    boxes where they are joined. If the question has choices it is a letter: that of the box, that
    of the choice whose text or value the box holds, or else that of the last plain statement
    ("ANSWER: B", "the correct answer is (B)", a letter alone). Where there is neither, the last box
    of the thought counts. A box that fits no choice is an answer too, a wrong one.

    Args:
        text: of the chain.
        choices: of the question.
        ends: the ends of a thought; None takes those that are known.
        in_thought: whether the text begins inside a thought that the prompt has opened.
        since: only what stands after this place is an answer.
        finished: whether the text is all that there will be. If not, a last word or a list of boxes
            that may go on is no answer yet, nor is the box of a thought that has ended.

    >>> extract_answer(r"First \boxed{1}.</think>It is \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    >>> extract_answer("Thus ANSWER: (B)", choices=("one", "two"))
    'B'
    >>> extract_answer("<think>Maybe the answer is B.", choices=("one", "two")) is None
    True
    """
    if not choices and "box" not in text:  # asked in every turn, mostly in vain
        return None
    goes_on = not finished and joins_on(text)
    if not finished:
        text = _END_OF_WORD.sub("", text)
    parts = _after(text, None if ends is None else tuple(ends), in_thought, since)
    boxed = None if goes_on else last_answer(parts.answer)
    if choices:
        letter = boxed and choice_letter(boxed, choices)
        boxed = letter or stated_letter(parts.answer, choices, parts.is_over) or boxed
    if boxed is not None or goes_on or (parts.is_over and not finished):
        return boxed
    thought = last_answer(parts.thought)
    return choice_letter(thought, choices) or thought if thought and choices else thought


def _after(text: str, ends: tuple[str, ...] | None, in_thought: bool, since: int) -> Parts:
    """The parts of the text after a place; what comes before says only whether it is a thought."""
    if not since:
        return divide(text, ends, in_thought)
    before = divide(text[:since], ends, in_thought)
    if before.is_over:
        after = divide(text, ends, in_thought).answer
        return Parts("", after[len(before.answer) :], True)
    return divide(text[since:], ends, in_thought or bool(before.thought))
