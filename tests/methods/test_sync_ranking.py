"""Synchronous ranking: who is taken over, who waits for whom, and for whom nobody waits."""

import asyncio
from collections.abc import Iterable
from functools import partial

import pytest
from fakes import FakeEngine, byte_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from atts.config import Config, parse_config
from atts.engines.base import Scored, ScoreRequest
from atts.errors import EngineError
from atts.methods import METHODS
from atts.methods.chain import Model, Models, OpenChain
from atts.methods.decider import Scores
from atts.methods.sync_ranking import Ranking
from atts.runs.pool import Clock, run_chains
from atts.runs.setup import PlannedChain
from atts.types import Chain, ChainKey, Problem

PROBLEM = Problem(id="p", question="1+1?", answer="2")
METHOD = METHODS["sync-ranking"]


def config_of(**changes: object) -> Config:
    return parse_config(
        {
            "method": "sync-ranking",
            "samples": 4,
            "turns": {"max_turns": 3, "draft_tokens": 8, "target_tokens": 8},
            "prompt": {"system": ""},
            **changes,
        },
        "a test",
        {"take_over": {"mode": "continue", "score": {"kind": "mean"}}},
    )


class SampleEngine(FakeEngine):
    """Knows the chains apart by the order in which they first write; each has its own score.

    A chain's text carries its number, so the score of a segment can depend on it.
    """

    def __init__(self, endings: dict[int, int] | None = None, seconds: float = 0.0) -> None:
        super().__init__(seconds=seconds)
        self.endings = endings or {}
        self.begun = 0
        self.write = self._write

    def _write(self, prompt: str) -> str:
        begun = prompt.partition("a:")[2]
        if not begun:
            number, turn = self.begun, 0
            self.begun += 1
        else:
            number, turn = int(begun[1]), begun.count("c")
        if self.endings.get(number) == turn:
            return "\\boxed{2}"
        return f"c{number}t{turn}    and more"


async def solve_all(config: Config, draft: FakeEngine, target: FakeEngine) -> list[Chain]:
    models: Models = {
        "draft": Model(draft, byte_tokenizer()),
        "target": Model(target, byte_tokenizer()),
    }
    ranking = Ranking(PROBLEM.id, config, range(config.samples))

    def planned(sample: int) -> PlannedChain:
        opened = partial(OpenChain, PROBLEM, sample, models, config, ranking)
        return PlannedChain(ChainKey(PROBLEM.id, sample), opened)

    done: list[Chain] = []
    group = [planned(sample) for sample in range(config.samples)]
    await asyncio.wait_for(run_chains([group], METHOD, 4, Clock(), done.append), 20)
    return sorted(done, key=lambda chain: chain.key)


def by_number(segment: str) -> float:
    """The higher a chain's number, the worse its score."""
    return -float(segment[1])


def taken_over(chains: Iterable[Chain]) -> list[list[bool]]:
    return [[t.decision.take_over for t in chain.turns if t.decision] for chain in chains]


async def test_the_worst_of_each_turn_are_taken_over() -> None:
    draft, target = SampleEngine(), FakeEngine(lambda _: "mended..more", by_number)
    config = config_of(sync_ranking={"take_overs": 1})
    chains = await solve_all(config, draft, target)
    assert taken_over(chains) == [[False] * 3] * 3 + [[True] * 3]
    assert [s.author for t in chains[3].turns for s in t.segments] == ["draft", "target"] * 3
    first = [chain.turns[0].decision for chain in chains]
    assert [d.p_value for d in first if d] == [1.0, 0.75, 0.5, 0.25]
    assert {d.threshold for d in first if d} == {0.25}
    # All scores of a turn are there before the first request of the turn after it.
    assert [text for _, text in target.scored][:4] == [
        "c0t0    ",
        "c1t0    ",
        "c2t0    ",
        "c3t0    ",
    ]


async def test_fast_chains_wait_for_slow_ones_and_the_wait_is_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])

    class OneSlow(FakeEngine):
        async def score(self, request: ScoreRequest) -> Scored:
            if b"c2t0" in bytes(request.token_ids[request.start :]):
                for _ in range(50):  # until all others wait
                    await asyncio.sleep(0)
                now[0] += 5.0
            return await super().score(request)

    chains = await solve_all(config_of(), SampleEngine(), OneSlow(lambda _: "more", by_number))
    assert [chain.turns[0].waited_seconds for chain in chains] == [5.0, 5.0, 0.0, 5.0]
    assert {turn.waited_seconds for chain in chains for turn in chain.turns[1:]} == {0.0}


async def test_nobody_waits_for_a_chain_that_has_ended() -> None:
    draft = SampleEngine(endings={0: 1, 1: 2})
    config = config_of(
        sync_ranking={"take_overs": 0},
        turns={"max_turns": 3, "draft_tokens": 9, "target_tokens": 8},
    )
    chains = await solve_all(config, draft, FakeEngine(logprob=lambda _: -1.0))
    assert [(chain.end, len(chain.turns)) for chain in chains] == [
        ("answer", 2),
        ("answer", 3),
        ("turns", 3),
        ("turns", 3),
    ]


async def test_nobody_waits_for_a_chain_that_fails() -> None:
    def logprob(segment: str) -> float:
        if segment.startswith("c1t1"):
            raise EngineError("lost")
        return by_number(segment)

    target = FakeEngine(lambda _: "mended..more", logprob)
    chains = await solve_all(config_of(sync_ranking={"take_overs": 1}), SampleEngine(), target)
    assert [chain.end for chain in chains] == ["turns", "failed", "turns", "turns"]
    assert taken_over(chains) == [[False] * 3, [False], [False] * 3, [True] * 3]


async def test_an_empty_segment_leaves_the_others() -> None:
    draft = SampleEngine()
    write = draft.write
    draft.write = lambda prompt: "" if prompt.endswith("c1t0    ") else write(prompt)
    config = config_of(sync_ranking={"take_overs": 0})
    chains = await solve_all(config, draft, FakeEngine(logprob=by_number))
    assert [(c.end, len(c.turns)) for c in chains] == [("turns", 3), ("stop", 1)] + [
        ("turns", 3)
    ] * 2


@given(
    rate=st.floats(0.0, 1.0),
    sizes=st.lists(st.integers(1, 16), min_size=1, max_size=12),
    seed=st.integers(0, 50),
)
def test_the_share_of_take_overs_keeps_to_the_rate(
    rate: float, sizes: list[int], seed: int
) -> None:
    sizes = sorted(sizes, reverse=True)  # chains only ever leave
    config = config_of(take_over={"rate": rate}, seed=seed, samples=16)

    async def run() -> list[bool]:
        ranking = Ranking("p", config, range(sizes[0]))
        taken: list[bool] = []
        for turn, size in enumerate(sizes):
            for gone in range(size, sizes[0]):
                ranking.leave(gone)
            rulings = await asyncio.gather(
                *(ranking.decide(n, turn, Scores(float(n)), 0.5) for n in range(size))
            )
            verdicts = [ruling.verdict for ruling in rulings]
            took = [v.take_over for v in verdicts]
            assert took == sorted(took)  # the worst, which have the highest scores
            assert all(v.take_over == (v.p_value <= v.threshold) for v in verdicts)
            taken += took
        return taken

    taken = asyncio.run(run())
    assert abs(sum(taken) - rate * len(taken)) < 1.0 + 1e-6


def test_over_many_problems_even_single_decisions_keep_to_the_rate() -> None:
    config = config_of(take_over={"rate": 0.3})

    async def run(problem: str) -> bool:
        ruling = await Ranking(problem, config, [0]).decide(0, 0, Scores(1.0), 0.5)
        return ruling.verdict.take_over

    async def all_of_them() -> int:
        return sum([await run(f"p{n}") for n in range(1000)])

    # The standard deviation of a binomial count would be 14.5.
    assert 255 < asyncio.run(all_of_them()) < 345


async def test_a_chain_that_is_not_among_the_others_is_a_mistake() -> None:
    ranking = Ranking("p", config_of(), [0])
    with pytest.raises(ValueError, match="chain 1 cannot be ranked in turn 0"):
        await ranking.decide(1, 0, Scores(1.0), 0.5)
    models: Models = {
        "draft": Model(SampleEngine(), byte_tokenizer()),
        "target": Model(FakeEngine(), byte_tokenizer()),
    }
    with pytest.raises(ValueError, match="no others to be ranked with"):
        await METHOD.solve(OpenChain(PROBLEM, 0, models, config_of()))
