"""Stop strings, found at the token that completes them and at no other."""

from hypothesis import given
from hypothesis import strategies as st

from atts.engines.inprocess.sampling import StopStrings

LETTERS = "a\n\u00e9\u4e2d"  # of one, two and three bytes


def bytes_to_text(ids: list[int]) -> str:
    return bytes(ids).decode(errors="replace")


@given(
    text=st.text(LETTERS, max_size=30),
    stop=st.lists(st.text(LETTERS, min_size=1, max_size=3), min_size=1, max_size=3),
)
def test_the_first_token_that_completes_a_stop_string_is_found(text: str, stop: list[str]) -> None:
    stops = StopStrings(bytes_to_text, stop)
    ids = list(text.encode())
    found = next((n for n in range(1, len(ids) + 1) if stops.reached(ids[:n])), None)
    ends = [text.find(each) + len(each) for each in stop if each in text]
    expected = len(text[: min(ends)].encode()) if ends else None
    assert found == expected


def test_a_stop_string_in_the_middle_of_a_token_is_found() -> None:
    words = ["So", ".\n\nNow", "\n", "\nthen"]
    stops = StopStrings(lambda ids: "".join(words[each] for each in ids), ("\n\n",))
    assert [stops.reached(ids) for ids in ([0], [0, 1], [2], [2, 3], [3, 2])] == [
        False,
        True,
        False,
        True,
        False,
    ]
