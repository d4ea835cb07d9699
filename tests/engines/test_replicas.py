"""Chains over several servers of one model."""

import asyncio
from collections import Counter

import pytest
from fakes import FakeEngine

from atts.engines.base import ChainMark, GenerateRequest, Sampling, ScoreRequest
from atts.engines.replicas import Replicas
from atts.errors import ConfigError, EngineConnectionError, EngineServerError

SAMPLING = Sampling(max_tokens=4, temperature=0.0, top_p=1.0, seed=0)


class Server(FakeEngine):
    """Can be switched off."""

    def __init__(self) -> None:
        super().__init__(write=lambda _: "ab", seconds=0.001)
        self.error: Exception | None = None

    async def _work(self) -> None:
        await super()._work()
        if self.error:
            raise self.error


async def run_chain(engine: Replicas, name: str, turns: int = 4) -> None:
    mark = ChainMark()
    for _ in range(turns):
        await engine.generate(GenerateRequest(list(name.encode()), SAMPLING, mark))
        await engine.score(ScoreRequest([*name.encode(), 65], len(name), mark))


def chains_of(server: Server) -> Counter[str]:
    return Counter(prompt for prompt, _ in server.generated)


async def test_a_chain_stays_where_it_began_and_new_ones_spread() -> None:
    servers = [Server() for _ in range(3)]
    engine = Replicas(servers)
    await asyncio.gather(*(run_chain(engine, f"chain {i:02}") for i in range(12)))
    for server in servers:
        assert sorted(chains_of(server).values()) == [4, 4, 4, 4]
        assert len(server.scored) == 16


async def test_one_worker_that_solves_chains_in_turn_spreads_them_too() -> None:
    servers = [Server(), Server()]
    engine = Replicas(servers)

    async def worker(number: int) -> None:
        for i in range(5):
            await run_chain(engine, f"{number} {i}", turns=1)

    await asyncio.gather(worker(0), worker(1))
    assert [len(server.generated) for server in servers] == [5, 5]


async def test_the_chains_of_a_dead_server_move_on_and_nothing_is_lost() -> None:
    servers = [Server(), Server()]
    engine = Replicas(servers)

    async def kill() -> None:
        await asyncio.sleep(0.01)
        servers[0].error = EngineConnectionError("gone")

    await asyncio.gather(kill(), *(run_chain(engine, f"{i}", turns=20) for i in range(8)))
    done = chains_of(servers[1])
    assert set(done) == {f"{i}" for i in range(8)}
    # What the dead server could not answer was asked again elsewhere.
    assert sum(done.values()) >= 8 * 20 - 4 * 20
    tried_in_vain = len(servers[0].generated)
    await asyncio.gather(*(run_chain(engine, "late", turns=3) for _ in range(4)))
    assert len(servers[0].generated) == tried_in_vain


async def test_when_all_are_down_the_error_comes_through_and_the_next_try_may_succeed() -> None:
    servers = [Server(), Server()]
    engine = Replicas(servers)
    for server in servers:
        server.error = EngineConnectionError("gone")
    with pytest.raises(EngineConnectionError):
        await run_chain(engine, "x")
    servers[1].error = None
    await run_chain(engine, "x")


async def test_an_error_of_the_request_itself_does_not_move_it() -> None:
    servers = [Server(), Server()]
    engine = Replicas(servers)
    for server in servers:
        server.error = EngineServerError("out of memory")
    with pytest.raises(EngineServerError):
        await run_chain(engine, "x")
    assert len(servers[0].generated) + len(servers[1].generated) == 1


async def test_a_replica_that_comes_back_with_another_model_is_left_alone() -> None:
    servers = [Server(), Server()]
    engine = Replicas(servers)
    await asyncio.gather(*(run_chain(engine, f"{i}") for i in range(4)))
    servers[0].error = ConfigError("serves another model")
    await asyncio.gather(*(run_chain(engine, f"{i}") for i in range(4, 8)))
    assert {f"{i}" for i in range(4, 8)} <= set(chains_of(servers[1]))
    servers[1].error = ConfigError("serves another model")
    with pytest.raises(ConfigError):
        await run_chain(engine, "x")


async def test_closing_closes_all() -> None:
    servers = [Server(), Server()]
    await Replicas(servers).aclose()
    assert all(server.closed for server in servers)
