"""Probing: stand-ins, and simulated servers in virtual time, whose whole runs are foretold."""

import asyncio
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from fakes import FakeEngine, byte_tokenizer

from atts.advice.model import pace
from atts.advice.probe import Texts, probe
from atts.engines.base import Completion, GenerateRequest, Load
from atts.methods.chain import Model, Models
from atts.simulation.simulate import run_virtually
from atts.simulation.workload import load_workload
from atts.types import Author


class Roomy(FakeEngine):
    async def meter(self) -> Load:
        return Load(0, 0, 0.0, room=5_000)


def texts(author: Author, ahead: int) -> Texts:
    return Texts(list(f"{author} writes. ".encode()) * 20, 30, ahead)


def pair(target_seconds: float = 0.2) -> Models:
    return {
        "draft": Model(FakeEngine(lambda _: "x" * 100, seconds=0.1), byte_tokenizer()),
        "target": Model(Roomy(lambda _: "y" * 100, seconds=target_seconds), byte_tokenizer()),
    }


def test_every_kind_of_request_is_timed_at_every_level() -> None:
    models = pair()
    prices = run_virtually(probe(models, texts, (16, 48), (1, 4), remote=False))
    assert [level.in_flight for level in prices.levels] == [1, 4]
    for level in prices.levels:
        assert level.draft.seconds(20) == pytest.approx(0.1)
        assert level.target.seconds(20) == pytest.approx(0.2)
        assert level.score.seconds(20) == pytest.approx(0.2)
    assert (prices.draft_room, prices.target_room) == (None, 5_000)
    target = models["target"].engine
    assert isinstance(target, FakeEngine)
    assert target.most_in_flight == 4
    assert {len(text) for _, text in target.scored} == {16, 48}
    scored = [before + text for before, text in target.scored]
    assert len(set(scored)) == len(scored), "nothing is scored twice"


class TakingIn(FakeEngine):
    """A server whose one process takes in one request after the other, and writes all at a time."""

    def __init__(self, seconds: float, token_seconds: float) -> None:
        super().__init__(lambda _: "t" * 300)
        self.own, self.token = seconds, token_seconds
        self.door = asyncio.Lock()

    async def generate(self, request: GenerateRequest) -> Completion:
        async with self.door:
            await asyncio.sleep(self.own)
        await asyncio.sleep(self.token * request.sampling.max_tokens)
        return await super().generate(request)


def test_long_texts_are_not_told_by_what_taking_in_short_requests_takes() -> None:
    models = pair()
    models["target"] = models["target"]._replace(engine=TakingIn(0.1, 0.02))
    prices = run_virtually(probe(models, texts, (16, 48), (1, 32), 1e9))
    assert prices.at(32).target.seconds(600) < 4.0, "so many wait in front of it anyway"
    alone = pace(prices, None)(32)
    assert alone.fixed + 600 * alone.seconds == pytest.approx(0.1 + 600 * 0.02, rel=0.05)


class Compiling(FakeEngine):
    """Takes long the first time that it writes with more in flight than ever before."""

    def __init__(self) -> None:
        super().__init__(lambda _: "z" * 100, seconds=0.1)
        self.known = 0

    async def generate(self, request: GenerateRequest) -> Completion:
        if request.sampling.max_tokens > 1 and self.in_flight >= self.known:
            self.known = self.in_flight + 1
            await asyncio.sleep(1.0)
        return await super().generate(request)


def test_what_only_the_first_requests_take_is_left_out() -> None:
    models = pair()
    models["target"] = models["target"]._replace(engine=Compiling())
    for level in run_virtually(probe(models, texts, (16, 48), (1, 4))).levels:
        assert level.target.seconds(8) == pytest.approx(0.1)
        assert level.target.seconds(64) == pytest.approx(0.1)


def test_levels_that_would_not_fit_the_time_are_left_out() -> None:
    prices = run_virtually(probe(pair(10.0), texts, (16, 48), (1, 4, 16), seconds=100.0))
    assert [level.in_flight for level in prices.levels] == [1]
    assert prices.client_seconds > 0.0


class ByToken(Roomy):
    """Takes so long for each token that it writes."""

    async def generate(self, request: GenerateRequest) -> Completion:
        await asyncio.sleep(0.2 * request.sampling.max_tokens)
        return await super().generate(request)


@pytest.mark.parametrize(("seconds", "long"), [(200.0, False), (1_500.0, True)])
def test_slow_engines_are_asked_for_less_at_each_level(seconds: float, long: bool) -> None:
    """As on a processor, where 256 tokens take a minute with any number in flight."""
    models = pair()
    models["target"] = Model(ByToken(lambda _: "y" * 300), byte_tokenizer())

    async def main() -> float:
        prices = await probe(models, texts, (16, 48), (1, 4, 16), seconds)
        assert [level.in_flight for level in prices.levels] == [1, 4, 16]
        for level in prices.levels:
            assert level.target.token == pytest.approx(0.2)
            assert bool(level.target_long) == long
        return asyncio.get_running_loop().time()

    assert run_virtually(main()) < seconds


def test_no_chain_begins_like_another() -> None:
    chains = texts("draft", 64).chains(300)
    assert len({tuple(chain.prefix[:4]) for chain in chains}) == 300
    assert {len(chain.prefix) for chain in chains} == {34}
    assert {len(chain.ahead) for chain in chains} == {64}


@pytest.fixture(scope="module")
def foretold() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "foretold.py"
    spec = importlib.util.spec_from_file_location("foretold", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["foretold"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["8B + 32B, one GPU each", "1.7B + 30B-A3B, one GPU for both"])
def test_simulated_runs_are_foretold(foretold: ModuleType, shared_data: Path, name: str) -> None:
    workload = load_workload(next((shared_data / "traces").glob("*.gz")))
    rows = list(foretold.rows(name, workload, [4, 16]))
    assert len(rows) == 6
    assert max(abs(row.error) for row in rows) < 0.15
