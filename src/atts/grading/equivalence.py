"""Decides whether an answer equals the gold answer: as text, or exactly as a number."""

import re
from fractions import Fraction

_LONGEST = 1000
"""Longer answers are compared as they stand: no real answer is, and numbers stay cheap."""

_TYPESETTING = (
    ("\\dfrac", "\\frac"),
    ("\\tfrac", "\\frac"),
    ("\N{MINUS SIGN}", "-"),
    ("{,}", ","),
    ("\\!", ""),
    ("\\,", ""),
    ("\\$", ""),
    ("$", ""),
)
# \left is a size, \leftarrow is not.
_SIZE = re.compile(r"\\(?:left|right)(?![A-Za-z])")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf)\s*\{(?P<inside>[^{}]*)\}")
_CHOICE = re.compile(r"\(([A-Za-z])\)")
_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_IDLE_SPACE = re.compile(r"(?<!\w) | (?!\w)")

_DECIMAL = re.compile(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+")
_RATIO = re.compile(r"(?P<over>[0-9]+)/(?P<under>[0-9]+)")
_FRAC = re.compile(r"\\frac\{(?P<over>-?[0-9]+)\}\{(?P<under>-?[0-9]+)\}")


def equivalent(gold: str, answer: str) -> bool:
    r"""Whether an answer is the gold answer.

    Both are brought to one form, which is compared exactly. Integers, decimals, ``a/b`` and
    ``\frac{a}{b}`` become fractions; anything else stays text, without what does not change its
    meaning: ``$``, a surrounding ``\text{}``, idle spaces, a full stop, the brackets of a single
    letter. No algebra: ``x+1`` is not ``1+x``. Nothing is evaluated.

    >>> equivalent("1234.5", "$1,234.50$")
    True
    >>> equivalent(r"\frac{1}{2}", "0.5")
    True
    >>> equivalent("B", r"\text{(B)}")
    True
    >>> equivalent("1/3", "0.333")
    False
    """
    return _canonical(gold) == _canonical(answer)


def _canonical(text: str) -> str | Fraction:
    text = text.strip()
    if len(text) > _LONGEST:
        return text
    plain = _plain(text)
    number = _number(plain)
    return plain if number is None else number


def _plain(text: str) -> str:
    """The text without typesetting that carries no meaning."""
    text = text.replace(",\\! ", ",")
    for typeset, plain in _TYPESETTING:
        text = text.replace(typeset, plain)
    text = _SIZE.sub("", text).strip().rstrip(".")
    if match := _TEXT.fullmatch(text):
        text = match["inside"].strip().rstrip(".")
    # Before spaces go: "1,234" is a number, "1, 234" are two.
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    text = _IDLE_SPACE.sub("", " ".join(text.split()))
    return _CHOICE.sub(r"\1", text) if _CHOICE.fullmatch(text) else text


def _number(text: str) -> Fraction | None:
    """The number that the text writes, if that is all it does."""
    sign = -1 if text.startswith("-") else 1
    unsigned = text[1:] if text.startswith(("-", "+")) else text
    if match := _FRAC.fullmatch(unsigned) or _RATIO.fullmatch(unsigned):
        over, under = int(match["over"]), int(match["under"])
        return sign * Fraction(over, under) if under else None
    return sign * Fraction(unsigned) if _DECIMAL.fullmatch(unsigned) else None
