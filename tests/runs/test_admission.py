"""The number of chains in flight: by scripted loads, on a simulated server, and in a run."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from engines.test_meter import MeteredEngine
from fakes import FakeEngine, byte_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from atts.config import parse_config
from atts.engines.base import Load
from atts.engines.limits import LimitedEngine
from atts.errors import EngineConnectionError
from atts.methods.chain import Model
from atts.runs import admission as module
from atts.runs import jobs
from atts.runs.activity import Activity
from atts.runs.admission import Admission, Capacity
from atts.types import Chain

IDLE, SOME, HALF = Load(9, 0, 0.02), Load(9, 0, 0.2), Load(9, 0, 0.5)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.0)


class Scripted(FakeEngine):
    """Tells the loads of a script, keeps the room full, and notes its size."""

    def __init__(
        self, room: Capacity, script: Sequence[Load | Exception | None], ending: int
    ) -> None:
        super().__init__()
        self.room = room
        self.script = iter(script)
        self.ending = ending
        self.sizes: list[int] = []
        self.over = asyncio.Event()

    async def meter(self) -> Load | None:
        self.sizes.append(self.room.size)
        load = next(self.script, "over")
        if isinstance(load, str):
            self.over.set()
            await asyncio.sleep(3600)
        for _ in range(self.ending):
            self.room.leave()
        self.room.taken = self.room.size
        if isinstance(load, Exception):
            raise load
        return load  # type: ignore[return-value]


async def sizes(
    script: Sequence[Load | Exception | None], least: int = 4, most: int = 40, ending: int = 0
) -> tuple[list[int], list[str]]:
    """The size of the room before each load and after the last, and the warnings."""
    room, warnings = Capacity(least), list[str]()
    engine = Scripted(room, script, ending)
    following = asyncio.create_task(
        Admission(room, [engine], least, most, cache_use=0.8).follow(warnings.append)
    )
    over = asyncio.create_task(engine.over.wait())
    await asyncio.wait([following, over], return_when=asyncio.FIRST_COMPLETED)
    for task in (following, over):
        task.cancel()
    await asyncio.wait([following, over])
    # Where it has gone on, the last size was noted when it asked in vain.
    return engine.sizes + [room.size] * (not following.cancelled()), warnings


@pytest.mark.parametrize(
    ("script", "ending", "expected"),
    [
        ([IDLE] * 5, 0, [4, 8, 16, 32, 40, 40]),  # doubles, up to the most
        ([IDLE, SOME, SOME], 3, [4, 8, 11, 14]),  # by as many as have ended
        ([HALF] * 5, 2, [4, 4, 5, 5, 6, 6]),  # by a quarter of those
        ([IDLE, Load(9, 1, 0.1), Load(9, 9, 0.1)], 0, [4, 8, 8, 8]),  # something waits
        ([IDLE, IDLE, Load(9, 10, 0.1), Load(0, 1, 0.1)], 0, [4, 8, 16, 14, 12]),  # too much does
        ([IDLE, IDLE, Load(9, 0, 0.8), Load(9, 0, 0.9)], 0, [4, 8, 16, 14, 12]),  # cache used
        ([Load(9, 0, 1.0)] * 3, 0, [4, 4, 4, 4]),  # never below the least
        ([EngineConnectionError("down"), IDLE], 0, [4, 4, 8]),  # no news, no change
    ],
)
async def test_the_number_follows_the_load(
    script: list[Load | Exception | None], ending: int, expected: list[int]
) -> None:
    assert await sizes(script, ending=ending) == (expected, [])


async def test_as_many_begin_as_the_smallest_cache_holds_and_then_it_follows_the_load() -> None:
    room = Capacity(4)
    loads = [Load(9, 0, 0.01, room=8_000), Load(9, 0, 0.01, room=90_000)]
    admission = Admission(room, [], 4, 40, 0.8, limit=1_000)
    room.taken = 4
    assert admission._next_size(loads) == 16  # at half of what a chain may become
    room.resize(16)
    room.taken = 16
    assert admission._next_size(loads) == 16  # and it does not double, though nothing is used
    for _ in range(5):
        room.leave()
    room.taken = 16
    assert admission._next_size(loads) == 21
    assert admission._next_size([Load(9, 0, 0.9, room=8_000), *loads[1:]]) == 14  # used up


@pytest.mark.parametrize(("rooms", "size"), [((100, 900), 8), ((90_000, 90_000), 40)])
async def test_by_room_it_begins_within_its_bounds(rooms: tuple[int, int], size: int) -> None:
    room = Capacity(8)
    room.taken = 8
    loads = [Load(9, 0, 0.01, room=tokens) for tokens in rooms]
    assert Admission(room, [], 8, 40, 0.8, limit=1_000)._next_size(loads) == size


async def test_where_an_engine_tells_no_room_it_doubles() -> None:
    room = Capacity(4)
    room.taken = 4
    loads = [Load(9, 0, 0.01, room=90_000), Load(9, 0, 0.01)]
    assert Admission(room, [], 4, 40, 0.8, limit=1_000)._next_size(loads) == 8


async def test_without_a_load_the_number_is_fixed_and_that_is_said_once() -> None:
    found, warnings = await sizes([IDLE, None, IDLE])
    assert found == [4, 8, 40]
    assert len(warnings) == 1
    assert "limits.chains=40" in warnings[0]


async def test_what_goes_wrong_with_it_is_said_once_and_changes_nothing() -> None:
    bug = OverflowError("cannot convert float infinity to integer")
    found, warnings = await sizes([IDLE, bug, bug, IDLE])
    assert found == [4, 8, 8, 8, 16]
    assert len(warnings) == 1
    assert "does not follow the load of the engines: OverflowError: cannot convert" in warnings[0]


async def test_it_does_not_grow_beyond_what_is_used() -> None:
    room = Capacity(4)
    room.taken = 3
    following = asyncio.create_task(
        Admission(room, [MeteredEngine(IDLE)], 4, 40, 0.8).follow(lambda _: None)
    )
    for _ in range(20):
        await asyncio.sleep(0)
    following.cancel()
    await asyncio.wait([following])
    assert room.size == 4


async def test_the_busiest_engine_counts() -> None:
    room = Capacity(40)
    room.taken = 40
    engines = [MeteredEngine(IDLE), MeteredEngine(Load(9, 0, 0.95))]
    following = asyncio.create_task(Admission(room, engines, 4, 40, 0.8).follow(lambda _: None))
    await asyncio.sleep(0.001)
    following.cancel()
    await asyncio.wait([following])
    assert room.size == 36  # and no smaller while none of the forty has left


class Server(FakeEngine):
    """A server in memory: each poll is a second, in which its chains grow, end, and begin."""

    def __init__(self, room: Capacity, capacity: int, seed: int, seconds: int) -> None:
        super().__init__()
        self.room = room
        self.capacity = capacity
        self.numbers = np.random.default_rng(seed)
        self.chains: list[list[float]] = []  # length now, and in the end
        self.left = seconds
        self.use: list[float] = []
        self.over = asyncio.Event()

    async def meter(self) -> Load:
        if not self.left:
            self.over.set()
            await asyncio.sleep(3600)
        self.left -= 1
        for chain in self.chains:
            chain[0] += 80
        for chain in [chain for chain in self.chains if chain[0] >= chain[1]]:
            self.chains.remove(chain)
            self.room.leave()
        while self.room.taken < self.room.size:
            await self.room.take(1)
            self.chains.append([200.0, self.numbers.uniform(500, 8000)])
        use = sum(length for length, _ in self.chains) / self.capacity
        self.use.append(use)
        return Load(len(self.chains), 0, min(use, 1.0))


@settings(max_examples=8)
@given(capacity=st.integers(200_000, 2_000_000), seed=st.integers(0, 99))
def test_a_server_is_used_well_and_not_beyond_its_memory(capacity: int, seed: int) -> None:
    async def serve() -> Server:
        room = Capacity(8)
        server = Server(room, capacity, seed, seconds=1000)
        following = asyncio.create_task(
            Admission(room, [server], 8, 5000, cache_use=0.8).follow(lambda _: None)
        )
        await server.over.wait()
        following.cancel()
        await asyncio.wait([following])
        return server

    use = asyncio.run(serve()).use
    # The bound is 0.8. With room for some seventy chains only, their lengths are a matter of luck.
    assert max(use) < (1.0 if capacity >= 500_000 else 1.1)
    assert 0.5 < np.mean(use[400:]) < 0.85


async def test_a_room_holds_no_more_than_its_size_and_any_group() -> None:
    room = Capacity(3)
    inside = most = 0

    async def one() -> None:
        nonlocal inside
        await asyncio.sleep(0.0001)
        inside -= 1
        room.leave()

    tasks = []
    for count in (1, 2, 3, 1, 5, 1, 2):
        await room.take(count)
        inside += count
        most = max(most, inside)
        assert inside <= max(3, count)
        tasks += [asyncio.create_task(one()) for _ in range(count)]
    await asyncio.gather(*tasks)
    assert (most, room.taken, room.left) == (5, 0, 15)


async def test_a_larger_room_lets_in_who_waits() -> None:
    room = Capacity(1)
    await room.take(1)
    waiting = asyncio.create_task(room.take(1))
    await asyncio.sleep(0)
    assert not waiting.done()
    room.resize(2)
    await waiting
    assert room.taken == 2


def problems(path: Path) -> Iterator[str]:
    lines = [{"id": f"p{i}", "question": f"{i}?", "answer": "2"} for i in range(6)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    yield str(path)


@pytest.mark.parametrize(
    ("load", "chains_min", "most"),
    [(Load(9, 0, 0.9), 2, 2), (Load(0, 0, 0.0), 2, 8), (Load(9, 0, 0.9), 8, 8), (None, 2, 8)],
)
async def test_a_run_has_as_many_chains_in_flight(
    tmp_path: Path, load: Load | None, chains_min: int, most: int
) -> None:
    (source,) = problems(tmp_path / "problems.jsonl")
    config = parse_config(
        {
            "method": "draft-only",
            "problems": {"source": source, "count": None},
            "samples": 8,
            "limits": {"chains": 8, "chains_min": chains_min},
        },
        "a test",
    )
    engine = MeteredEngine(load)
    engine.write, engine.seconds = (lambda _: "\\boxed{2}"), 0.002
    limited = LimitedEngine(engine, 100, 1, 0.0)
    warnings: list[str] = []

    class Watch:
        activity = Activity()

        def started(self, total: int, done: int) -> None:
            pass

        def chain_done(self, chain: Chain) -> None:
            assert chain.end == "answer"

        def grading(self, done: int, total: int) -> None:
            pass

        def warned(self, message: str) -> None:
            warnings.append(message)

    models = {"draft": Model(limited, byte_tokenizer())}
    summary = await jobs.run(config, models, tmp_path / "run", Watch())  # type: ignore[arg-type]
    assert (summary.chains, engine.most_in_flight) == (48, most)
    assert len(warnings) == (load is None)
    assert asyncio.all_tasks() == {asyncio.current_task()}
