"""What can be said at once of two answers: equal or not as text, or exactly as numbers.

What is left undecided here needs algebra; ``atts.grading.grader`` does that in other processes.
"""

import re
from fractions import Fraction

from atts.grading.normalize import normalize

LONGEST = 1000
"""Longer answers are compared as they stand: no real answer is, and numbers stay cheap."""

_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|mathrm|mathbf|mathit|emph|mbox)\s*\{(?P<inside>[^{}]*)\}"
)
_CHOICE = re.compile(r"\(([A-Za-z])\)")
_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")
# Shorter runs of letters may be products of variables, unless they are set as text.
_WORDS = re.compile(r"[A-Za-z]{4,}|[A-Za-z]+(?:[ -][A-Za-z]+)+")
_LETTERS = re.compile(r"[A-Za-z]+(?:[ -][A-Za-z]+)*")
_LETTER = re.compile(r"([A-Za-z])")
_NUMERAL_WITH_BASE = re.compile(r"([0-9A-F]+)_\{?([0-9]+)\}?")
_IDLE_SPACE = re.compile(r"(?<!\w) | (?!\w)")

_DECIMAL = re.compile(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+")
_RATIO = re.compile(r"(?P<over>[0-9]+)/(?P<under>[0-9]+)")
_FRAC = re.compile(r"\\frac\{(?P<over>-?[0-9]+)\}\{(?P<under>-?[0-9]+)\}")


def equivalent(gold: str, answer: str) -> bool:
    r"""Whether an answer is, without any algebra, the gold answer.

    Both are brought to one form, which is compared exactly. Integers, decimals, ``a/b`` and
    ``\frac{a}{b}`` become fractions; anything else stays text, without what does not change its
    meaning: ``$``, a surrounding ``\text{}``, idle spaces, a full stop, the brackets of a single
    letter, a percent sign that the other may lack. ``x+1`` is not ``1+x``. Nothing is evaluated.

    >>> equivalent("1234.5", "$1,234.50$")
    True
    >>> equivalent(r"\frac{1}{2}", "0.5")
    True
    >>> equivalent("B", r"\text{(B)}")
    True
    >>> equivalent("1/3", "0.333")
    False
    """
    return compare_exactly(gold, answer) is True


def compare_exactly(gold: str, answer: str) -> bool | None:
    r"""The same, but None where only algebra can tell.

    Two numbers, two words, two single letters and two numerals with a base are compared as such,
    and then different is different: algebra would take the words for products of letters, and
    drop the bases.

    >>> compare_exactly("0.5", "1/2"), compare_exactly("0.5", "0.51"), compare_exactly("x+1", "1+x")
    (True, False, None)
    >>> compare_exactly("even", "Even"), compare_exactly("even", "neve")
    (True, False)
    """
    one, other = _canonical(gold), _canonical(answer)
    if one == other or _without_percent(one) == _without_percent(other):
        return True
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return False
    if isinstance(one, Fraction) or isinstance(other, Fraction):
        return None
    words = _LETTERS if _TEXT.search(gold) or _TEXT.search(answer) else _WORDS
    if words.fullmatch(one) and words.fullmatch(other):
        return one.casefold() == other.casefold()
    for kind in (_LETTER, _NUMERAL_WITH_BASE):
        if (first := kind.fullmatch(one)) and (second := kind.fullmatch(other)):
            return first.groups() == second.groups()
    return None


def plain(text: str) -> str:
    """The text without typesetting that carries no meaning; see ``equivalent``."""
    text = text.strip()
    return text if len(text) > LONGEST else _plain(text)


def without_idle_spaces(text: str) -> str:
    """The text without the spaces that part no words."""
    return _IDLE_SPACE.sub("", " ".join(text.split()))


def _without_percent(value: str | Fraction) -> str | Fraction:
    if isinstance(value, Fraction) or not value.endswith("%"):
        return value
    bare = value.removesuffix("%").removesuffix("\\").rstrip()
    number = _number(bare)
    return bare if number is None else number


def _canonical(text: str) -> str | Fraction:
    text = text.strip()
    if len(text) > LONGEST:
        return text
    plain = _plain(text)
    number = _number(plain)
    return plain if number is None else number


def _plain(text: str) -> str:
    """The text without typesetting that carries no meaning."""
    text = normalize(text)
    while match := _TEXT.fullmatch(text):
        text = normalize(match["inside"])
    # Before spaces go: "1,234" is a number, "1, 234" are two.
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    text = without_idle_spaces(text)
    return _CHOICE.sub(r"\1", text) if _CHOICE.fullmatch(text) else text


def _number(text: str) -> Fraction | None:
    """The number that the text writes, if that is all it does."""
    sign = -1 if text.startswith("-") else 1
    unsigned = text[1:] if text.startswith(("-", "+")) else text
    if match := _FRAC.fullmatch(unsigned) or _RATIO.fullmatch(unsigned):
        over, under = int(match["over"]), int(match["under"])
        return sign * Fraction(over, under) if under else None
    return sign * Fraction(unsigned) if _DECIMAL.fullmatch(unsigned) else None
