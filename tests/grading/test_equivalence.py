import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atts.grading.equivalence import compare_exactly, equivalent

ANSWERS = st.text(alphabet="0123456789-+.,/ ${}\\fracAbx()!", max_size=15)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("42", "42"),
        ("42", " 42 "),
        ("42", "$42$"),
        ("42", "$$42$$"),
        ("42", "42."),
        ("42", "+42"),
        ("42", "42.0"),
        ("42", "042"),
        ("42", "84/2"),
        ("42", r"\text{42}"),
        ("42", r"\$42"),
        ("-3", "\N{MINUS SIGN}3"),
        ("-3", "- 3"),
        ("1234", "1,234"),
        ("1234567", "$1{,}234{,}567$"),
        ("11,\\! 111,\\! 111", "11111111"),
        (".5", "0.50"),
        ("0.5", r"\frac{1}{2}"),
        ("0.5", r"\dfrac{1}{2}"),
        (r"\tfrac{-1}{2}", "-1/2"),
        (r"-\frac{1}{2}", "-0.5"),
        (r"\frac{2}{4}", "1/2"),
        ("B", "B"),
        ("B", "(B)"),
        ("B", r"\text{(B)}"),
        ("B", r"\textbf{B}."),
        ("Evelyn", r"\text{Evelyn}"),
        ("(3,4)", r"\left( 3, 4 \right)"),
        (r"70 \sqrt{2}", r"70\sqrt{2}"),
        ("x + 1", "x+1"),
        ("50", r"50\%"),
        ("50%", r"50 \%"),
        ("even", "Even"),
        ("2516_8", "2516_{8}"),
        ("not  a triangle", "not a triangle"),
    ],
)
def test_the_same_answer_written_otherwise(gold: str, answer: str) -> None:
    assert equivalent(gold, answer)
    assert equivalent(answer, gold)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("42", "24"),
        ("42", "-42"),
        ("42", ""),
        ("42", "42 cm"),
        ("1/3", "0.3333333333333333"),
        ("0.1", "0.1000000000000000055511151231257827"),
        ("0.5", r"50\%"),
        ("50", r"51\%"),
        ("A", "B"),
        ("A", "AB"),
        ("12", "1 2"),
        ("1234", "1, 234"),
        ("123456", "1234,56"),
        ("1/0", "2/0"),
        ("2", "1+1"),
        ("2", "len('ab')"),
        ("1000000", "1e6"),
        ("x+1", "1+x"),
        (r"\leftarrow", "arrow"),
    ],
)
def test_different_answers(gold: str, answer: str) -> None:
    assert not equivalent(gold, answer)
    assert not equivalent(answer, gold)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("42", "24"),
        ("1/3", "0.333"),
        ("A", "B"),
        ("x", "y"),
        ("even", "neve"),
        ("Evelyn", "nylevE"),
        ("no solution", "on solution"),
        (r"\text{no}", "on"),
        ("12_5", "12_7"),
    ],
)
def test_what_algebra_would_get_wrong_or_need_not_see_is_decided(gold: str, answer: str) -> None:
    assert compare_exactly(gold, answer) is False
    assert compare_exactly(answer, gold) is False


@pytest.mark.parametrize(
    ("gold", "answer"),
    [("x+1", "1+x"), ("2", r"\sqrt{4}"), ("ab", "ba"), ("0.5", r"50\%"), ("1,2", "2,1")],
)
def test_what_needs_algebra_is_left_open(gold: str, answer: str) -> None:
    assert compare_exactly(gold, answer) is None
    assert compare_exactly(answer, gold) is None


@settings(max_examples=50, deadline=None)
@given(st.fractions(), st.fractions())
def test_fractions_are_compared_exactly(one: Fraction, other: Fraction) -> None:
    over, under = one.numerator, one.denominator
    assert equivalent(str(one), f"\\frac{{{over * 7}}}{{{under * 7}}}")
    assert equivalent(str(one), str(other)) == (one == other)


@given(st.integers(), st.integers(0, 12))
def test_decimals_are_compared_exactly(digits: int, places: int) -> None:
    value = Fraction(digits, 10**places)
    sign, text = "-" if digits < 0 else "", str(abs(digits)).rjust(places + 1, "0")
    written = f"{sign}{text[: len(text) - places]}.{text[len(text) - places :]}"
    assert equivalent(str(value), written)
    assert not equivalent(str(value + Fraction(1, 10**30)), written)


@given(st.integers())
def test_thousands_commas_do_not_matter(number: int) -> None:
    assert equivalent(str(number), f"{number:,}")


@given(ANSWERS, ANSWERS, ANSWERS)
def test_is_an_equivalence_relation(one: str, two: str, three: str) -> None:
    assert equivalent(one, one)
    assert equivalent(one, two) == equivalent(two, one)
    if equivalent(one, two) and equivalent(two, three):
        assert equivalent(one, three)


@pytest.mark.parametrize(
    "huge",
    ["9" * 1_000_000, "1,000" * 200_000, "$" * 1_000_000, "\\text{" * 160_000, " " * 999_999 + "1"],
)
def test_a_huge_answer_does_not_hang(huge: str) -> None:
    start = time.perf_counter()
    assert equivalent(huge, huge)
    assert not equivalent("2", huge)
    assert time.perf_counter() - start < 5
