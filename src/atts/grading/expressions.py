"""The value of a closed expression, such as ``2\\sqrt{3}``, by reading it from left to right.

Nothing is evaluated that could take long: powers are bounded, there are no sums or integrals, and
an expression that holds anything unknown has no value.
"""

import cmath
import math
import re
import zlib
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

Value = Fraction | complex

_LONGEST = 300
_DEEPEST = 40
_MOST_BITS = 4096
_TEN = 10

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[0-9]+(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"|(?P<command>\\[A-Za-z]+)|(?P<letter>[A-Za-z])|(?P<sign>[-+*/^(){}\[\]!]))"
)
_SCIENTIFIC = re.compile(r"^([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))\s*[eE]\s*([+-]?[0-9]{1,3})$")
_MIXED = re.compile(r"^([+-]?)([0-9]+)\s+([0-9]+)/([0-9]+)$")
_GROUPS = re.compile(r"^[+-]?[0-9]{1,3}(?: [0-9]{3})+(?:\.[0-9]+)?$")
_REPEATING = re.compile(
    r"^([+-]?)([0-9]*)\.([0-9]*)(?:\\overline\s*\{|\\dot\s*\{|\()([0-9]{1,30})[})]$"
)
_CONSTANTS: dict[str, Value] = {
    "\\pi": complex(math.pi),
    "e": complex(math.e),
    "i": 1j,
    "\\imath": 1j,
    "\\iota": 1j,
}
_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "\\sin": cmath.sin,
    "\\cos": cmath.cos,
    "\\tan": cmath.tan,
    "\\sec": lambda x: 1 / cmath.cos(x),
    "\\csc": lambda x: 1 / cmath.sin(x),
    "\\cot": lambda x: 1 / cmath.tan(x),
    "\\arcsin": cmath.asin,
    "\\arccos": cmath.acos,
    "\\arctan": cmath.atan,
    "\\ln": cmath.log,
    "\\exp": cmath.exp,
}


class _UnknownError(Exception):
    """The expression holds something that has no value here."""


@lru_cache(maxsize=4096)
def value(text: str, point: int = 0) -> Value | None:
    r"""The value of a normalised expression; a fraction where it is rational by its form.

    Args:
        text: the expression.
        point: above 0, variables have a value too, another one at each point.

    >>> value("1\\frac{1}{2}"), value("x"), value("9^{9^{9^9}}")
    (Fraction(3, 2), None, None)
    """
    if not text or len(text) > _LONGEST:
        return None
    if (special := _special(text.strip())) is not None:
        return special
    try:
        reader = _Reader(text, point)
        found = reader.sum(0)
        reader.expect_end()
        if isinstance(found, complex) and not cmath.isfinite(found):
            return None
    except (_UnknownError, ArithmeticError, ValueError):
        return None
    return found


def _special(text: str) -> Value | None:
    """Numbers that are written in a way of their own."""
    if match := _SCIENTIFIC.match(text):
        return Fraction(match[1]) * Fraction(_TEN) ** int(match[2])
    if (match := _MIXED.match(text)) and int(match[4]):
        size = int(match[2]) + Fraction(int(match[3]), int(match[4]))
        return -size if match[1] == "-" else size
    if _GROUPS.match(text):
        return Fraction(text.replace(" ", ""))
    if match := _REPEATING.match(text):
        whole, plain, again = match[2] or "0", match[3], match[4]
        size = Fraction(f"{whole}.{plain or 0}") + Fraction(
            int(again), (_TEN ** len(again) - 1) * _TEN ** len(plain)
        )
        return -size if match[1] == "-" else size
    return None


class _Reader:
    """Reads an expression from left to right."""

    def __init__(self, text: str, point: int) -> None:
        self._tokens: list[tuple[str, str]] = []
        end = 0
        text = text.strip()
        while end < len(text):
            match = _TOKEN.match(text, end)
            if not match:
                raise _UnknownError
            if "," in match[0] and re.search(r"[(\[]", text):
                raise _UnknownError  # (17,136) is a pair
            self._tokens.append((match.lastgroup or "", match[match.lastgroup or 0]))
            end = match.end()
        self._at = 0
        self._point = point

    def sum(self, depth: int) -> Value:
        if depth > _DEEPEST:
            raise _UnknownError
        sign = self._signs()
        total = _multiply(Fraction(sign), self._product(depth))
        while self._next() in ("+", "-"):
            sign = self._signs()
            total = _add(total, _multiply(Fraction(sign), self._product(depth)))
        return total

    def expect_end(self) -> None:
        if self._at < len(self._tokens):
            raise _UnknownError

    def _signs(self) -> int:
        sign = 1
        while self._next() in ("+", "-"):
            sign *= -1 if self._take() == "-" else 1
        return sign

    def _product(self, depth: int) -> Value:
        result = self._power(depth)
        divided = False
        while (sign := self._next()) is not None:
            if sign in ("*", "\\times", "\\cdot"):
                self._take()
                result = _multiply(result, self._signed_power(depth))
            elif sign in ("/", "\\div"):
                self._take()
                result = _divide(result, self._signed_power(depth))
                divided = True
            elif sign in "+-)}]":
                break
            elif divided:  # 1/2x may be either
                raise _UnknownError
            else:
                result = _multiply(result, self._power(depth))
        return result

    def _signed_power(self, depth: int) -> Value:
        sign = self._signs()
        return _multiply(Fraction(sign), self._power(depth))

    def _power(self, depth: int) -> Value:
        base = self._atom(depth)
        while self._next() in ("^", "!"):
            if self._take() == "!":
                base = _factorial(base)
            elif self._next() == "\\circ":
                self._take()
                base = _multiply(base, complex(math.pi / 180))
            else:
                base = _raise(base, self._argument(depth))
        return base

    def _argument(self, depth: int) -> Value:
        """A group in braces, or the one character that follows."""
        if self._next() == "{":
            return self._group("}", depth)
        kind, text = self._tokens[self._at] if self._at < len(self._tokens) else ("", "")
        if kind == "number" and len(text) > 1:  # \frac12 takes a digit at a time
            self._tokens[self._at] = (kind, text[1:])
            return Fraction(int(text[0])) if text[0].isdigit() else self._fail()
        if text == "-":
            self._take()
            return -self._argument(depth)
        return self._atom(depth + 1)

    def _atom(self, depth: int) -> Value:
        if self._at >= len(self._tokens):
            raise _UnknownError
        kind, text = self._tokens[self._at]
        self._at += 1
        if kind == "number":
            number = Fraction(text.replace(",", ""))
            if self._next() == "\\frac" and "." not in text:
                return self._mixed(number, depth)
            return number
        if text in "([{" and kind == "sign":
            self._at -= 1
            return self._group({"(": ")", "[": "]", "{": "}"}[text], depth)
        if text == "\\frac":
            return _divide(self._argument(depth), self._argument(depth))
        if text == "\\binom":
            return _binomial(self._argument(depth), self._argument(depth))
        if text == "\\sqrt":
            root: Value = self._group("]", depth) if self._next() == "[" else Fraction(2)
            return _root(self._argument(depth), root)
        if text in _FUNCTIONS:
            return self._function(text, depth)
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if self._point and (
            kind == "letter" or text in ("\\theta", "\\alpha", "\\beta", "\\lambda")
        ):
            return complex(0.5 + zlib.crc32(f"{text} {self._point}".encode()) % 9973 / 5003)
        return self._fail()

    def _mixed(self, whole: Fraction, depth: int) -> Value:
        before = self._at
        self._take()
        over, under = self._argument(depth), self._argument(depth)
        if isinstance(over, Fraction) and isinstance(under, Fraction) and 0 < over < under:
            return whole + over / under
        self._at = before
        return whole

    def _function(self, name: str, depth: int) -> Value:
        power: Value = Fraction(1)
        if self._next() == "^":
            self._take()
            power = self._argument(depth)
            if power == -1:
                raise _UnknownError
        inside = self._power(depth + 1)
        if self._next() not in (None, "+", "-", ")", "}", "]", "/", "*", "\\cdot", "\\times"):
            raise _UnknownError  # \sin 2x: where the argument ends is not clear
        return _raise(_FUNCTIONS[name](complex(inside)), power)

    def _group(self, closing: str, depth: int) -> Value:
        self._take()
        inside = self.sum(depth + 1)
        if self._take() != closing:
            raise _UnknownError
        return inside

    def _next(self) -> str | None:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else None

    def _take(self) -> str:
        if self._at >= len(self._tokens):
            raise _UnknownError
        self._at += 1
        return self._tokens[self._at - 1][1]

    def _fail(self) -> Value:
        raise _UnknownError


def _bounded(result: Fraction) -> Fraction:
    bits = result.numerator.bit_length() + result.denominator.bit_length()
    if bits > _MOST_BITS:
        raise _UnknownError
    return result


def _add(one: Value, other: Value) -> Value:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return _bounded(one + other)
    return complex(one) + complex(other)


def _multiply(one: Value, other: Value) -> Value:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return _bounded(one * other)
    return complex(one) * complex(other)


def _divide(one: Value, other: Value) -> Value:
    if isinstance(one, Fraction) and isinstance(other, Fraction):
        return _bounded(one / other)
    return complex(one) / complex(other)


def _raise(base: Value, power: Value) -> Value:
    if isinstance(power, Fraction) and power.denominator == 1:
        exponent = int(power)
        if isinstance(base, Fraction):
            bits = base.numerator.bit_length() + base.denominator.bit_length()
            if bits * abs(exponent) > _MOST_BITS:
                raise _UnknownError
            return base**exponent
        if base == 1j:
            real, imaginary = ((1, 0), (0, 1), (-1, 0), (0, -1))[exponent % 4]
            return Fraction(real) if not imaginary else complex(0, imaginary)
    if base == math.e and isinstance(power, complex):
        return cmath.exp(power)
    if isinstance(base, Fraction) and isinstance(power, Fraction) and base >= 0:
        # 4^{1/2} is exactly 2.
        return _raise(_root(base, Fraction(power.denominator)), Fraction(power.numerator))
    return complex(complex(base) ** complex(power))


def _root(inside: Value, degree: Value) -> Value:
    if not isinstance(degree, Fraction) or degree.denominator != 1 or not 1 <= degree <= 100:
        raise _UnknownError
    count = int(degree)
    if isinstance(inside, Fraction):
        if inside < 0 and count % 2:
            return -_root(-inside, degree)
        if inside >= 0:
            over, under = (_whole_root(part, count) for part in inside.as_integer_ratio())
            if over is not None and under is not None:
                return Fraction(over, under)
    if count == 2:
        return cmath.sqrt(complex(inside))
    return complex(complex(inside) ** (1 / count))


def _whole_root(number: int, count: int) -> int | None:
    near = math.isqrt(number) if count == 2 else round(number ** (1 / count))
    return next(
        (root for root in (near - 1, near, near + 1) if root >= 0 and root**count == number), None
    )


def _factorial(number: Value) -> Value:
    if not isinstance(number, Fraction) or number.denominator != 1 or not 0 <= number <= 170:
        raise _UnknownError
    return Fraction(math.factorial(int(number)))


def _binomial(one: Value, other: Value) -> Value:
    if not (isinstance(one, Fraction) and isinstance(other, Fraction)):
        raise _UnknownError
    if one.denominator != 1 or other.denominator != 1 or not 0 <= other <= one <= 1000:
        raise _UnknownError
    return Fraction(math.comb(int(one), int(other)))
