"""What becomes of requests while a server does not answer; in virtual time."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fakes import FakeEngine

from atts.engines.base import Completion, GenerateRequest, Load, Need, Sampling
from atts.engines.limits import LimitedEngine
from atts.engines.outage import FOLLOW_SECONDS, IN_A_ROW, LONGEST_LOOK_SECONDS, Outage
from atts.errors import (
    EngineConnectionError,
    EngineGoneError,
    EngineReplyError,
    EngineServerError,
    EngineTimeoutError,
    EngineUnavailableError,
    RequestRefusedError,
)
from atts.simulation.simulate import run_virtually

REQUEST = GenerateRequest(list(b"hello"), Sampling(8, 0.8, 1.0, 1))
LOST = EngineConnectionError("no server is there")
BROKEN = EngineServerError("status 500")


class Server(FakeEngine):
    """Fails as it is told to, at a moment of the loop's time."""

    def __init__(
        self,
        failure: Callable[[float], EngineUnavailableError | None],
        answers_about_itself: bool = False,
    ) -> None:
        super().__init__(write=self._written)
        self.failure = failure
        self.answers_about_itself = answers_about_itself
        self.looks = 0
        self.sent: list[float] = []

    def _written(self, _: str) -> str:
        if failure := self.failure(self.sent[-1]):
            raise failure
        return "world"

    async def generate(self, request: GenerateRequest) -> Completion:
        self.sent.append(asyncio.get_running_loop().time())
        return await super().generate(request)

    async def meter(self) -> Load:
        self.looks += 1
        failure = self.failure(asyncio.get_running_loop().time())
        if failure and not self.answers_about_itself:
            raise failure
        return Load(0, 0, 0.0)


def until(moment: float, error: EngineUnavailableError = LOST) -> Callable[[float], Any]:
    return lambda now: error if now < moment else None


def limited(server: FakeEngine, attempts: int = 5, patience: float = 600.0) -> LimitedEngine:
    return LimitedEngine(server, 1000, attempts, 0.5, patience, "draft")


async def outcomes(engine: LimitedEngine, count: int) -> list[Any]:
    return await asyncio.gather(
        *(engine.generate(REQUEST) for _ in range(count)), return_exceptions=True
    )


def test_no_request_is_lost_while_a_server_is_started_again() -> None:
    server, told = Server(until(300.0)), list[str]()

    async def main() -> tuple[list[Any], float]:
        engine = limited(server)
        engine.outage.tell = told.append
        return await outcomes(engine, 128), asyncio.get_running_loop().time()

    results, seconds = run_virtually(main())
    assert [bytes(result.token_ids) for result in results] == [b"world"] * 128
    # All were sent once before it was known, and once after; in between the server was looked at.
    assert len(server.sent) == 2 * 128
    assert server.looks <= 15
    assert seconds < 300.0 + LONGEST_LOOK_SECONDS + 1.0
    assert len(told) == 2
    assert "the draft's engine serves no request" in told[0]
    assert "serves again" in told[1]


def test_no_request_is_lost_while_a_server_stops_and_writes_what_it_has_begun() -> None:
    """It refuses what is new, and results still come all the time."""

    class Stopping(FakeEngine):
        async def generate(self, request: GenerateRequest) -> Completion:
            if 30.0 <= asyncio.get_running_loop().time() < 100.0:
                raise LOST
            return await super().generate(request)

    async def generate(engine: LimitedEngine, begin: float) -> Completion:
        await asyncio.sleep(begin)
        return await engine.generate(REQUEST)

    async def main() -> list[Any]:
        engine = limited(Stopping(seconds=30.0))
        chains = (generate(engine, 0.3 * number) for number in range(200))
        return await asyncio.gather(*chains, return_exceptions=True)

    assert {type(result) for result in run_virtually(main())} == {Completion}


def test_patience_has_an_end() -> None:
    server = Server(lambda _: LOST)

    async def main() -> tuple[list[Any], float]:
        return await outcomes(limited(server, patience=60.0), 128), (
            asyncio.get_running_loop().time()
        )

    results, seconds = run_virtually(main())
    assert {type(result) for result in results} == {EngineGoneError}
    assert "served no request for 60 s (limits.patience_seconds): no server is there" in str(
        results[0]
    )
    assert 60.0 <= seconds < 61.0
    assert len(server.sent) == 128


def test_who_asks_after_the_patience_finds_out_anew() -> None:
    """The engine may serve others than one run."""
    server = Server(until(100.0))

    async def main() -> list[Any]:
        engine = limited(server, patience=60.0)
        return [*await outcomes(engine, 8), *await outcomes(engine, 8)]

    results = run_virtually(main())
    assert [type(result).__name__ for result in results] == [
        *["EngineGoneError"] * 8,
        *["Completion"] * 8,
    ]


def test_one_request_at_a_time_tries_a_server_that_fails_at_work() -> None:
    server = Server(lambda _: BROKEN, answers_about_itself=True)

    async def main() -> list[Any]:
        return await outcomes(limited(server, patience=60.0), 128)

    results = run_virtually(main())
    assert {type(result) for result in results} == {EngineGoneError}
    assert len(server.sent) < 128 + 10


@pytest.mark.parametrize("tells_load", [True, False])
def test_a_request_that_fails_for_its_own_sake_fails_alone(tells_load: bool) -> None:
    """The last chain of a run, say: nobody else's request tells that the server is well."""
    server: FakeEngine = Server(lambda _: BROKEN, answers_about_itself=True)
    if not tells_load:
        server = FakeEngine(write=raising(BROKEN))

    async def main() -> list[Any]:
        return await outcomes(limited(server, attempts=7), 1)

    (result,) = run_virtually(main())
    assert result is BROKEN
    # Of a row that begins an outage the last is nobody's try yet.
    assert len(server.generated) == 7 + 1


def raising(error: Exception) -> Callable[[str], str]:
    def write(_: str) -> str:
        raise error

    return write


def test_figures_that_are_none_do_not_keep_a_server_from_being_tried() -> None:
    class Confused(Server):
        async def meter(self) -> Load:
            self.looks += 1
            raise EngineReplyError("its load is (inf, 0, 0)")

    server = Confused(until(20.0))
    results = run_virtually(outcomes(limited(server), 30))
    assert all(isinstance(result, Completion) for result in results)
    assert server.looks > 0


def test_others_follow_where_the_first_takes_long() -> None:
    server = Server(until(0.5))

    async def main() -> float:
        engine = limited(server)
        tasks = [asyncio.create_task(engine.generate(REQUEST)) for _ in range(64)]
        await asyncio.sleep(0.4)
        assert engine.outage.is_on
        server.seconds = 100.0
        await asyncio.gather(*tasks)
        return asyncio.get_running_loop().time()

    assert run_virtually(main()) < 100.0 + FOLLOW_SECONDS + 3.0


def test_a_server_that_hangs_is_waited_for_no_longer_than_that() -> None:
    """It tells its load, and lets every request run into its time limit."""
    hangs = EngineTimeoutError("no reply within 900 s")
    server = Server(lambda _: hangs, answers_about_itself=True)
    server.seconds = 900.0

    async def main() -> tuple[list[Any], float]:
        return await outcomes(limited(server), 128), asyncio.get_running_loop().time()

    results, seconds = run_virtually(main())
    assert {type(result) for result in results} == {EngineGoneError}
    assert seconds < 2 * 900.0 + FOLLOW_SECONDS + 3.0
    assert len(server.sent) == 2 * 128


def test_a_refusal_is_an_answer() -> None:
    async def main() -> None:
        outage = Outage(FakeEngine())
        for _ in range(IN_A_ROW):
            outage.failed(LOST)
        assert outage.is_on
        engine = LimitedEngine(FakeEngine(write=raising(RequestRefusedError("no"))), 1, 1, 0.0)
        for _ in range(IN_A_ROW):
            engine.outage.failed(LOST)
        with pytest.raises(RequestRefusedError):
            await engine.generate(REQUEST)
        assert not engine.outage.is_on

    run_virtually(main())


def test_a_few_failures_among_results_are_no_outage() -> None:
    count = 0

    def failure(_: float) -> EngineUnavailableError | None:
        nonlocal count
        count += 1
        return LOST if count % IN_A_ROW else None

    async def main() -> list[Any]:
        engine = limited(Server(failure), attempts=1)
        return [result for _ in range(2 * IN_A_ROW) for result in await outcomes(engine, 1)]

    failed = [isinstance(result, EngineConnectionError) for result in run_virtually(main())]
    assert failed == [*[True] * (IN_A_ROW - 1), False] * 2


def test_who_gives_up_waiting_leaves_the_look_to_others() -> None:
    server = Server(until(50.0))

    async def main() -> list[Any]:
        engine = limited(server)
        tasks = [asyncio.create_task(engine.generate(REQUEST)) for _ in range(8)]
        await asyncio.sleep(10.0)
        for task in tasks[:6]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = run_virtually(main())
    assert [type(result).__name__ for result in results] == [
        *["CancelledError"] * 6,
        *["Completion"] * 2,
    ]


def test_what_is_made_ahead_waits_until_it_is_needed() -> None:
    server = Server(until(5.0))

    async def main() -> bool:
        engine = limited(server)
        for _ in range(IN_A_ROW):
            engine.outage.failed(LOST)
        need = Need()
        ahead = asyncio.create_task(engine.generate(REQUEST._replace(need=need)))
        await asyncio.sleep(60.0)
        assert not server.sent
        need.is_certain()
        await ahead
        return need.was_put_off

    assert run_virtually(main())


def test_the_patience_left_is_told() -> None:
    async def main() -> list[float | None]:
        outage = Outage(FakeEngine(), 600.0)
        left = [outage.patience_left(0.0)]
        for _ in range(IN_A_ROW):
            outage.failed(LOST)
        left += [outage.patience_left(now) for now in (0.0, 100.0, 1000.0)]
        outage.answered(asyncio.get_running_loop().time())
        return [*left, outage.patience_left(2000.0)]

    assert run_virtually(main()) == [None, 600.0, 500.0, 0.0, None]
