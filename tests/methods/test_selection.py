# mypy: disable-error-code="union-attr"
"""Best of N and self-consistency: independent chains, and which answer they come to."""

import pytest
from fakes import FakeEngine, byte_tokenizer
from recorded import summarised

from atts.config import Config, parse_config
from atts.errors import EngineError
from atts.methods import METHODS, authors_of
from atts.methods.chain import Model, Models, OpenChain
from atts.types import Author, Chain, Problem

PROBLEMS = [
    Problem(id="a", question="1 + 1?", answer="2"),
    Problem(id="b", question="3 + 4?", answer="7"),
]


def config_of(**changes: object) -> Config:
    return parse_config({"samples": 3, "prompt": {"system": ""}, **changes}, "a test")


async def solve(config: Config, texts: dict[str, float], problem: Problem) -> list[Chain]:
    """A chain for each text, which the target finds so likely."""
    chains = []
    for sample, text in enumerate(texts):
        engines: dict[Author, FakeEngine] = {
            "draft": FakeEngine(lambda _, text=text: text),  # type: ignore[misc]
            "target": FakeEngine(lambda _, text=text: text, lambda text: texts[text]),  # type: ignore[misc]
        }
        models: Models = {
            author: Model(engines[author], byte_tokenizer()) for author in authors_of(config)
        }
        chain = OpenChain(problem, sample, models, config)
        end = await METHODS[config.method].solve(chain)
        chains.append(chain.record(end, 0.0, 1.0))
    return chains


@pytest.mark.parametrize("author", ["draft", "target"])
async def test_the_best_rated_chain_with_an_answer_is_selected(author: Author) -> None:
    config = config_of(method="best-of-n", best_of_n={"author": author})
    ours = await solve(
        config, {"\\boxed{3}": -0.3, "\\boxed{ 2}": -0.2, "I do not know": -0.1}, PROBLEMS[0]
    )
    theirs = await solve(config, {"\\boxed{7}": -2.5, "\\boxed{8}": -2.0, "7": -1.0}, PROBLEMS[1])
    ratings = [chain.turns[0].rating for chain in ours + theirs]
    assert [r.value for r in ratings if r] == pytest.approx([-0.3, -0.2, -0.1, -2.5, -2.0, -1.0])
    assert [r.read_tokens for r in ratings[:2] if r] == [9, 10]
    assert {s.author for c in ours for t in c.turns for s in t.segments} == {author}

    summary = summarised(config, PROBLEMS, ours + theirs)
    assert summary.selected
    assert summary.selected.estimate == 1 / 2
    assert summary.accuracy.estimate == pytest.approx(2 / 6)
    assert summary.tokens.target_scored == len("\\boxed{3}\\boxed{ 2}I do not know") + 9 + 9 + 1
    assert summary.take_over is None


async def test_a_problem_without_any_answer_counts_as_wrong() -> None:
    config = config_of(method="best-of-n")
    ours = await solve(config, {"\\boxed{2}": -0.3}, PROBLEMS[0])
    theirs = await solve(config, {"none": -1.0, "": 0.0}, PROBLEMS[1])
    assert theirs[1].turns[0].rating is None  # there is nothing to rate
    summary = summarised(config, PROBLEMS, ours + theirs)
    assert summary.selected
    assert summary.selected.estimate == 1 / 2


async def test_a_chain_that_cannot_be_rated_keeps_what_was_written() -> None:
    def lost(_: str) -> float:
        raise EngineError("lost")

    models: Models = {
        "draft": Model(FakeEngine(lambda _: "\\boxed{2}"), byte_tokenizer()),
        "target": Model(FakeEngine(logprob=lost), byte_tokenizer()),
    }
    chain = OpenChain(PROBLEMS[0], 0, models, config_of(method="best-of-n"))
    with pytest.raises(EngineError):
        await METHODS["best-of-n"].solve(chain)
    assert chain.record("failed", 0.0, 1.0, "lost").text == "\\boxed{2}"


@pytest.mark.parametrize("author", ["draft", "target"])
async def test_self_consistency_selects_the_most_frequent_answer(author: Author) -> None:
    config = config_of(method="self-consistency", self_consistency={"author": author})
    assert authors_of(config) == (author,)
    ours = await solve(
        config, {"\\boxed{2}": 0.0, "so \\boxed{2}": 0.0, "\\boxed{3}": 0.0}, PROBLEMS[0]
    )
    theirs = await solve(
        config, {"\\boxed{7}": 0.0, "\\boxed{8}": 0.0, "so \\boxed{8}": 0.0}, PROBLEMS[1]
    )
    assert {s.author for c in ours for t in c.turns for s in t.segments} == {author}
    summary = summarised(config, PROBLEMS, ours + theirs)
    assert summary.selected == summary.majority_vote
    assert summary.selected.estimate == 1 / 2


async def test_other_methods_select_no_answer() -> None:
    config = config_of(method="draft-only")
    chains = await solve(config, {"\\boxed{2}": 0.0}, PROBLEMS[0])
    assert summarised(config, PROBLEMS[:1], chains).selected is None
