"""Where a thought ends, for the marks of every family."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atts.grading.extract import extract_answer
from atts.models.thought import KNOWN_ENDS, begin_in_thought, divide, opens_thought, special_marks

CHOICES = ("red", "green", "blue", "grey")
MARKS = [
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<thinking>", "</thinking>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final <|constrain|>JSON<|message|>"),
    ("<|im_start|>think\n", "<|im_start|>answer\n"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought\n", "<channel|>"),
]


@pytest.mark.parametrize(("start", "end"), MARKS)
def test_a_statement_counts_after_the_thought_alone(start: str, end: str) -> None:
    thought = f"{start}Maybe the answer is B. ANSWER: B. Option B is correct.\n\nB"
    assert extract_answer(thought, CHOICES) is None
    assert extract_answer(f"{thought}{end}", CHOICES) is None
    assert extract_answer(f"{thought}{end}The answer is C.", CHOICES) == "C"
    # Where the prompt has begun the thought, the text has no mark of it.
    unmarked = thought.removeprefix(start)
    assert extract_answer(unmarked, CHOICES, in_thought=True) is None
    assert extract_answer(f"{unmarked}{end}The answer is C.", CHOICES, in_thought=True) == "C"
    assert extract_answer(unmarked, CHOICES) == "B"


@pytest.mark.parametrize(("start", "end"), MARKS)
def test_the_box_after_the_thought_counts_and_else_the_last_one_before(
    start: str, end: str
) -> None:
    thought = rf"{start}\boxed{{1}}, no, \boxed{{2}}"
    assert extract_answer(f"{thought}{end}So \\boxed{{3}}.") == "3"
    assert extract_answer(f"{thought}{end}To sum up, we") == "2"
    assert extract_answer(thought) == "2"
    # A chain that is still writing may yet write it.
    assert extract_answer(f"{thought}{end}To sum up, we", finished=False) is None
    assert extract_answer(thought, finished=False) == "2"


def test_a_thought_that_is_begun_again_is_no_answer() -> None:
    text = "<think>a</think>The answer is C.<think>or is the answer B?</think> Yes."
    assert divide(text).answer == "The answer is C. Yes."
    assert extract_answer(f"{text}<think>the answer is D", CHOICES) == "C"


def test_named_ends_take_the_place_of_the_known_ones() -> None:
    text = r"\boxed{1}</plan>\boxed{2}</think>\boxed{3}"
    assert extract_answer(text) == "3"
    assert extract_answer(text, ends=["</plan>"]) == "3"  # the last box after it
    assert divide(text, ["</plan>"]).thought == r"\boxed{1}"
    assert divide(text, []) == ("", text, False)


def test_only_what_stands_after_a_place_counts() -> None:
    text = r"<think>\boxed{1} so the answer is A</think>"
    assert extract_answer(text + r"\boxed{2}", since=len(text)) == "2"
    assert extract_answer(text + "hm", since=len(text)) is None
    assert extract_answer(text + "B", CHOICES, since=len(text)) == "B"
    opened = r"<think>\boxed{1}"
    assert extract_answer(opened + " the answer is B", CHOICES, since=len(opened)) is None
    assert extract_answer(opened + r" \boxed{2}", since=len(opened)) == "2"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is A", None),  # may become "A good one"
        ("The answer is A.", "A"),
        (r"\boxed{3} and", None),
        (r"\boxed{3}, ", None),
        (r"\boxed{3}. And", "3"),
        (r"$\boxed 1", None),
        (r"$\boxed 12$", "12"),
    ],
)
def test_a_text_that_goes_on_has_no_answer_that_may_change(text: str, answer: str | None) -> None:
    choices = CHOICES if "answer" in text else ()
    assert extract_answer(text, choices, finished=False) == answer
    assert extract_answer(text, choices) is not None


def test_prompts_that_open_a_thought() -> None:
    assert opens_thought("<|assistant|><think>\n")
    assert opens_thought("[THINK]")
    assert not opens_thought("<think></think>\n\n")
    assert not opens_thought("Is <think> a tag?<|assistant|>")


def test_chains_show_whether_their_prompt_opened_a_thought() -> None:
    assert begin_in_thought(["hm</think>4"])
    assert not begin_in_thought(["<think>hm</think>4", "4", "hm"])
    assert not begin_in_thought(["<|channel|>final<|message|>4"])


def test_special_tokens_that_are_marks_or_parts_of_one() -> None:
    special = ["<|channel|>", "<|message|>", "[/THINK]", "<|endoftext|>", "</s>", "<|im_end|>"]
    assert special_marks(special) == {"<|channel|>", "<|message|>", "[/THINK]"}
    assert special_marks(["<|mine|>"], ["<|mine|>"]) == {"<|mine|>"}


@given(st.lists(st.sampled_from([*KNOWN_ENDS, "<think>", "[THINK]", "a", "\\boxed{1}", " "])))
def test_any_text_is_divided(pieces: list[str]) -> None:
    text = "".join(pieces)
    parts = divide(text)
    assert len(parts.thought) + len(parts.answer) <= len(text)
    assert parts.is_over == any(end in text for end in KNOWN_ENDS)


@pytest.mark.parametrize(
    "piece", ["<think>", "</think>", "<think></think>", "[/THINK][THINK]", "<"]
)
def test_time_is_linear_in_the_text(piece: str) -> None:
    began = time.perf_counter()
    extract_answer(piece * (300_000 // len(piece)), CHOICES)
    assert time.perf_counter() - began < 10
