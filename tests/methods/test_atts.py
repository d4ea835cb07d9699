"""The method itself, against scripted engines that record what they are sent."""

import itertools

import pytest
from fakes import FakeEngine, by_control, byte_tokenizer

from atts.config import Config
from atts.conformal.control import Control, Verdict
from atts.errors import EngineError
from atts.methods.atts import take_turns
from atts.methods.chain import Model, Models, OpenChain
from atts.types import Chain, Problem

PROBLEM = Problem(id="p", question="1+1?", answer="2")


class ScriptedControl(Control):
    """Takes over in the given turns."""

    def __init__(self, *turns: int) -> None:
        self.turns = turns
        self.seen: list[tuple[str, int, float, float]] = []

    def decide(self, problem_id: str, turn: int, score: float, u: float) -> Verdict:
        self.seen.append((problem_id, turn, score, u))
        return Verdict(0.5, 0.5, turn in self.turns)


def open_chain(
    config: Config, draft: FakeEngine, target: FakeEngine, control: ScriptedControl
) -> OpenChain:
    models: Models = {
        "draft": Model(draft, byte_tokenizer()),
        "target": Model(target, byte_tokenizer(template="Q={{ messages[0]['content'] }};")),
    }
    return OpenChain(PROBLEM, 0, models, config, by_control(control))


async def solve(chain: OpenChain) -> Chain:
    return chain.record(await take_turns(chain), 0.0, 1.0)


def with_mode(config: Config, mode: str) -> Config:
    take_over = config.take_over.model_copy(update={"mode": mode})
    return config.model_copy(update={"take_over": take_over})


def texts(chain: Chain) -> list[tuple[str, str, bool]]:
    return [(s.author, s.text, s.kept) for turn in chain.turns for s in turn.segments]


async def test_without_take_over_the_draft_writes_until_the_answer(config: Config) -> None:
    words = {"a:": "step one and more", "a:step one": "\\boxed{2", "\\boxed{2": "} is it"}
    draft = FakeEngine(write=lambda p: next(w for end, w in words.items() if p.endswith(end)) + "|")
    target = FakeEngine()
    chain = await solve(open_chain(config, draft, target, ScriptedControl()))
    assert texts(chain) == [
        ("draft", "step one", True),
        ("draft", "\\boxed{2", True),
        ("draft", "} is it|", True),
    ]
    assert (chain.end, chain.answer) == ("answer", "2")
    assert target.generated == []
    assert [text for _, text in target.scored] == ["step one", "\\boxed{2", "} is it|"]


async def test_the_last_turn_ends_a_chain_without_an_answer(config: Config) -> None:
    draft = FakeEngine(write=lambda _: "on and on")
    chain = await solve(open_chain(config, draft, FakeEngine(), ScriptedControl()))
    assert (chain.end, chain.answer, len(chain.turns)) == ("turns", None, 4)


async def test_continue_appends_the_targets_text_to_the_drafts(config: Config) -> None:
    draft = FakeEngine(write=lambda _: "draft...and more")
    target = FakeEngine(write=lambda _: "\\boxed{2}")
    turns = config.turns.model_copy(update={"target_tokens": 9})
    config = config.model_copy(update={"turns": turns})
    chain = await solve(open_chain(config, draft, target, ScriptedControl(1)))
    assert texts(chain) == [
        ("draft", "draft...", True),
        ("draft", "draft...", True),
        ("target", "\\boxed{2}", True),
    ]
    assert (chain.end, chain.answer) == ("answer", "2")
    assert [t.decision.take_over for t in chain.turns if t.decision] == [False, True]
    assert target.generated[0][0] == "Q=1+1?;draft...draft..."


async def test_the_target_may_overrule_an_answer_of_the_draft(config: Config) -> None:
    draft = FakeEngine(write=lambda _: "\\boxed{3}")
    target = FakeEngine(write=lambda _: " No: \\boxed{2}")
    turns = config.turns.model_copy(update={"draft_tokens": 20, "target_tokens": 20})
    config = config.model_copy(update={"turns": turns})
    chain = await solve(open_chain(config, draft, target, ScriptedControl(0)))
    assert chain.text == "\\boxed{3} No: \\boxed{2}"
    assert (chain.end, chain.answer) == ("answer", "2")


async def test_an_answer_that_was_taken_over_ends_the_chain_only_when_it_is_confirmed(
    config: Config,
) -> None:
    draft = FakeEngine(write=lambda p: " = 4, \\boxed{4}" if "Wait" in p else "\\boxed{3}")
    target = FakeEngine(write=lambda _: " Wait, 2+2 and so on")
    turns = config.turns.model_copy(update={"draft_tokens": 20, "target_tokens": 10})
    config = config.model_copy(update={"turns": turns})
    chain = await solve(open_chain(config, draft, target, ScriptedControl(0)))
    assert chain.text == "\\boxed{3} Wait, 2+2 = 4, \\boxed{4}"
    assert (chain.end, chain.answer, len(chain.turns)) == ("answer", "4", 2)

    agreeing = FakeEngine(write=lambda _: "")  # its end-of-sequence, at once
    chain = await solve(open_chain(config, draft, agreeing, ScriptedControl(0)))
    assert (chain.end, chain.answer, len(chain.turns)) == ("answer", "3", 1)


async def test_a_box_that_the_target_closes_ends_the_chain(config: Config) -> None:
    draft = FakeEngine(write=lambda _: "\\boxed{34")
    target = FakeEngine(write=lambda _: "5} and then more")
    chain = await solve(open_chain(config, draft, target, ScriptedControl(0)))
    assert (chain.end, chain.answer, len(chain.turns)) == ("answer", "35", 1)


async def test_of_a_chain_whose_answer_stays_in_doubt_that_answer_is_recorded(
    config: Config,
) -> None:
    draft = FakeEngine(write=lambda p: "" if p.endswith("hmm") else "\\boxed{3}")
    target = FakeEngine(write=lambda _: " hmm.....")
    turns = config.turns.model_copy(update={"draft_tokens": 9, "target_tokens": 4})
    config = config.model_copy(update={"turns": turns})
    chain = await solve(open_chain(config, draft, target, ScriptedControl(0)))
    assert chain.text == "\\boxed{3} hmm"
    assert (chain.end, chain.answer, len(chain.turns)) == ("answer", "3", 1)


async def test_replace_keeps_only_the_targets_text(config: Config) -> None:
    draft = FakeEngine(write=lambda p: "\\boxed{3}"[:8] if "mended" not in p else "done")
    target = FakeEngine(write=lambda _: "mended")
    chain = await solve(open_chain(with_mode(config, "replace"), draft, target, ScriptedControl(0)))
    assert texts(chain)[:2] == [("draft", "\\boxed{3", False), ("target", "mended", True)]
    assert chain.text == "mended"
    assert target.generated[0][0] == "Q=1+1?;"
    assert chain.end == "stop"


async def test_a_model_is_always_sent_what_it_was_sent_before_and_more(config: Config) -> None:
    draft = FakeEngine(write=lambda _: "thinking on and on")
    target = FakeEngine(write=lambda _: "so do I, on and on")
    await solve(open_chain(config, draft, target, ScriptedControl(0, 2)))
    for sent in (
        [prompt for prompt, _ in draft.generated],
        [prefix for prefix, _ in target.scored],
        [prompt for prompt, _ in target.generated],
    ):
        assert len(sent) > 1
        for earlier, later in itertools.pairwise(sent):
            assert later.startswith(earlier)
            assert len(later) > len(earlier)
    assert target.scored[0] == ("Q=1+1?;", "thinking")


async def test_the_score_is_the_mean_negative_log_likelihood(config: Config) -> None:
    control = ScriptedControl()
    draft = FakeEngine(write=lambda _: "\\boxed{}")
    target = FakeEngine(logprob=lambda _: -2.5)
    chain = await solve(open_chain(config, draft, target, control))
    assert {score for _, _, score, _ in control.seen} == {2.5}
    assert [turn for _, turn, _, _ in control.seen] == [0]
    decision = chain.turns[0].decision
    assert decision
    assert (decision.score, decision.scored_tokens) == (2.5, 8)


async def test_seeds_come_from_the_place_in_the_chain(config: Config) -> None:
    def run(stream: str, sample: int) -> tuple[FakeEngine, ScriptedControl, OpenChain]:
        draft, control = FakeEngine(write=lambda _: "on and on and"), ScriptedControl(0)
        models: Models = {
            "draft": Model(draft, byte_tokenizer()),
            "target": Model(FakeEngine(write=lambda _: "more of it"), byte_tokenizer()),
        }
        return (
            draft,
            control,
            OpenChain(PROBLEM, sample, models, config, by_control(control), stream),
        )

    seeds = []
    for stream, sample in (("run", 0), ("run", 0), ("run", 1), ("calibration", 0)):
        draft, control, chain = run(stream, sample)
        await solve(chain)
        ties = [u for *_, u in control.seen]
        assert all(0.0 <= u < 1.0 for u in ties)
        seeds.append([sampling.seed for _, sampling in draft.generated] + ties)
    assert seeds[0] == seeds[1]
    distinct = {number for numbers in seeds[1:] for number in numbers}
    assert len(distinct) == 3 * len(seeds[0])


async def test_an_empty_segment_is_never_scored_and_ends_the_chain(config: Config) -> None:
    target = FakeEngine()
    chain = await solve(
        open_chain(config, FakeEngine(write=lambda _: ""), target, ScriptedControl())
    )
    assert (chain.end, target.scored, chain.turns) == ("stop", [], ())


@pytest.mark.parametrize("logprob", [float("-inf"), float("nan")])
async def test_unusable_log_probabilities_are_an_error(config: Config, logprob: float) -> None:
    draft = FakeEngine(write=lambda _: "something")
    chain = open_chain(config, draft, FakeEngine(logprob=lambda _: logprob), ScriptedControl())
    with pytest.raises(EngineError, match="not usable"):
        await take_turns(chain)


async def test_a_segment_cut_within_a_character_loses_only_that_character(config: Config) -> None:
    draft = FakeEngine()
    draft.write = lambda _: "1234567é and more"  # 8 bytes end in the middle of é
    chain = await solve(open_chain(config, draft, FakeEngine(), ScriptedControl()))
    assert chain.text == "1234567" * 4
    assert chain.turns[0].segments[0].tokens == 8


async def test_a_take_over_is_in_flight_until_the_target_has_written(config: Config) -> None:
    class Counting(ScriptedControl):
        done = 0

        def take_over_done(self) -> None:
            self.done += 1

    control, during = Counting(0, 1), []

    def write(_: str) -> str:
        during.append(control.done)
        if len(during) == 2:
            raise EngineError("lost")
        return "more and more"

    chain = open_chain(
        config, FakeEngine(write=lambda _: "on and on"), FakeEngine(write=write), control
    )
    with pytest.raises(EngineError, match="lost"):
        await take_turns(chain)
    assert (during, control.done) == ([0, 1], 2)


async def test_the_kind_of_score_is_the_configurations(config: Config) -> None:
    score = config.take_over.score.model_copy(update={"kind": "unlikely-share", "floor": -2.0})
    take_over = config.take_over.model_copy(update={"score": score})
    control = ScriptedControl()
    target = FakeEngine(logprob=lambda _: -2.5)
    chain = await solve(
        open_chain(
            config.model_copy(update={"take_over": take_over}),
            FakeEngine(write=lambda _: "\\boxed{}"),
            target,
            control,
        )
    )
    assert [score for _, _, score, _ in control.seen] == [1.0]
    decision = chain.turns[0].decision
    assert decision
    assert (decision.score, decision.threshold, decision.order) == (1.0, 0.5, 0)
    assert decision.scores == {
        "mean": 2.5,
        "worst-window": 2.5,
        "unlikely-share": 1.0,
        "largest-surprise": 2.5,
    }
