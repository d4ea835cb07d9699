"""What ends a chain: an answer outside a thought, or a stated letter."""

import pytest
from fakes import FakeEngine, by_control, byte_tokenizer

from atts.config import Config
from atts.conformal.control import Control, Verdict
from atts.methods.atts import take_turns
from atts.methods.chain import Model, Models, OpenChain
from atts.types import Problem

OPEN = Problem(id="p", question="1+1?", answer="2")
CHOICE = Problem(id="c", question="Which?", answer="B", choices=("one", "two"))


class Never(Control):
    """Never takes over."""

    def decide(self, problem_id: str, turn: int, score: float, u: float) -> Verdict:  # noqa: ARG002
        return Verdict.of(1.0, 0.4)


@pytest.mark.parametrize(
    ("problem", "turns", "answer"),
    [
        # A box in a thought that is over by the end of the turn does not count.
        (OPEN, ["\\boxed{7}</think>", "so\\boxed{2}", "more"], "2"),
        (OPEN, ["thinking", "\\boxed{7}", "more"], "7"),
        (OPEN, ["ANSWER: B", "\\boxed{2}", "more"], "2"),
        (CHOICE, ["It is", " ANSWER: B", "more"], "B"),
        (CHOICE, ["\\boxed{two}", "more"], "B"),
        # A plain statement in an open thought ends no chain, whatever opens and ends it.
        (CHOICE, ["<think>Is it B?", "ANSWER: B.", "</think>ANSWER: A.", "more"], "A"),
        (CHOICE, ["[THINK]ANSWER: B.", "[/THINK]", "**A**.", "more"], "A"),
    ],
)
async def test_a_chain_ends_with_its_answer(
    config: Config, problem: Problem, turns: list[str], answer: str
) -> None:
    config = config.model_copy(
        update={"turns": config.turns.model_copy(update={"draft_tokens": 20})}
    )
    written = iter(turns)
    # Longer than a segment may be, so that the segment ends by its length.
    draft = FakeEngine(write=lambda _: next(written).ljust(20) + "|")
    models: Models = {
        "draft": Model(draft, byte_tokenizer()),
        "target": Model(FakeEngine(), byte_tokenizer()),
    }
    chain = OpenChain(problem, 0, models, config, by_control(Never()))
    record = chain.record(await take_turns(chain), 0.0, 1.0)
    assert (record.end, record.answer) == ("answer", answer)
    assert list(written) == ["more"]
