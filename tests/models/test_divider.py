"""Text that is divided into thought and answer while it grows."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from atts.models.thought import KNOWN_ENDS, Divider, divide

PAIRS = [
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ("<|im_start|>think", "<|im_start|>answer"),
]
PLAIN = st.text("ab <|/[\n", max_size=12).filter(lambda text: "<|channel|>" not in text)


def cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[begin:end] for begin, end in pairwise(edges)]


def divided(parts: list[str], divider: Divider) -> tuple[str, str]:
    found = [piece for part in parts for piece in divider.feed(part)] + divider.close()
    assert all(text for _, text in found)
    thought, answer = (
        "".join(text for inside, text in found if inside is kind) for kind in (True, False)
    )
    return thought, answer


@given(
    pair=st.sampled_from(PAIRS),
    texts=st.tuples(PLAIN, PLAIN),
    in_thought=st.booleans(),
    places=st.lists(st.integers(0, 200), max_size=8),
)
def test_it_does_not_matter_where_the_text_is_cut(
    pair: tuple[str, str], texts: tuple[str, str], in_thought: bool, places: list[int]
) -> None:
    (start, end), (thought, answer) = pair, texts
    text = ("" if in_thought else start) + thought + end + answer
    assert divided(cut(text, places), Divider(in_thought=in_thought)) == (thought, answer)
    whole = divide(text, in_thought=in_thought)
    assert whole.answer == answer
    assert whole.thought == text[: len(text) - len(end) - len(answer)]


@given(text=PLAIN, places=st.lists(st.integers(0, 50), max_size=4))
def test_text_without_marks_is_answer_to_the_last_character(text: str, places: list[int]) -> None:
    assert divided(cut(text, places), Divider()) == ("", text)
    assert divided(cut(text, places), Divider(in_thought=True)) == (text, "")
    assert divided(cut("<think>" + text, places), Divider(ends=())) == ("", "<think>" + text)


def test_a_thought_that_begins_again_is_thought() -> None:
    text = "<think>a</think>b<think>c</think>d"
    assert divided([text], Divider()) == ("ac", "bd")
    assert divide(text).answer == "bd"


def test_nothing_is_held_back_that_cannot_become_a_mark() -> None:
    divider = Divider()
    assert divider.feed("if a < b") == [(False, "if a < b")]
    assert divider.feed(" and <") == [(False, " and ")]
    assert divider.feed("z") == [(False, "<z")]
    assert divider.feed("<|channel|>fin") == []
    assert divider.feed("al\n") == [(False, "<|channel|>final\n")]


def test_every_known_end_ends_a_thought() -> None:
    for end in KNOWN_ENDS:
        for place in range(1, len(end)):
            parts = ["so 4" + end[:place], end[place:] + "It is 4."]
            assert divided(parts, Divider(in_thought=True)) == ("so 4", "It is 4."), end
