"""Finds the answer in a chain's text. A run stops a chain by the same rules as it is graded by."""

import re
from collections.abc import Sequence

from atts.grading.equivalence import equivalent, plain

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""What the options of a multiple-choice question are called, in order."""

_THOUGHT_ENDS = "</think>"

# An escaped character is consumed whole, so that \{ and \} do not count as braces. Every
# alternative is bounded or advances, so the search is linear in the text. The second backslash
# is for models that write \\boxed, as in a string literal.
_TOKEN = re.compile(r"(?P<box>\\\\?(?:boxed|fbox)\s*+\{)|\\.|(?P<open>\{)|(?P<close>\})", re.DOTALL)

# Capitals only, and never the article ("the answer is A good one") or the pronoun.
_LETTER = r"(?P<letter>[B-HJ-Z](?![A-Za-z])|[AI](?![A-Za-z]|\s+(?!because|since|as\b)[a-z]))"
_WRAPPED = rf"\W{{0,8}}(?:(?i:text|textbf|mathrm|mathbf)\{{\W?)?{_LETTER}"
_STATED = re.compile(
    rf"(?i:\banswer)\W{{0,4}}(?:(?i:\bis\b)|[:=])(?:\W{{0,3}}(?i:the\s|option\s|choice\s))*{_WRAPPED}"
    r"|(?i:\boption|\bchoice)\W{1,4}(?P<named>[A-Z])\W{1,4}(?i:is\s+(?:the\s+)?(?:correct|right|answer))"
)
_OPTION = re.compile(r"\(?(?P<letter>[A-Z])(?:$|[).:])")


def extract_answer(text: str, choices: Sequence[str] = ()) -> str | None:
    r"""The answer that a chain has come to, or None while there is none.

    Where the text holds ``</think>``, only what follows the first one counts. There it is what
    stands in the last complete box. If the question has choices it is a letter: that of the box,
    that of the choice whose text the box holds, or else that of the last plain statement
    ("ANSWER: B", "the correct answer is (B)", "option B is correct"). A box that fits no choice
    is an answer too, a wrong one.

    >>> extract_answer(r"First \boxed{1}.</think>It is \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    >>> extract_answer("Thus ANSWER: (B)", choices=("one", "two"))
    'B'
    >>> extract_answer(r"\boxed{two}", choices=("one", "two"))
    'B'
    """
    _, ends, rest = text.partition(_THOUGHT_ENDS)
    text = rest if ends else text
    boxed = extract_boxed(text)
    if not choices:
        return boxed
    letter = boxed and choice_letter(boxed, choices)
    return letter or _stated_letter(text, len(choices)) or boxed


def choice_letter(answer: str, choices: Sequence[str]) -> str | None:
    r"""The letter of the choice that an answer names or repeats.

    >>> choice_letter(r"\text{(B) two}", ("one", "two")), choice_letter("C", ("one", "two"))
    ('B', None)
    """
    known = LETTERS[: len(choices)]
    text = plain(answer)
    if (match := _OPTION.match(text)) and match["letter"] in known:
        return match["letter"]
    same = [
        letter for letter, choice in zip(known, choices, strict=False) if equivalent(choice, answer)
    ]
    return same[0] if len(same) == 1 else None


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
    # Most texts have none yet, and this is asked after every turn, of all of the chain.
    if "boxed" not in text and "fbox" not in text:
        return None
    answer: str | None = None
    answer_start = -1
    # One entry for each open brace: where a box's content starts, or None for a plain brace.
    open_braces: list[int | None] = []
    for token in _TOKEN.finditer(text):
        if token["box"]:
            open_braces.append(token.end())
        elif token["open"]:
            open_braces.append(None)
        elif token["close"] and open_braces:
            start = open_braces.pop()
            # Boxes inside each other close from the inside out; only a later start replaces.
            if start is not None and start > answer_start:
                content = text[start : token.start()].strip()
                if content:
                    answer, answer_start = content, start
    return answer


def _stated_letter(text: str, count: int) -> str | None:
    """The letter that the last plain statement gives, if it is one of ``count`` choices."""
    stated = [match["letter"] or match["named"] for match in _STATED.finditer(text)]
    return stated[-1] if stated and stated[-1] in LETTERS[:count] else None
