import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from atts.grading.boxes import extract_boxed
from atts.grading.extract import extract_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{7}", "7"),
        (r"so \boxed{1}, no, \boxed{2}.", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{x^{2^{3}}} done", "x^{2^{3}}"),
        (r"\boxed {5}", "5"),
        ("\\boxed \n {5}", "5"),
        (r"\fbox{B}", "B"),
        (r"\boxed{ 3 }", "3"),
        ("\\boxed{a\nb}", "a\nb"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\{1}", r"\{1"),
        (r"\boxed{a\}b}", r"a\}b"),
        (r"\boxed{a\\}", r"a\\"),
        (r"\\\boxed{4}", "4"),
        (r"\\boxed{4}", "4"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{1 and \boxed{2}", "2"),
        (r"{ open \boxed{3}", "3"),
        (r"} closed \boxed{3}", "3"),
        (r"\boxed{x = \boxed{3}}", "3"),
        (r"\boxed{5} goes into \boxed{}", "5"),
        ("\\boxed{6}\\", "6"),
    ],
)
def test_takes_the_last_complete_box(text: str, answer: str) -> None:
    assert extract_boxed(text) == answer


@pytest.mark.parametrize(
    "text",
    ["", "7", r"\boxed", r"\boxed 7", r"\boxed{}", r"\boxed{ }", r"\boxed{7", r"\boxed{7\}", "{7}"],
)
def test_without_a_complete_box_there_is_no_answer(text: str) -> None:
    assert extract_boxed(text) is None


def naive(text: str) -> str | None:
    """From every box, last first, count braces until they balance: plain but quadratic."""
    opened = [m.end() for m in re.finditer(r"\\(?:boxed|fbox)\s*\{", text)]
    for start in reversed(opened):
        depth, i = 1, start
        while i < len(text) and depth:
            if text[i] == "\\":
                i += 2
                continue
            depth += {"{": 1, "}": -1}.get(text[i], 0)
            i += 1
        if not depth and text[start : i - 1].strip():
            return text[start : i - 1].strip()
    return None


# No lone backslash before a box: there the two differ on purpose in what is escaped.
PIECES = st.sampled_from(["\\boxed{", "\\fbox {", "{", "}", "\\{", "\\}", "1", " ", "\\frac"])


@given(st.lists(PIECES, max_size=30).map("".join))
@example("\\boxed{\\boxed{}}")
def test_agrees_with_counting_braces_from_every_box(text: str) -> None:
    assert extract_boxed(text) == naive(text)


@given(st.text(alphabet="\\boxedf{} 1\n"))
def test_any_text_is_taken(text: str) -> None:
    answer = extract_boxed(text)
    assert answer is None or (answer in text and answer == answer.strip() != "")


@given(st.text(alphabet="ab1{} ", min_size=1).filter(lambda s: s.strip()))
def test_a_balanced_text_comes_out_as_it_went_in(text: str) -> None:
    depth = 0
    balanced = ""
    for character in text:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            depth = 0
            continue
        balanced += character
    balanced += "}" * depth
    expected = balanced.strip() or None
    assert extract_boxed(f"thus \\boxed{{{balanced}}} qed") == expected


LONG_SPACE = "\\boxed" + " " * 50


@pytest.mark.parametrize(
    "piece", ["\\boxed{", "\\boxed ", LONG_SPACE, "\\boxed{}", "\\", "{", "}", "\\boxed{1}{"]
)
def test_time_is_linear_in_the_text(piece: str) -> None:
    text = piece * (300_000 // len(piece))
    start = time.perf_counter()
    extract_boxed(text)
    # A fraction of a second; a quadratic search of that many characters takes many minutes.
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1}</think>\boxed{2}", "2"),
        (r"\boxed{1}</think>So the answer is", "1"),
        (r"\boxed{1}</think>", "1"),
        (r"<think>\boxed{1}", "1"),
        (r"a</think>\boxed{2}</think>", "2"),
        (r"\boxed{\frac{1}{2", None),
    ],
)
def test_what_follows_the_thinking_counts(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


CHOICES = ("3 m/s", "four", r"\frac{1}{2}", "A")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{B}", "B"),
        (r"\boxed{(B)}", "B"),
        (r"\boxed{\text{B}}", "B"),
        (r"\boxed{\textbf{(B)}}", "B"),
        (r"\boxed{B. four}", "B"),
        (r"\boxed{(B) four}", "B"),
        (r"\boxed{B) four}", "B"),
        (r"\boxed{four}", "B"),
        (r"\boxed{0.5}", "C"),
        (r"\boxed{A}", "A"),
        (r"\boxed{five}", "five"),
        (r"\boxed{E}", "E"),
        (r"\boxed{five} ANSWER: B", "B"),
        (r"\boxed{C} but ANSWER: B", "C"),
        ("ANSWER: C", "C"),
        ("Answer: (C)", "C"),
        ("**Answer:** C", "C"),
        ("**Answer: C**", "C"),
        ("Final answer is $C$.", "C"),
        ("The correct answer is (C).", "C"),
        ("the answer is option C", "C"),
        ("The answer is: the choice **C**", "C"),
        (r"The answer is \text{C}", "C"),
        ("Option C is correct.", "C"),
        ("choice (C) is correct", "C"),
        ("choice (C) is the answer", "C"),
        ("answer: B. No, the answer is C", "C"),
        ("The answer is A because", "A"),
        ("The answer is A good one", None),
        ("The answer is I think B", None),
        ("The answer is Certainly", None),
        ("The answer is E", None),
        ("the answer, C", None),
        ("answer: c", None),
        ("ANSWER: B</think> hm", None),
        ("", None),
    ],
)
def test_choices(text: str, answer: str | None) -> None:
    assert extract_answer(text, CHOICES) == answer


def test_a_statement_is_no_answer_to_an_open_question() -> None:
    assert extract_answer("ANSWER: C") is None


@given(st.text(alphabet="answerisANSWEROPTIONC:=(){}\\*. \n"))
def test_choices_of_any_text(text: str) -> None:
    answer = extract_answer(text, CHOICES)
    assert answer is None or answer in "ABCD" or answer in text


@pytest.mark.parametrize(
    "text", ["answer is " * 100_000, "answer" + " " * 999_999 + "B", "option (" * 120_000]
)
def test_a_long_text_does_not_hang(text: str) -> None:
    start = time.perf_counter()
    extract_answer(text, CHOICES)
    assert time.perf_counter() - start < 10
