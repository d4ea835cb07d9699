"""Whether two answers are the same number, whatever words, units or markup are around it."""

import re
from fractions import Fraction

from atts.grading.expressions import Value, value
from atts.grading.normalize import normalize
from atts.grading.units import Measure, read_measure

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
    r"""Whether two expressions have the same value, variables included: at two places.

    >>> same_value("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}"), same_value("x(x+1)", "x^2+x")
    (True, True)
    """
    verdict = compare_values(one, other)
    if verdict is not None:
        return verdict
    sides = ends_of(*(read_measure(normalize(text)).number for text in (one, other)))
    return all(
        (first := value(sides[0], place)) is not None
        and (second := value(sides[1], place)) is not None
        and _are_close(first, second)
        for place in (1, 2)
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
