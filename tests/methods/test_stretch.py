"""Several segments in one request: fewer requests, and the very chain that single ones make."""

import asyncio
import hashlib
from typing import Any

import numpy as np
import pytest
from fakes import NOW, by_control, byte_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from atts.analysis.spans import requests
from atts.analysis.tokens import count_tokens
from atts.config import Config, parse_config
from atts.conformal.control import Control, Verdict
from atts.conformal.factory import make_control
from atts.engines.base import Completion, GenerateRequest, Scored, ScoreRequest
from atts.methods.atts import take_turns
from atts.methods.chain import ChainOverError, Model, Models, OpenChain
from atts.methods.sync_ranking import Ranking
from atts.types import Chain, FinishReason, Problem

PROBLEM = Problem(id="p", question="1+1?", answer="2")


def drawn(text: bytes, salt: str) -> int:
    """A number that depends on all of a text."""
    return hashlib.sha256(salt.encode() + text).digest()[0]


class Certain:
    """One byte after another, each of which follows from all before it; and so its surprise."""

    def __init__(self, name: str, alphabet: str = "ab.", ends_at: int = 10**6) -> None:
        self.name = name
        self.letters = alphabet
        self.ends_at = ends_at
        """The length of prompt and text at which it stops."""
        self.asked: list[int] = []
        self.written = 0
        self.scored: list[int] = []

    async def generate(self, request: GenerateRequest) -> Completion:
        text, start = bytes(request.token_ids), len(request.token_ids)
        self.asked.append(request.sampling.max_tokens)
        reason: FinishReason = "length"
        while len(text) - start < request.sampling.max_tokens:
            if len(text) >= self.ends_at:
                reason = "stop"
                break
            whole = text.decode(errors="ignore").encode()
            letter = self.letters[drawn(whole, self.name) % len(self.letters)].encode()
            text += letter[len(text) - len(whole) :][: request.sampling.max_tokens]
            text = text[: start + request.sampling.max_tokens]
        ids = tuple(text[start:])
        self.written += len(ids)
        await asyncio.sleep(0)
        logprobs = tuple(-drawn(text[: start + n], "p") / 50 for n in range(len(ids)))
        return Completion(ids, reason, 0, NOW, logprobs if request.logprobs else None)

    async def score(self, request: ScoreRequest) -> Scored:
        text = bytes(request.token_ids)
        self.scored.append(len(text) - request.start)
        await asyncio.sleep(0)
        found = [-drawn(text[: n + 1], "q") / 25 for n in range(request.start, len(text))]
        return Scored(np.array(found), request.start, NOW)

    async def aclose(self) -> None:
        pass


class Beyond(Control):
    """Takes over where the score is at least this."""

    def __init__(self, score: float) -> None:
        self.score = score

    def decide(self, problem_id: str, turn: int, score: float, u: float) -> Verdict:  # noqa: ARG002
        return Verdict(0.5, 0.5, score >= self.score)


def config_of(**tree: object) -> Config:
    own: dict[str, object] = {"prompt": {"system": ""}}
    return parse_config(own | tree, "a test")


def solved(
    config: Config, draft: Certain, target: Certain, control: Control, most: int | None = None
) -> Chain:
    models = {
        "draft": Model(draft, byte_tokenizer()),
        "target": Model(target, byte_tokenizer()),
    }
    chain = OpenChain(PROBLEM, 0, models, config, by_control(control))  # type: ignore[arg-type]
    chain.most_tokens = most
    try:
        end = asyncio.run(take_turns(chain))
    except ChainOverError as over:
        end = over.end
    return chain.record(end, 0.0, 1.0)


def told(chain: Chain) -> list[Any]:
    """What a chain came to, without how it was asked for."""
    return [
        (
            [(s.author, s.text, s.kept, s.kept_tokens) for s in turn.segments],
            turn.decision and (turn.decision.score, turn.decision.take_over),
            turn.decision and turn.decision.surprises,
        )
        for turn in chain.turns
    ]


@settings(max_examples=25)
@given(
    segments=st.integers(2, 6),
    bounds=st.sampled_from([(8, None, None), (6, 3, 17), (1, 1, 4)]),
    mode=st.sampled_from(["rewind", "replace", "continue"]),
    beyond=st.floats(2.0, 11.0),
    max_turns=st.integers(1, 14),
    ends_at=st.integers(8, 200),
    overlap=st.sampled_from(["on", "off"]),
    most=st.one_of(st.none(), st.integers(1, 60)),
)
def test_a_chain_does_not_depend_on_how_many_come_at_once(
    segments: int,
    bounds: tuple[int, int | None, int | None],
    mode: str,
    beyond: float,
    max_turns: int,
    ends_at: int,
    overlap: str,
    most: int | None,
) -> None:
    chains = []
    for at_once in (1, segments):
        names = ("draft_tokens", "draft_tokens_min", "draft_tokens_max")
        turns = dict(zip(names, bounds, strict=True)) | {"draft_segments": at_once}
        config = config_of(
            turns=turns | {"max_turns": max_turns, "target_tokens": 3},
            take_over={"mode": mode, "record_surprises": "on"},
            limits={"overlap": overlap},
        )
        chains.append(
            solved(
                config,
                Certain("d", ends_at=ends_at),
                Certain("t", ends_at=ends_at),
                Beyond(beyond),
                most,
            )
        )
    one, many = chains
    assert told(many) == told(one)
    # An end-of-sequence behind the last token that a single segment may have is not seen there.
    assert many.end == one.end or (many.end, one.end) == ("stop", "turns")


def counted(
    at_once: int, control: Control, alphabet: str = "ab."
) -> tuple[Chain, Certain, Certain]:
    draft, target = Certain("d", alphabet), Certain("t", alphabet)
    config = config_of(
        turns={"draft_tokens": 4, "target_tokens": 3, "max_turns": 8, "draft_segments": at_once},
        limits={"overlap": "off"},
    )
    chain = solved(config, draft, target, control)
    tokens = count_tokens(config, [chain])
    assert (tokens.draft_written, tokens.target_scored) == (draft.written, sum(target.scored))
    assert tokens.draft_written - tokens.draft_cut == chain.kept("draft")
    assert tokens.draft_requests == len(draft.asked)
    assert tokens.score_requests == len(target.scored)
    assert tokens.target_requests == len(target.asked)
    return chain, draft, target


def test_segments_share_a_request_and_a_score() -> None:
    chain, draft, target = counted(3, Beyond(99.0))
    assert draft.asked == [12, 12, 8]
    assert target.scored == [12, 12, 8]
    flags = [turn.segments[0].with_former for turn in chain.turns]
    assert flags == [False, True, True, False, True, True, False, True]
    decisions = [turn.decision for turn in chain.turns]
    assert [each.with_former for each in decisions if each] == flags
    assert [len(requests(turn)) for turn in chain.turns] == [2, 0, 0, 2, 0, 0, 2, 0]


def test_a_take_over_cuts_off_what_had_come_with_it() -> None:
    chain, draft, target = counted(3, Beyond(0.0))
    assert all(turn.take_over for turn in chain.turns)
    assert draft.asked[:6] == [12] * 6
    first = chain.turns[0]
    assert first.decision
    assert first.decision.scored_tokens == target.scored[0] == 12
    assert len(first.decision.surprises) == 4
    segment = first.segments[0]
    assert (segment.tokens, len(segment.text + segment.cut)) == (12, 12)


@pytest.mark.parametrize("beyond", [0.0, 6.0, 9.9, 99.0])
@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_no_character_is_lost_between_segments(beyond: float, at_once: int) -> None:
    chain, _, _ = counted(at_once, Beyond(beyond), alphabet="aé€😀")
    assert set(chain.text) <= set("aé€😀")
    # Each segment goes on where the one before it ended: the same letters as if written at once.
    text = byte_tokenizer().prompt(PROBLEM, config_of().prompt)
    for segment in (s for s in chain.segments if s.kept):
        name = "d" if segment.author == "draft" else "t"
        for letter in segment.text:
            assert letter == "aé€😀"[drawn(bytes(text), name) % 4]
            text += letter.encode()


def test_nothing_after_an_answer_is_scored() -> None:
    class Answering(Certain):
        async def generate(self, request: GenerateRequest) -> Completion:
            self.asked.append(request.sampling.max_tokens)
            text = b"so \\boxed{2} and on and on"[: request.sampling.max_tokens]
            self.written += len(text)
            return Completion(tuple(text), "length", 0, NOW)

    turns = {"draft_tokens": 6, "max_turns": 8, "draft_segments": 4}
    config = config_of(turns=turns, limits={"overlap": "off"})
    draft, target = Answering("d"), Certain("t")
    chain = solved(config, draft, target, Beyond(99.0))
    assert (chain.end, chain.text) == ("answer", "so \\boxed{2}")
    assert target.scored == [12]
    assert [s.cut for s in chain.segments] == ["", " and on and "]
    assert chain.written("draft") == draft.written == 24
    assert chain.kept("draft") == 12


@pytest.mark.parametrize("by", ["draft-surprise", "coin"])
def test_what_passes_the_gate_is_not_scored(by: str) -> None:
    config = config_of(
        turns={"draft_tokens": 4, "target_tokens": 3, "max_turns": 40},
        take_over={"rate": 0.3, "control": "adaptive", "gate": {"share": 0.6, "by": by}},
        limits={"overlap": "off"},
    )
    control = make_control(config.take_over, None)
    draft, target = Certain("d"), Certain("t")
    chain = solved(config, draft, target, control)
    decisions = [decision for _, decision in chain.decisions]
    passed = [each for each in decisions if each.passed]
    assert 15 <= len(passed) <= 30
    assert len(target.scored) == 40 - len(passed)
    assert sum(each.scored_tokens for each in decisions) == sum(target.scored)
    assert all(
        each.scored_tokens == 0 and not each.take_over and not each.scores for each in passed
    )
    assert [score is None for score in chain.scores] == [each.passed for each in decisions]
    asked = [each.gate is not None and each.gate.surprise is not None for each in decisions]
    assert asked == [by == "draft-surprise"] * 40
    timed = [len(requests(turn)) for turn in chain.turns]
    assert sum(timed) == len(draft.asked) + len(target.scored) + len(target.asked)


def test_what_is_scored_along_does_not_pass() -> None:
    config = config_of(
        turns={"draft_tokens": 4, "target_tokens": 3, "max_turns": 40, "draft_segments": 4},
        take_over={"rate": 0.1, "control": "adaptive", "gate": {"share": 0.4}},
        limits={"overlap": "off"},
    )
    draft, target = Certain("d"), Certain("t")
    chain = solved(config, draft, target, make_control(config.take_over, None))
    decisions = [decision for _, decision in chain.decisions]
    assert any(each.passed for each in decisions)
    assert all(each.gate is None for each in decisions if each.with_former)
    assert sum(each.scored_tokens for each in decisions) == sum(target.scored)
    assert chain.written("draft") == draft.written


def test_ranked_chains_wait_segment_by_segment() -> None:
    def ranked(at_once: int) -> list[Chain]:
        config = config_of(
            method="sync-ranking",
            samples=3,
            turns={
                "draft_tokens": 4,
                "target_tokens": 3,
                "max_turns": 6,
                "draft_segments": at_once,
            },
        )
        decider = Ranking("p", config, open_samples=range(3))

        async def solve(sample: int) -> Chain:
            models: Models = {
                "draft": Model(Certain(f"d{sample}"), byte_tokenizer()),
                "target": Model(Certain(f"t{sample}"), byte_tokenizer()),
            }
            chain = OpenChain(PROBLEM, sample, models, config, decider)
            return chain.record(await take_turns(chain), 0.0, 1.0)

        async def every() -> list[Chain]:
            return await asyncio.gather(*map(solve, range(3)))

        return asyncio.run(every())

    one, many = ranked(1), ranked(4)
    assert [told(chain) for chain in many] == [told(chain) for chain in one]
    assert any(segment.with_former for chain in many for segment in chain.segments)
