"""The two baselines: one model writes everything."""

import pytest
from fakes import FakeEngine, byte_tokenizer

from atts.config import Config
from atts.methods import METHODS
from atts.methods.chain import Model, OpenChain
from atts.types import Author, ChainEnd, Problem

PROBLEM = Problem(id="p", question="1+1?", answer="2")


@pytest.mark.parametrize(
    ("text", "end", "answer"),
    [
        ("so \\boxed{2}", "answer", "2"),
        ("I give up", "stop", None),
        ("on and on " * 10, "turns", None),
    ],
)
@pytest.mark.parametrize("author", ["draft", "target"])
async def test_one_request_as_long_as_all_turns(
    config: Config, author: Author, text: str, end: ChainEnd, answer: str | None
) -> None:
    engine = FakeEngine(write=lambda _: text)
    chain = OpenChain(PROBLEM, 0, {author: Model(engine, byte_tokenizer())}, config)
    method = METHODS["draft-only" if author == "draft" else "target-only"]
    record = chain.record(await method.solve(chain), 0.0, 1.0)
    assert (record.end, record.answer) == (end, answer)
    assert record.text == text[: 4 * (8 + 8)]
    assert [s.author for t in record.turns for s in t.segments] == [author]
    assert method.authors == (author,)
    assert len(engine.generated) == 1
    assert engine.scored == []
