"""Virtual time: it jumps, it never runs backwards, and it notices that nothing can happen."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atts.simulation.simulate import run_virtually


def test_a_day_passes_at_once_and_to_the_instant() -> None:
    async def day() -> float:
        await asyncio.sleep(86_400 * 3)
        return asyncio.get_running_loop().time()

    began = time.monotonic()
    assert run_virtually(day()) == 86_400 * 3
    assert time.monotonic() - began < 60


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=20))
def test_timers_go_off_in_their_order_and_on_time(delays: list[float]) -> None:
    seen: list[tuple[float, float]] = []

    async def one(delay: float) -> None:
        await asyncio.sleep(delay)
        seen.append((asyncio.get_running_loop().time(), delay))

    async def every() -> None:
        await asyncio.gather(*map(one, delays))

    run_virtually(every())
    assert [delay for _, delay in seen] == sorted(delays)
    for now, delay in seen:
        assert now == pytest.approx(delay, abs=1e-6)


def test_waiting_for_what_never_comes_is_an_error() -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="nothing is left"):
        run_virtually(forever())


def test_what_a_callback_has_died_of_is_named_as_the_cause() -> None:
    def die() -> None:
        raise ValueError("a bug")

    async def wait() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(die)
        await loop.create_future()

    with pytest.raises(RuntimeError, match="nothing is left") as told:
        run_virtually(wait())
    assert str(told.value.__cause__) == "a bug"


def test_errors_and_time_limits_work_as_always() -> None:
    async def late() -> None:
        async with asyncio.timeout(5):
            await asyncio.sleep(6)

    with pytest.raises(TimeoutError):
        run_virtually(late())
