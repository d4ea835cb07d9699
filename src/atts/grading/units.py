"""Tells a number from the words around it: units, ordinals, labels, a base, words that deny it."""

import re
from typing import NamedTuple

_UNITS = {
    "mm": "mm millimeter millimetre",
    "cm": "cm cms centimeter centimetre",
    "m": "m meter metre",
    "km": "km kms kilometer kilometre",
    "in": "in inch inches",
    "ft": "ft foot feet",
    "yd": "yd yds yard",
    "mi": "mi mile",
    "mg": "mg milligram",
    "g": "g gm gram",
    "kg": "kg kgs kilogram",
    "lb": "lb lbs pound",
    "oz": "oz ounce",
    "ton": "ton tonne",
    "s": "s sec secs second",
    "min": "min mins minute",
    "h": "h hr hrs hour",
    "day": "day",
    "week": "week wk wks",
    "month": "month",
    "year": "year yr yrs",
    "L": "l L liter litre",
    "mL": "ml mL milliliter millilitre",
    "degree": "degree deg",
    "radian": "radian rad",
    "dollar": "dollar usd USD buck",
    "cent": "cent",
    "euro": "euro eur EUR",
    "mph": "mph",
    "kph": "kph kmh",
    "J": "J joule",
    "N": "N newton",
    "W": "W watt",
    "V": "V volt",
    "Hz": "Hz hz hertz",
    "K": "K kelvin",
    "mol": "mol mole",
    "Pa": "Pa pascal",
    "unit": "unit units",
    "point": "pt pts",
}
_KNOWN = {name: unit for unit, names in _UNITS.items() for name in names.split()}
# These alone after a number may be variables, unless they are set as text.
_LETTERS = {name for name in _KNOWN if len(name) == 1}

_DENIALS = re.compile(
    r"(?i)\b(?:not|cannot|never|neither|nor|none|impossible|undefined|unknown|incorrect|wrong|false"
    r"|unsolvable|inconsistent|no)\b|n't\b"
)
_BOUNDS = re.compile(
    r"(?i)\b(?:more|less|least|most|fewer|greater|larger|smaller|above|below|between|except|excluding"
    r"|exceeds?|under|over|up\s+to|before|after|either|and|or|to)\b"
)
# What looks like a word or a unit after a number but belongs to its value.
_MATHS = frozenset(
    [
        "sin",
        "cos",
        "tan",
        "sec",
        "csc",
        "cot",
        "log",
        "ln",
        "lg",
        "exp",
        "sqrt",
        "pi",
        "theta",
        "alpha",
        "beta",
        "gamma",
        "infinity",
        "infty",
        "frac",
        "mod",
        "gcd",
        "lcm",
        "max",
        "min",
        "det",
        "times",
        "plus",
        "minus",
        "divided",
        "squared",
        "cubed",
        "factorial",
        "choose",
        "modulo",
        "root",
        "roots",
        "half",
        "halves",
        "third",
        "thirds",
        "quarter",
        "quarters",
        "dozen",
        "dozens",
        "pair",
        "pairs",
        "hundred",
        "hundreds",
        "times",
        "of",
        "percent",
        "base",
        "power",
        "hundredth",
        "tenth",
        "thousandth",
    ]
) - {"min"}
_SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_NUMBERS = {
    name: value
    for value, name in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
            "twenty",
        ]
    )
}

_TEXT = re.compile(
    r"\\(?:text(?:bf|it|sf|tt|rm|sc|up|normal)?|emph|mbox|hbox|mathrm|operatorname|mathbf|mathit)\s*"
    r"\{([^{}]*)\}"
)
_OPEN, _CLOSE = "\x02", "\x03"
_ORDINAL = re.compile(
    rf"(?<=[0-9])\s*\^?\s*\{{?[{_OPEN}\s]*(?:st|nd|rd|th)[{_CLOSE}\s]*\}}?(?![A-Za-z])"
)
_PERCENT = re.compile(
    rf"(?<=[0-9}})])\s*{_OPEN}?\s*(?i:percent(?:age)?(?:\s+points?)?|per\s+cent|pct\.?|\\?%)\s*{_CLOSE}?$"
)
_DEGREES = re.compile(rf"\s*\^\s*\\circ\s*(?:[{_OPEN}\s]*[CF][{_CLOSE}\s]*)?$")
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|sec|csc|cot|ln|exp|log)")
_MONEY = re.compile(r"^\s*(?:US|C|A)?(?:[€£¥₹]|USD|Rs\.?|EUR)\s*|\s*[€£¥₹]\s*$")
_BASE = re.compile(
    rf"^(?P<digits>[0-9A-Fa-f]+)\s*(?:_\s*\{{?|\(?\s*)[{_OPEN}\s(]*(?:in\s+)?(?:(?i:base)[\s-]*)?"
    rf"[{_CLOSE}\s{{_]*(?P<base>[0-9]+|[a-z]+)[\s){_CLOSE}}}]*$"
)
_AFTER = re.compile(
    rf"^(?P<number>.*[0-9)}}\]a-z])(?P<after>(?:[\s/\\,;.-]*(?:cdot(?![a-z]))?\s*"
    rf"{_OPEN}[^{_OPEN}{_CLOSE}]*{_CLOSE}(?:\^\{{?-?[0-9]\}}?)?)+)\.?$",
    re.DOTALL,
)
_BARE_AFTER = re.compile(
    r"^(?P<number>.*[0-9)}\]])(?P<gap>\s*)(?P<after>(?:[A-Za-z]+(?:\^\{?[23]\}?|[23](?![0-9]))?"
    r"(?:[\s/.,'-]+|$))+)$",
    re.DOTALL,
)
_BEFORE = re.compile(
    rf"^(?P<before>(?:{_OPEN}[^{_OPEN}{_CLOSE}]*{_CLOSE}|[A-Za-z]{{2,}}(?:'s)?[\s:,]+|\bis\s+|:\s*|a\s+)+)"
    r"(?P<number>[-+]?\s*(?:[0-9.]|\\frac|\\sqrt|\\pi).*)$",
    re.DOTALL,
)
_LONGEST = 300


class Measure(NamedTuple):
    """A number, and what the words around it say."""

    number: str
    """The expression without the words."""
    unit: str | None = None
    """If it is a known one."""
    percent: bool = False
    base: int | None = None
    says: frozenset[str] = frozenset()
    """Words that deny or bound the number, in small letters."""


def read_measure(text: str) -> Measure:
    r"""Read a normalised text; where no words can be told from a number, it is the number.

    >>> read_measure(r"12^{\mathrm{th}} \text{ grade}").number, read_measure("3 treeks").number
    ('12', '3')
    >>> read_measure(r"4343_{\text{six}}").base, read_measure(r"5 \text{ cm}").unit
    (6, 'cm')
    >>> read_measure(r"\frac{57}{160} \text{ is not terminating}").says
    frozenset({'not'})
    """
    if len(text) > _LONGEST or "\n" in text or not any(c.isalpha() or c in "%^_€£¥₹" for c in text):
        return Measure(text)
    text = _TEXT.sub(lambda match: f"{_OPEN}{match[1]}{_CLOSE}", text)
    if text[:1] == _OPEN and text.find(_CLOSE) == len(text) - 1:
        text = text[1:-1].strip()
    if found := _based(text):
        return found
    says = _said(text)
    text = _ORDINAL.sub("", _MONEY.sub("", text)).strip()
    if bare := _NUMBERS.get(text.strip(f"{_OPEN}{_CLOSE} ").casefold()):
        return Measure(str(bare))
    percent = bool(_PERCENT.search(text))
    text = _PERCENT.sub("", text)
    text, unit, scale = _without_words_after(text)
    text = _without_words_before(text)
    if _DEGREES.search(text) and not _FUNCTION.search(text):
        text, unit = _DEGREES.sub("", text), unit or "degree"
    if scale:
        text = f"({text})*10^{{{scale}}}"
    text = text.replace(_OPEN, "\\text{").replace(_CLOSE, "}").strip()
    return Measure(text, unit, percent, None, says)


def _said(text: str) -> frozenset[str]:
    """The words that deny or bound a number, where there is one."""
    # In capitals, NO is a line segment.
    words = " ".join(re.findall(r"(?<![A-Za-z\\])[A-Za-z]?[a-z]+(?:'[a-z]+)?(?![A-Za-z])", text))
    found = [match[0].casefold() for match in _DENIALS.finditer(words)]
    if any(character.isdigit() for character in text):
        found += [match[0].casefold() for match in _BOUNDS.finditer(words)]
    return frozenset(found) - {"and", "or", "to"}


def _based(text: str) -> Measure | None:
    match = _BASE.match(text)
    if not match or ("_" not in text and "base" not in text.casefold()):
        return None
    name = match["base"].casefold()
    base = int(name) if name.isdecimal() and len(name) < 4 else _NUMBERS.get(name)
    if base is None or not 2 <= base <= 36:
        return None
    return Measure(match["digits"].upper(), base=base)


def _without_words_after(text: str) -> tuple[str, str | None, int]:
    """The text without words after its number, their unit, and the power of ten that they say."""
    unit: str | None = None
    match = _AFTER.match(text)
    is_text = match is not None
    match = match or _BARE_AFTER.match(text)
    if not match:
        return text, unit, 0
    words = re.findall(r"[A-Za-z]+", match["after"].replace("cdot", " "))
    small = [word.casefold() for word in words]
    if words and small[0] in _SCALES and match["number"].strip()[-1:].isdigit():
        scale, words, small = _SCALES[small[0]], words[1:], small[1:]
    else:
        scale = 0
    if _BOUNDS.search(" ".join(words)) or any(word in _MATHS for word in small):
        return text, None, 0
    if not is_text and words and not _are_words(words, match["gap"]):
        return text, None, 0
    units = [_unit(word) for word in words]
    unit = next((one for one in units if one and one != "unit"), None)
    return match["number"].strip(), unit, scale


def _are_words(words: list[str], gap: str) -> bool:
    """Whether letters after a number are words, and no product of variables."""
    # "5 km/h" and "5 kg m", but not "5 m".
    if words[0] not in _LETTERS and all(_unit(word) for word in words):
        return True
    return bool(gap) and any(len(word) >= 4 for word in words)


def _unit(word: str) -> str | None:
    for form in (word, word.casefold()):
        for name in (form, form.removesuffix("s"), form.removesuffix("es")):
            if name in _KNOWN:
                return _KNOWN[name]
    return None


def _without_words_before(text: str) -> str:
    match = _BEFORE.match(text)
    if not match:
        return text
    words = re.findall(r"[A-Za-z]+", match["before"])
    small = [word.casefold() for word in words]
    sign = "-" if small and small[-1] in ("negative", "minus") else ""
    known = small[:-1] if sign else small
    if any(word in _MATHS for word in known) or _BOUNDS.search(" ".join(known)):
        return text
    return sign + match["number"].strip()
