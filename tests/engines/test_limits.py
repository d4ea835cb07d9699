"""Limits and retries around an engine."""

import asyncio
from dataclasses import replace

import pytest
from engines.test_meter import MeteredEngine
from fakes import FakeEngine
from hypothesis import example, given
from hypothesis import strategies as st

from atts.engines.base import Completion, GenerateRequest, Load, Prefetch, Sampling, ScoreRequest
from atts.engines.limits import LimitedEngine, Slots
from atts.errors import ContextLengthError, EngineError, EngineUnavailableError
from atts.simulation.simulate import run_virtually

SAMPLING = Sampling(max_tokens=8, temperature=0.8, top_p=1.0, seed=1)
HELLO = list(b"hello")


def failing(times: int, error: Exception) -> FakeEngine:
    """An engine that fails so many times, then works."""
    left = times

    def write(_: str) -> str:
        nonlocal left
        if left:
            left -= 1
            raise error
        return "world"

    return FakeEngine(write=write)


async def test_at_most_so_many_requests_are_in_flight() -> None:
    engine = FakeEngine(seconds=0.001)
    limited = LimitedEngine(engine, in_flight=3, attempts=1, backoff_seconds=0.0)
    generates = [limited.generate(GenerateRequest(HELLO, SAMPLING)) for _ in range(10)]
    scores = [limited.score(ScoreRequest(HELLO, 1)) for _ in range(10)]
    await asyncio.gather(*generates, *scores)
    assert engine.most_in_flight == 3
    assert (len(engine.generated), len(engine.scored)) == (10, 10)


async def test_a_passing_failure_is_retried() -> None:
    engine = failing(2, EngineUnavailableError("busy"))
    limited = LimitedEngine(engine, in_flight=1, attempts=3, backoff_seconds=0.0)
    completion = await limited.generate(GenerateRequest(HELLO, SAMPLING))
    assert bytes(completion.token_ids) == b"world"
    assert [sampling.seed for _, sampling in engine.generated] == [1, 1, 1]


async def test_tries_are_limited_and_the_last_error_is_raised() -> None:
    engine = failing(5, EngineUnavailableError("busy"))
    limited = LimitedEngine(engine, in_flight=1, attempts=3, backoff_seconds=0.0)
    with pytest.raises(EngineUnavailableError, match="busy"):
        await limited.generate(GenerateRequest(HELLO, SAMPLING))
    assert len(engine.generated) == 3


@pytest.mark.parametrize("error", [EngineError("broken"), ContextLengthError("too long")])
async def test_other_failures_are_not_retried(error: EngineError) -> None:
    engine = failing(1, error)
    limited = LimitedEngine(engine, in_flight=1, attempts=3, backoff_seconds=0.0)
    with pytest.raises(type(error)):
        await limited.generate(GenerateRequest(HELLO, SAMPLING))
    assert len(engine.generated) == 1


async def test_waiting_for_another_try_holds_no_place() -> None:
    engine = failing(1, EngineUnavailableError("busy"))
    limited = LimitedEngine(engine, in_flight=1, attempts=2, backoff_seconds=3600.0)
    waiting = asyncio.create_task(limited.generate(GenerateRequest(HELLO, SAMPLING)))
    while not engine.generated:  # noqa: ASYNC110 - the fake has nothing to wait for
        await asyncio.sleep(0)
    completion = await asyncio.wait_for(
        limited.generate(GenerateRequest(HELLO, SAMPLING)), timeout=10
    )
    assert bytes(completion.token_ids) == b"world"
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_closing_closes_the_engine() -> None:
    engine = FakeEngine()
    await LimitedEngine(engine, in_flight=1, attempts=1, backoff_seconds=0.0).aclose()
    assert engine.closed


async def test_a_server_that_asks_to_wait_is_waited_for() -> None:
    error = EngineUnavailableError("busy")
    error.retry_after = 0.05
    limited = LimitedEngine(failing(2, error), in_flight=1, attempts=3, backoff_seconds=0.0)
    began = asyncio.get_running_loop().time()
    await limited.generate(GenerateRequest(HELLO, SAMPLING))
    assert asyncio.get_running_loop().time() - began >= 0.1


@pytest.mark.parametrize(("asks", "waits"), [(3600.0, 600.0), (45.0, 45.0)])
def test_a_long_wait_is_capped_and_said_with_what_is_left_of_it(
    asks: float, waits: float, caplog: pytest.LogCaptureFixture
) -> None:
    """In virtual time; one request of the many that wait says it."""
    error = EngineUnavailableError("http://host:1 (m): status 429: 'later'")
    error.retry_after = asks

    async def run() -> float:
        limited = LimitedEngine(failing(3, error), in_flight=9, attempts=2, backoff_seconds=0.0)
        began = asyncio.get_running_loop().time()
        await asyncio.gather(
            *(limited.generate(GenerateRequest(HELLO, SAMPLING)) for _ in range(3))
        )
        return asyncio.get_running_loop().time() - began

    assert run_virtually(run()) == pytest.approx(waits)
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == f"{error}; it asked to wait {asks:,.0f} s; the next try is in {waits:.0f} s"
    assert said[1].endswith(f"the next try is in {waits - 30:.0f} s")
    assert len(said) == -(-waits // 30)


def test_short_waits_are_not_worth_a_word(caplog: pytest.LogCaptureFixture) -> None:
    error = EngineUnavailableError("busy")
    error.retry_after = 29.0
    limited = LimitedEngine(failing(4, error), in_flight=1, attempts=5, backoff_seconds=0.0)
    run_virtually(limited.generate(GenerateRequest(HELLO, SAMPLING)))
    assert not caplog.records


async def test_of_those_who_wait_the_longest_go_first() -> None:
    engine = FakeEngine(seconds=0.001)
    limited = LimitedEngine(engine, in_flight=1, attempts=1, backoff_seconds=0.0)
    texts = ["first", "ab", "abcdef", "abcd", "xy"]
    await asyncio.gather(
        *(limited.generate(GenerateRequest(list(text.encode()), SAMPLING)) for text in texts)
    )
    assert [text for text, _ in engine.generated] == ["first", "abcdef", "abcd", "ab", "xy"]


@given(
    requests=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 6)), max_size=30),
    count=st.integers(1, 4),
)
def test_no_place_is_lost_whoever_gives_up(requests: list[tuple[int, int]], count: int) -> None:
    """Each request waits for its place, holds it for a while, and may be cancelled at any time."""

    async def run() -> None:
        slots, inside = Slots(count), 0

        async def hold(rank: int) -> None:
            nonlocal inside
            await slots.take(rank)
            inside += 1
            assert inside <= count
            try:
                for _ in range(rank):
                    await asyncio.sleep(0)
            finally:
                inside -= 1
                slots.give_back()

        tasks = []
        for rank, patience in requests:
            task = asyncio.create_task(hold(rank))
            tasks.append(task)
            for _ in range(patience // 2):
                await asyncio.sleep(0)
            if patience % 2:
                tasks[len(tasks) // 2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (inside, slots.waiting) == (0, 0)
        # All places can be had again, at the same time.
        async with asyncio.timeout(10):
            for _ in range(count):
                await slots.take(1)

    asyncio.run(run())


async def test_what_is_made_ahead_takes_a_place_that_nobody_waits_for() -> None:
    engine = FakeEngine(seconds=60.0)
    limited = LimitedEngine(engine, in_flight=2, attempts=1, backoff_seconds=0.0)
    first = asyncio.create_task(limited.score(ScoreRequest(b"first", 1)))
    await asyncio.sleep(0)
    ahead = Prefetch()
    ahead.start(limited, GenerateRequest(b"ahead", SAMPLING))
    await asyncio.sleep(0)
    assert engine.in_flight == 2
    await ahead.drop()
    first.cancel()
    await asyncio.wait([first])


async def test_what_is_made_ahead_goes_by_its_length_once_it_is_needed() -> None:
    engine = MeteredEngine(Load(1, 0, 0.5))
    engine.seconds = 0.01
    limited = LimitedEngine(engine, in_flight=1, attempts=1, backoff_seconds=0.0)
    first = asyncio.create_task(limited.generate(GenerateRequest(b"first", SAMPLING)))
    await asyncio.sleep(0)
    taken, dropped = Prefetch(), Prefetch()
    taken.start(limited, GenerateRequest(b"longer", SAMPLING))
    dropped.start(limited, GenerateRequest(b"the longest", SAMPLING))
    await asyncio.sleep(0)
    others = [
        asyncio.create_task(limited.generate(GenerateRequest(text, SAMPLING)))
        for text in (b"abc", b"abcd")
    ]
    await asyncio.sleep(0)
    assert await limited.meter() == Load(1, 2, 0.5)  # the load of what is needed
    await first
    # The place went to one of the others, not to the longest.
    needed = asyncio.create_task(taken.take(GenerateRequest(b"longer", SAMPLING)))
    await asyncio.gather(needed, *others)
    assert await dropped.drop() is None
    assert [text for text, _ in engine.generated] == ["first", "abcd", "longer", "abc"]


async def test_a_second_try_takes_no_place_ahead_of_those_who_wait() -> None:
    """What was made ahead failed; meanwhile others have taken the places."""
    engine = failing(1, EngineUnavailableError("busy"))
    limited = LimitedEngine(engine, in_flight=1, attempts=2, backoff_seconds=0.0)
    ahead = Prefetch()
    ahead.start(limited, GenerateRequest(b"ahead", SAMPLING))
    await asyncio.sleep(0)
    others = [
        asyncio.create_task(limited.generate(GenerateRequest(b"x", SAMPLING))) for _ in range(3)
    ]
    await asyncio.gather(*others)
    assert [text for text, _ in engine.generated][:4] == ["ahead", "x", "x", "x"]
    assert await ahead.take(GenerateRequest(b"ahead", SAMPLING)) is not None
    assert [text for text, _ in engine.generated].count("ahead") == 2


@given(
    requests=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 9)), max_size=30),
    count=st.integers(1, 3),
)
@example(requests=[(3, 1), (3, 1), (1, 0), (2, 1), (3, 1), (1, 0)], count=3)
def test_nothing_made_ahead_begins_while_others_wait(
    requests: list[tuple[int, int]], count: int
) -> None:
    """Some requests are made ahead; of those some are needed after a while, others never."""

    async def run() -> None:
        engine, waiting, needed, inside = FakeEngine(), set[int](), set[int](), set[int]()
        begun: list[int] = []
        generate = engine.generate

        async def watched(request: GenerateRequest) -> Completion:
            number = request.sampling.seed
            begun.append(number)
            waiting.discard(number)
            inside.add(number)
            try:
                # Whoever else has not begun yet has been given a slot, and has only to wake up.
                assert number in needed or len(inside) + len(waiting) <= count
                for _ in range(len(request.token_ids)):
                    await asyncio.sleep(0)
                return await generate(request)
            finally:
                inside.discard(number)

        engine.generate = watched  # type: ignore[method-assign]
        limited = LimitedEngine(engine, count, 1, 0.0)

        async def made_ahead(token_ids: bytes, sampling: Sampling, patience: int) -> None:
            ahead = Prefetch()
            ahead.start(limited, GenerateRequest(token_ids, sampling))
            for _ in range(patience):
                await asyncio.sleep(0)
            if patience % 2:
                needed.add(sampling.seed)
                await ahead.take(GenerateRequest(token_ids, sampling))
            else:
                await ahead.drop()

        tasks: list[asyncio.Task[object]] = []
        for number, (length, patience) in enumerate(requests):
            text, sampling = b"x" * length, replace(SAMPLING, seed=number)
            if patience:
                tasks.append(asyncio.create_task(made_ahead(text, sampling, patience)))
            else:
                needed.add(number)
                tasks.append(asyncio.create_task(limited.generate(GenerateRequest(text, sampling))))
                await asyncio.sleep(0)  # it has a slot by now, or waits for one
                if number not in begun:
                    waiting.add(number)
            for _ in range(length % 3):
                await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await asyncio.gather(*tasks)
        assert needed <= set(begun)
        assert len(begun) == len(set(begun))

    asyncio.run(run())


async def test_what_waits_for_a_place_is_part_of_the_load() -> None:
    engine = MeteredEngine(Load(1, 0, 0.5))
    engine.seconds = 60.0
    limited = LimitedEngine(engine, in_flight=1, attempts=1, backoff_seconds=0.0)
    tasks = [asyncio.create_task(limited.score(ScoreRequest(HELLO, 1))) for _ in range(4)]
    await asyncio.sleep(0.001)
    assert await limited.meter() == Load(1, 3, 0.5)
    tasks[-1].cancel()
    await asyncio.sleep(0)
    assert await limited.meter() == Load(1, 2, 0.5)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert await LimitedEngine(FakeEngine(), 1, 1, 0.0).meter() is None


async def test_a_request_is_queued_from_when_it_was_asked_for() -> None:
    """Not from when it got a place; the fake engine's own times are all 0."""
    clock = asyncio.get_running_loop().time
    limited = LimitedEngine(FakeEngine(seconds=0.02), in_flight=1, attempts=1, backoff_seconds=0.0)
    before = clock()
    asked = [asyncio.create_task(limited.score(ScoreRequest(HELLO, 1))) for _ in range(3)]
    await asyncio.sleep(0)
    after = clock()
    scored = await asyncio.gather(*asked)
    assert all(before <= each.timings.queued <= after for each in scored)
    assert scored[0].timings.done == 0.0
