"""Take-over by rewinding: where a segment is cut, what stays, and what is recorded."""

import asyncio
import itertools

import numpy as np
import pytest
from fakes import FakeEngine, by_control, byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from atts.config import Config, ModelOptions, parse_config
from atts.conformal.adaptive import AdaptiveControl
from atts.conformal.calibration import Calibration, ChainScores
from atts.conformal.control import Control, Verdict
from atts.conformal.factory import make_control
from atts.conformal.online import OnlineControl
from atts.conformal.split import SplitControl
from atts.engines.base import Completion, GenerateRequest, Scored, ScoreRequest
from atts.errors import ConfigError, EngineError
from atts.methods.atts import kept_part, take_turns
from atts.methods.chain import Model, Models, OpenChain, Written
from atts.methods.decider import ControlDecider, Scores
from atts.methods.sync_ranking import Ranking
from atts.models.prompts import Tokenizer
from atts.types import Chain, Problem, Segment, Timings

PROBLEM = Problem(id="p", question="1+1?", answer="2")
NOW = Timings(queued=0.0, started=0.0, first_token=0.0, done=0.0)
BUNDLED = {
    author: Tokenizer.load(ModelOptions(model=f"bundled/{author}"))
    for author in ("draft", "target")
}
"""Tokenizers that cut a text differently."""


def config_of(score: str = "largest-surprise", **more: object) -> Config:
    tree = {
        "turns": {"max_turns": 3, "draft_tokens": 8, "target_tokens": 8},
        "prompt": {"system": ""},
        "take_over": {"mode": "rewind", "score": {"kind": score, "window": 2}},
    }
    return parse_config(tree | more, "a test")


class Above(Control):
    """Takes over where a score is above a limit."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def decide(self, problem_id: str, turn: int, score: float, u: float) -> Verdict:  # noqa: ARG002
        return Verdict(0.5, 0.5, score > self.limit)


class Scoring(FakeEngine):
    """Scores each byte by a table, -0.1 if it is not there."""

    def __init__(self, logprobs: dict[str, float], text: str = "") -> None:
        super().__init__(write=lambda _: text)
        self.logprobs = logprobs

    async def score(self, request: ScoreRequest) -> Scored:
        scored = await super().score(request)
        new = bytes(request.token_ids[request.start :]).decode()
        return scored._replace(logprobs=np.array([self.logprobs.get(c, -0.1) for c in new]))


async def solve(
    config: Config, draft: str, target: Scoring, control: Control
) -> tuple[Chain, FakeEngine]:
    engine = FakeEngine(write=lambda _: draft)
    models: Models = {
        "draft": Model(engine, byte_tokenizer()),
        "target": Model(target, byte_tokenizer(template="Q={{ messages[0]['content'] }};")),
    }
    chain = OpenChain(PROBLEM, 0, models, config, by_control(control))
    return chain.record(await take_turns(chain), 0.0, 1.0), engine


async def test_the_segment_is_cut_before_the_first_token_beyond_the_threshold() -> None:
    target = Scoring({"x": -2.5, "z": -5.0}, "mended.. and more")
    chain, draft = await solve(config_of(), "abcxdzef and more", target, Above(2.0))
    first = chain.turns[0].segments[0]
    assert (first.text, first.cut, first.kept) == ("abc", "xdzef", True)
    assert (first.tokens, first.cut_tokens, first.kept_tokens) == (8, 5, 3)
    assert chain.text == "abcmended.." * 3
    # Only the newest segment was cut: what either model is sent goes on from what stayed.
    assert target.generated[0][0] == "Q=1+1?;abc"
    assert [prompt.partition("a:")[2] for prompt, _ in draft.generated] == [
        "abcmended.." * n for n in range(3)
    ]
    decision = chain.turns[0].decision
    assert decision
    assert decision.score == 5.0
    assert decision.surprises == (0.1, 0.1, 0.1, 2.5, 0.1, 5.0, 0.1, 0.1)
    assert chain.written("draft") == 24  # what was cut was written


async def test_where_nothing_is_left_the_segment_is_replaced() -> None:
    target = Scoring({"x": -2.5}, "mended.. and more")
    chain, _ = await solve(config_of(), "xbcdefgh and more", target, Above(2.0))
    first = chain.turns[0].segments[0]
    assert (first.text, first.kept, first.kept_tokens) == ("xbcdefgh", False, 0)
    assert chain.text == "mended.." * 3


@pytest.mark.parametrize(
    ("score", "kept"),
    [
        ("mean", "abc"),  # before the first token under the floor of -3
        ("unlikely-share", "abc"),
        ("worst-window", "abcxd"),  # at its beginning
        ("largest-surprise", ""),  # the limit is below what every token has
    ],
)
async def test_where_other_scores_cut(score: str, kept: str) -> None:
    target = Scoring({"x": -3.5, "y": -4.0, "z": -4.5}, "m" * 20)
    chain, _ = await solve(config_of(score), "abcxdyzf and more", target, Above(0.05))
    assert chain.text.startswith(kept + "m" * 8)


async def test_where_no_token_is_unlikely_the_least_likely_one_is_cut() -> None:
    target = Scoring({"d": -1.0}, "m" * 20)
    chain, _ = await solve(config_of("mean"), "abcdefgh and more", target, Above(0.1))
    assert chain.turns[0].segments[0].text == "abc"


async def test_a_coin_says_nothing_of_the_place() -> None:
    config = config_of(take_over={"mode": "rewind", "rate": 1.0, "control": "coin",
                                  "score": {"kind": "largest-surprise"}})  # fmt: skip
    control = make_control(config.take_over, None)
    target = Scoring({"c": -0.5, "x": -3.5, "z": -9.0}, "m" * 20)
    chain, _ = await solve(config, "abcxdzef and more", target, control)
    assert chain.turns[0].segments[0].text == "abc"


def test_the_coin_takes_over_at_the_rate_whatever_the_score() -> None:
    options = config_of().take_over.model_copy(update={"control": "coin", "rate": 0.3})
    coin = make_control(options, None)
    numbers = np.random.default_rng(0)
    verdicts = [
        coin.decide("p", n % 5, numbers.exponential(), numbers.random()) for n in range(4000)
    ]
    assert abs(np.mean([verdict.take_over for verdict in verdicts]) - 0.3) < 0.03
    assert coin.decide("p", 0, 99.0, 0.31).take_over is False


async def test_an_answer_before_the_cut_ends_the_chain() -> None:
    target = Scoring({"z": -2.5}, "mended")
    config = config_of(turns={"max_turns": 3, "draft_tokens": 12, "target_tokens": 8})
    chain, _ = await solve(config, "\\boxed{2}.z. and more", target, Above(2.0))
    assert (chain.end, chain.answer, chain.text) == ("answer", "2", "\\boxed{2}.")
    assert target.generated == []


async def test_a_box_that_was_cut_does_not_count() -> None:
    target = Scoring({"3": -2.5}, "2} it is")
    config = config_of(turns={"max_turns": 3, "draft_tokens": 9, "target_tokens": 8})
    chain, _ = await solve(config, "\\boxed{3} and more", target, Above(2.0))
    assert (chain.end, chain.answer) == ("answer", "2")
    assert chain.text == "\\boxed{2} it is"


@pytest.mark.parametrize("overlap", ["on", "off"])
async def test_writing_ahead_changes_nothing(overlap: str) -> None:
    target = Scoring({"x": -2.5}, "mended.. and more")
    config = config_of(limits={"overlap": overlap})
    chain, _ = await solve(config, "abcxdzef and more", target, Above(2.0))
    assert chain.text == "abcmended.." * 3
    assert (chain.turns[0].discarded is not None) == (overlap == "on")


SCORES = st.lists(st.floats(0.0, 9.0), min_size=1, max_size=12)


@given(
    before=st.lists(st.floats(0.0, 9.0), max_size=30),
    surprises=SCORES,
    u=st.floats(0.0, 1.0, exclude_max=True),
    rate=st.floats(0.0, 1.0),
    kind=st.sampled_from(["split", "online", "adaptive"]),
)
def test_decision_and_cut_are_one_threshold(
    before: list[float], surprises: list[float], u: float, rate: float, kind: str
) -> None:
    """The first token is the one that alone, as the whole segment, would have been taken over."""

    def control() -> Control:
        if kind == "split":
            scores: dict[str, tuple[ChainScores, ...]] = {
                "c": tuple((score,) for score in before or [1.0])
            }
            calibration = Calibration(version=2, fingerprint={}, coverage="marginal", scores=scores)
            return SplitControl(calibration, rate)
        made: Control = OnlineControl(rate, "marginal")
        if kind == "adaptive":
            made = AdaptiveControl(made, rate, config_of().take_over.adaptive)
        for score in before:
            made.decide("q", 0, score, 0.5)
        return made

    running = np.maximum.accumulate(surprises).tolist()
    decider = ControlDecider(control(), "p")
    ruling = asyncio.run(decider.decide(0, 0, Scores(running[-1], running), u))
    assert ruling.verdict == control().decide("p", 0, running[-1], u)
    alone = [control().decide("p", 0, score, u).take_over for score in surprises]
    assert ruling.verdict.take_over == any(alone)
    if ruling.first is not None:
        assert ruling.first == alone.index(True)
    elif ruling.verdict.take_over:
        assert control().decide("p", 0, -1e300, u).take_over


@given(chains=st.lists(SCORES, min_size=2, max_size=6), take_overs=st.integers(0, 4))
def test_with_a_ranking_the_first_token_is_what_made_a_chain_one_of_the_worst(
    chains: list[list[float]], take_overs: int
) -> None:
    config = config_of(sync_ranking={"take_overs": take_overs})

    async def rank(values: list[list[float]]) -> list[tuple[bool, int | None]]:
        ranking = Ranking("p", config, range(len(values)))
        runs = [np.maximum.accumulate(each).tolist() for each in values]
        rulings = await asyncio.gather(
            *(ranking.decide(n, 0, Scores(run[-1], run), 0.5) for n, run in enumerate(runs))
        )
        return [(ruling.verdict.take_over, ruling.first) for ruling in rulings]

    for sample, (taken, first) in enumerate(asyncio.run(rank(chains))):

        def would(score: float, sample: int = sample) -> bool:
            others = [*chains[:sample], [score], *chains[sample + 1 :]]
            return asyncio.run(rank(others))[sample][0]

        if first is not None:
            assert taken
            assert [would(score) for score in chains[sample]].index(True) == first
        elif taken:
            assert would(-1e300)


TEXTS = st.text(
    st.sampled_from("abc 12+=\\{}é漢🙂\n.") | st.characters(codec="utf-8", exclude_characters="\0"),
    min_size=1,
    max_size=60,
)


@given(text=TEXTS, tokens=st.integers(0, 80))
def test_what_is_kept_is_the_same_text_for_both_models(text: str, tokens: int) -> None:
    models: Models = {
        author: Model(FakeEngine(), tokenizer)  # type: ignore[misc]
        for author, tokenizer in BUNDLED.items()
    }
    ids = {author: model.tokenizer.encode(text) for author, model in models.items()}
    chain = OpenChain(PROBLEM, 0, models, config_of())
    before = {author: list(prompt) for author, prompt in chain.token_ids.items()}
    segment = Segment(
        author="draft", text=text, tokens=len(ids["draft"]), finish_reason="length",
        cached_tokens=0, timings=NOW,
    )  # fmt: skip
    kept = kept_part(chain, Written(segment, ids), tokens)
    if kept is None:
        assert models["target"].tokenizer.decode_whole_characters(ids["target"][:tokens])[1] == ""
        return
    assert kept.segment.text + kept.segment.cut == text
    for author, model in models.items():
        assert model.tokenizer.decode(kept.token_ids[author]) == kept.segment.text
    # The target keeps what it scored, the draft what it wrote up to the character that was cut.
    assert kept.token_ids["target"] == ids["target"][: len(kept.token_ids["target"])]
    same = [a == b for a, b in zip(kept.token_ids["draft"], ids["draft"], strict=False)]
    shared = len(list(itertools.takewhile(bool, same)))
    assert len(models["draft"].tokenizer.decode(ids["draft"][: shared + 1])) >= len(
        kept.segment.text
    ) or shared == len(ids["draft"])
    chain.append(kept)
    assert chain.token_ids == {a: before[a] + kept.token_ids[a] for a in models}
    assert chain.tokens == kept.segment.kept_tokens


async def test_the_draft_keeps_the_very_tokens_that_it_wrote() -> None:
    """Not those that an encoding of its text would have."""

    class Spelling(FakeEngine):
        async def generate(self, request: GenerateRequest) -> Completion:  # noqa: ARG002
            ids = [i for c in "So 12+3 = 15 x" for i in BUNDLED["draft"].encode(c)]
            return Completion(tuple(ids), "length", 0, NOW)

    class Low(FakeEngine):
        async def score(self, request: ScoreRequest) -> Scored:
            logprobs = np.full(len(request.token_ids) - request.start, -0.1)
            logprobs[-1] = -7.0
            return Scored(logprobs, 0, NOW)

    draft = Spelling()
    models: Models = {
        "draft": Model(draft, BUNDLED["draft"]),
        "target": Model(Low(write=lambda _: ""), BUNDLED["target"]),
    }
    models["target"].engine.generate = _nothing  # type: ignore[method-assign]
    chain = OpenChain(PROBLEM, 0, models, config_of(), by_control(Above(2.0)))
    begun = len(chain.token_ids["draft"])
    await take_turns(chain)
    spelled = [i for c in chain.text for i in BUNDLED["draft"].encode(c)]
    assert chain.text.startswith("So 12+3 = 15")
    assert chain.token_ids["draft"][begun:] == spelled


async def _nothing(request: GenerateRequest) -> Completion:  # noqa: ARG001
    return Completion((), "stop", 0, NOW)


class Confident(FakeEngine):
    """Tells the log-probabilities of what it writes, where it is asked."""

    def __init__(self, text: str, logprobs: dict[str, float]) -> None:
        super().__init__(write=lambda _: text)
        self.logprobs = logprobs
        self.asked: list[bool] = []

    async def generate(self, request: GenerateRequest) -> Completion:
        self.asked.append(request.logprobs)
        completion = await super().generate(request)
        if not request.logprobs:
            return completion
        text = bytes(completion.token_ids).decode()
        return completion._replace(logprobs=tuple(self.logprobs.get(c, -0.1) for c in text))


@pytest.mark.parametrize(("overlap", "kept"), [("on", "abcx"), ("off", "abcx")])
async def test_the_ratio_cuts_where_the_draft_was_surer_than_the_target(
    overlap: str, kept: str
) -> None:
    # Both find x unlikely, the draft alone finds z likely.
    draft = Confident("abcxzdef and more", {"x": -5.0})
    target = Scoring({"x": -5.5, "z": -4.0}, "m" * 20)
    tokenizer = byte_tokenizer()
    models: Models = {"draft": Model(draft, tokenizer), "target": Model(target, tokenizer)}
    config = config_of("ratio", limits={"overlap": overlap})
    chain = OpenChain(PROBLEM, 0, models, config, by_control(Above(2.0)))
    record = chain.record(await take_turns(chain), 0.0, 1.0)
    first = record.turns[0]
    assert first.decision
    assert first.decision.score == pytest.approx(3.9)
    assert first.decision.scores["draft-surprise"] == 5.0
    assert first.segments[0].text == kept
    assert all(draft.asked)
    assert chain.token_ids["draft"] == chain.token_ids["target"]


async def test_other_scores_ask_for_no_log_probabilities_of_the_draft() -> None:
    draft = Confident("abcdefgh and more", {})
    models: Models = {
        "draft": Model(draft, byte_tokenizer()),
        "target": Model(Scoring({}), byte_tokenizer()),
    }
    chain = OpenChain(PROBLEM, 0, models, config_of(), by_control(Above(2.0)))
    record = chain.record(await take_turns(chain), 0.0, 1.0)
    assert not any(draft.asked)
    assert record.turns[0].decision
    assert "ratio" not in record.turns[0].decision.scores


async def test_the_ratio_needs_one_vocabulary_and_an_engine_that_tells() -> None:
    models: Models = {
        author: Model(FakeEngine(), tokenizer)  # type: ignore[misc]
        for author, tokenizer in BUNDLED.items()
    }
    chain = OpenChain(PROBLEM, 0, models, config_of("ratio"), by_control(Above(2.0)))
    with pytest.raises(ConfigError, match="their vocabularies differ"):
        await take_turns(chain)
    silent: Models = {
        "draft": Model(FakeEngine(lambda _: "some text"), byte_tokenizer()),
        "target": Model(FakeEngine(), byte_tokenizer()),
    }
    chain = OpenChain(PROBLEM, 0, silent, config_of("ratio"), by_control(Above(2.0)))
    with pytest.raises(EngineError, match="its engine gave none"):
        await take_turns(chain)


async def test_segments_follow_trust() -> None:
    """Longer after one that stayed, shorter after a take-over, between the bounds."""

    class InTurns(Above):
        def decide(self, problem_id: str, turn: int, score: float, u: float) -> Verdict:  # noqa: ARG002
            return Verdict(0.5, 0.5, turn in (2, 3, 4, 5))

    turns = {
        "max_turns": 9,
        "draft_tokens": 8,
        "target_tokens": 4,
        "draft_tokens_min": 3,
        "draft_tokens_max": 20,
    }
    for overlap in ("on", "off"):
        config = config_of("mean", turns=turns, limits={"overlap": overlap})
        chain, _ = await solve(config, "a" * 99, Scoring({}, "m" * 9), InTurns(0.0))
        lengths = [turn.segments[0].tokens for turn in chain.turns]
        assert lengths == [8, 16, 20, 10, 5, 3, 3, 6, 12]


async def test_the_target_may_write_the_opening() -> None:
    turns = {"max_turns": 2, "draft_tokens": 8, "target_tokens": 5, "opening": "target"}
    target = Scoring({"x": -9.0}, "first words and more")
    chain, draft = await solve(config_of(turns=turns), "abcxefgh and more", target, Above(2.0))
    assert [(s.author, s.text) for s in chain.turns[0].segments] == [
        ("target", "first"), ("draft", "abc"), ("target", "first"),
    ]  # fmt: skip
    assert chain.text == "first" + "abcfirst" * 2
    assert draft.generated[0][0].endswith("a:first")
    seeds = [sampling.seed for _, sampling in target.generated]
    assert len(set(seeds)) == 3

    answered, draft = await solve(config_of(turns=turns | {"target_tokens": 20}), "more",
                                  Scoring({}, "\\boxed{2}"), Above(2.0))  # fmt: skip
    assert (answered.end, len(answered.turns), draft.generated) == ("answer", 1, [])


async def test_each_model_may_sample_in_its_own_way() -> None:
    config = config_of(
        sampling={"temperature": 0.8, "top_p": 0.9},
        draft={"sampling": {"temperature": 0.3}},
        target={"sampling": {"top_p": 1.0}},
    )
    target = Scoring({"x": -9.0}, "m" * 20)
    _, draft = await solve(config, "abcxefgh and more", target, Above(2.0))
    assert {(s.temperature, s.top_p) for _, s in draft.generated} == {(0.3, 0.9)}
    assert {(s.temperature, s.top_p) for _, s in target.generated} == {(0.8, 1.0)}


@pytest.mark.parametrize(("option", "mode", "there"), [
    ("auto", "rewind", True), ("auto", "continue", False), ("on", "replace", True),
    ("off", "rewind", False),
])  # fmt: skip
async def test_surprises_are_recorded_where_they_are_wanted(
    option: str, mode: str, there: bool
) -> None:
    config = config_of(take_over={"mode": mode, "record_surprises": option})
    chain, _ = await solve(config, "abcdefgh and more", Scoring({"c": -1.2345}), Above(9.0))
    decision = chain.turns[0].decision
    assert decision
    assert decision.surprises == ((0.1, 0.1, 1.23, *[0.1] * 5) if there else ())
    assert Chain.model_validate_json(chain.model_dump_json()) == chain
