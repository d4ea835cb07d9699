"""Calls that need an event loop of their own."""

import asyncio
import threading
from concurrent.futures import Future
from typing import NoReturn

import pytest

from atts.api.loops import run_anywhere


async def where() -> str:
    return threading.current_thread().name


def test_without_a_loop_it_runs_here() -> None:
    assert run_anywhere(where()) == threading.current_thread().name


async def test_with_a_loop_it_runs_in_a_thread_and_errors_come_back() -> None:
    assert run_anywhere(where()).startswith("atts-call")

    async def fails() -> NoReturn:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_anywhere(fails())


async def test_interrupted_it_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    async def for_ever() -> None:
        begun.set()
        try:
            await asyncio.sleep(3600.0)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def interrupted(_: Future[None], timeout: float | None = None) -> NoReturn:  # noqa: ARG001
        begun.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(Future, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_anywhere(for_ever())
    assert cancelled.is_set()
