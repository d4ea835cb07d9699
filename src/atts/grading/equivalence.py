"""What can be said at once of two answers: equal or not as text, exactly as numbers, or by value.

What is left undecided here needs algebra; ``atts.grading.grader`` does that in other processes.
"""

import re
from fractions import Fraction

from atts.grading.expressions import Value, value
from atts.grading.normalize import normalize
from atts.grading.units import Measure, read_measure

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
    if len(text) > LONGEST:  # Python turns no more than 4,300 digits into a number
        return None
    sign = -1 if text.startswith("-") else 1
    unsigned = text[1:] if text.startswith(("-", "+")) else text
    if match := _FRAC.fullmatch(unsigned) or _RATIO.fullmatch(unsigned):
        over, under = int(match["over"]), int(match["under"])
        return sign * Fraction(over, under) if under else None
    return sign * Fraction(unsigned) if _DECIMAL.fullmatch(unsigned) else None


_CLOSE = 1e-12

# The name of what an equation gives: x, S_5, AB, f(3), \angle ABC, \text{Area}.
_NAME = re.compile(
    r"\s*(?:\\(?:angle|triangle|Delta|overline|text|mathrm|mathbf|vec|alpha|beta|theta|lambda|mu|phi)"
    r"(?![A-Za-z])\s*)?\{?[A-Za-z]{1,12}(?:\s[A-Za-z]{1,12}){0,3}\}?'?(?:_\{?\w{1,3}\}?)?"
    r"(?:\([^()=]{1,12}\))?\s*"
)


def compare_values(one: str, other: str) -> bool | None:
    r"""Whether two answers are the same number, whatever words, units or markup are around it.

    Returns:
        None if one of them is no closed expression, or algebra must decide.

    >>> compare_values("3", "3 treeks"), compare_values("250000", "2.5e5")
    (True, True)
    >>> compare_values("12", r"12 \text{ or more}"), compare_values("x+1", "1+x")
    (False, None)
    """
    if max(len(one), len(other)) > LONGEST:
        return None
    first, second = read_measure(normalize(one)), read_measure(normalize(other))
    if first.says != second.says:
        return False
    if first.unit and second.unit and first.unit != second.unit:
        return False
    if first.base or second.base:
        return _same_numeral(first, second)
    if first.percent != second.percent and not (first.says or second.says):
        # A percent sign may be left out, and may stand for hundredths: algebra tells.
        values = value(first.number), value(second.number)
        return True if None not in values and values[0] == values[1] else None
    return _compare(*ends_of(first.number, second.number))


def same_value(one: str, other: str) -> bool:
    r"""Whether two expressions have the same value, variables included: at two points.

    >>> same_value("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}"), same_value("x(x+1)", "x^2+x")
    (True, True)
    """
    verdict = compare_values(one, other)
    if verdict is not None or max(len(one), len(other)) > LONGEST:
        return verdict is True
    sides = ends_of(*(read_measure(normalize(text)).number for text in (one, other)))
    return all(
        (first := value(sides[0], point)) is not None
        and (second := value(sides[1], point)) is not None
        and _are_close(first, second)
        for point in (1, 2)
    )


def ends_of(one: str, other: str) -> tuple[str, str]:
    """Both texts; of an equation that ends in the answer, its end.

    >>> ends_of("10", "8 + 2 = 10"), ends_of("5", "x = 5"), ends_of("2x + z = 1", "1")
    (('10', '10'), ('5', '5'), ('2x + z = 1', '1'))
    """
    is_equation = ("=" in one, "=" in other)
    return (
        _end(one, named=not is_equation[1]) if is_equation[0] else one,
        _end(other, named=not is_equation[0]) if is_equation[1] else other,
    )


def _end(text: str, named: bool) -> str:
    sides = text.split("=")
    last = sides[-1].strip()
    if not last or re.search(r"[<>,;]|\\(?:l|g)e(?![a-z])|\\ne|\\approx|\\text", text):
        return text
    if named and all(_NAME.fullmatch(side) for side in sides[:-1]):
        return last
    begin = 1 if named and _NAME.fullmatch(sides[0]) else 0
    values = [value(side) for side in sides[begin:]]
    end = values[-1]
    if len(values) < 2 or end is None:
        return text
    return last if all(one is not None and _are_close(one, end) for one in values) else text


def _same_numeral(one: Measure, other: Measure) -> bool | None:
    if one.number.upper() == other.number.upper():
        return one.base is None or other.base is None or one.base == other.base
    return False if one.base and other.base else None


def _compare(one: str, other: str) -> bool | None:
    first, second = value(one), value(other)
    if first is None or second is None:
        return None
    if isinstance(first, Fraction) and isinstance(second, Fraction):
        return first == second
    # What is not exactly equal may be so to the digits that algebra compares.
    return True if _are_close(first, second) else None


def _are_close(one: Value, other: Value) -> bool:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return one == other
    try:
        first, second = complex(one), complex(other)
    except OverflowError:
        return False
    size = max(abs(first), abs(second))
    return abs(first - second) <= _CLOSE * max(size, 1e-30)
