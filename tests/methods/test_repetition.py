"""Loops are found wherever they begin and stop; ordinary text is left alone."""

import pytest
from fakes import FakeEngine, by_control, byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from atts.config import parse_config
from atts.conformal.online import OnlineControl
from atts.methods.atts import PROBE, TIMES, repeats, take_turns
from atts.methods.chain import Model, Models, OpenChain
from atts.types import Problem

passages = st.text(st.characters(codec="utf-8"), min_size=1, max_size=PROBE)


@given(
    before=st.text(max_size=200),
    passage=passages,
    cut=st.integers(0, PROBE),
    more=st.integers(0, 3),
)
def test_a_passage_over_and_over_is_a_loop(before: str, passage: str, cut: int, more: int) -> None:
    times = max(TIMES, PROBE // len(passage) + 2) + more
    text = before + passage * times + passage[: cut % len(passage)]
    assert repeats(text)


OTHER = "\N{BLACK STAR}"
without_other = passages.filter(lambda passage: OTHER not in passage)


@given(before=st.text(max_size=200), passage=without_other, end=st.text(max_size=100))
def test_what_is_short_or_over_is_none(before: str, passage: str, end: str) -> None:
    short = passage * min(TIMES - 1, PROBE // len(passage))
    assert not repeats(before + OTHER + short)
    assert not repeats(before + passage * 2000 + OTHER + end)


LINES = {
    "a sum": "".join(f"{n} + " for n in range(2000)),
    "an equal sum": "1 + 1 + " * 150,
    "steps": "".join(f"Step {n}: {n} + 17 = {n + 17}.\n" for n in range(500)),
    "a table": "".join(f"| {n} | {n % 2} | 0 | 0 |\n" for n in range(500)),
    "an empty table": "| --- | --- | --- | --- |\n" + "| 0 | 0 | 0 | 0 |\n" * 60,
    "cases": "".join(
        f"Case {n}: suppose the remainder is {n}. Then the square is even, so it is no solution. "
        for n in range(100)
    ),
    "a long division": "0." + "142857" * 200,
    "waiting": "Wait, that is not right. Let me check. " * 30,
    "three equal proofs": 3 * "".join(f"Line {n} of a proof. " for n in range(80)),
    "a long passage twice": 2 * "".join(f"{n} squared is {n * n}. " for n in range(300)),
}


@pytest.mark.parametrize("name", LINES)
def test_ordinary_text_is_no_loop(name: str) -> None:
    text = LINES[name]
    assert not any(repeats(text[:end]) for end in range(len(text), 0, -97))


@pytest.mark.parametrize("repeating", [True, False])
@pytest.mark.parametrize("overlap", ["on", "off"])
async def test_a_chain_that_repeats_itself_is_ended(repeating: bool, overlap: str) -> None:
    config = parse_config(
        {
            "turns": {"max_turns": 9, "draft_tokens": 700},
            "stop": {"repeating": repeating},
            "limits": {"overlap": overlap},
        },
        "a test",
    )
    draft = FakeEngine(write=lambda _: "on and on and " * 50 + "|")
    models: Models = {
        "draft": Model(draft, byte_tokenizer()),
        "target": Model(FakeEngine(), byte_tokenizer()),
    }
    problem = Problem(id="p", question="1+1?", answer="2")
    chain = OpenChain(problem, 0, models, config, by_control(OnlineControl(0.0, "marginal")))
    record = chain.record(await take_turns(chain), 0.0, 1.0)
    # 1,400 characters are not enough, 2,100 are; nothing was begun beyond.
    expected = ("repeats", 3, 3) if repeating else ("turns", 9, 9)
    assert (record.end, len(record.turns), len(draft.generated)) == expected
