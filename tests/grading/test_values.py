"""Values, normal forms and structures of any text."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atts.grading.algebra import read_structure
from atts.grading.choices import choice_letter, stated_letter
from atts.grading.expressions import value
from atts.grading.extract import find_boxes
from atts.grading.normalize import normalize
from atts.grading.units import read_measure
from atts.grading.values import compare_values

PIECES = [
    *("\\frac", "\\sqrt", "\\text", "\\mathbf", "\\pi", "\\{", "\\}", "\\boxed", "\\left", "\\\\"),
    *(
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        "^",
        "_",
        "$",
        "**",
        "`",
        "!",
        "=",
        "+",
        "-",
        "/",
        ",",
        ".",
        " ",
    ),
    *("0", "1", "23", "1,234", "e5", "i", "x", "and", "not", "cm", "th", "six", "½", "²", "√", "°"),
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@given(TEXTS | st.text(max_size=30))
def test_any_text_has_a_normal_form(text: str) -> None:
    once = normalize(text)
    assert len(once) <= 12 * len(text) + 1
    value(once)
    read_measure(once)
    structure = read_structure(once)
    assert structure.parts
    find_boxes(text)
    choice_letter(text, ("one", "2", "x"))
    stated_letter(text, ("one", "2", "x"), after_thought=True)


@given(TEXTS, TEXTS)
def test_comparing_values_is_symmetric(one: str, other: str) -> None:
    assert compare_values(one, other) == compare_values(other, one)


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_rational_values_are_exact(one: Fraction, other: Fraction) -> None:
    def written(number: Fraction) -> str:
        return f"\\frac{{{number.numerator}}}{{{number.denominator}}}"

    assert value(written(one)) == one
    assert value(f"{written(one)}+({written(other)})") == one + other
    assert value(f"({written(one)})({written(other)})") == one * other
    assert compare_values(f"{written(one)} \\text{{ cm}}", written(one)) is True
    assert compare_values(written(one), f"{written(one + 1)} apples") is False


@given(st.decimals(-(10**6), 10**6, places=6, allow_nan=False), st.integers(-20, 20))
def test_scientific_notation(mantissa: object, exponent: int) -> None:
    exact = Fraction(str(mantissa)) * Fraction(10) ** exponent
    for form in (f"{mantissa}e{exponent}", f"{mantissa} \\times 10^{{{exponent}}}"):
        assert value(form) == exact


@pytest.mark.parametrize(
    "text",
    ["9^{9^{9^9}}", "10^{99999}", "170!!", "1/0", "0^{-1}", "(" * 200, "-" * 299, "\\sqrt[0]{2}"],
)
def test_what_has_no_value_or_a_huge_one_costs_nothing(text: str) -> None:
    began = time.perf_counter()
    value(text)
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    "piece", ["**", "\\text{", "\\mathbf{1}", "√", "`", "$$ ", "{,}", "\\left", "½", "<b>", "1,"]
)
def test_a_long_text_takes_little_time(piece: str) -> None:
    began = time.perf_counter()
    text = piece * (1000 // len(piece))
    normalize(text)
    compare_values(text, "1")
    read_structure(text)
    assert time.perf_counter() - began < 5
