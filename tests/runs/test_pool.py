"""The pool of chains: no barrier, no lost chain, nothing left running."""

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest
from fakes import FakeEngine, byte_tokenizer

from atts.config import Config
from atts.errors import ConfigError, ContextLengthError, EngineError, StoreError
from atts.methods import METHODS
from atts.methods.chain import Model, OpenChain
from atts.methods.decider import ControlDecider
from atts.runs.admission import Capacity
from atts.runs.pool import Clock, run_chains
from atts.runs.setup import PlannedChain
from atts.types import Chain, ChainKey, Problem

ALONE = METHODS["draft-only"]


def chains(
    engine: FakeEngine, problems: list[Problem], config: Config
) -> Iterator[list[PlannedChain]]:
    models = {"draft": Model(engine, byte_tokenizer())}
    for problem in problems:
        for sample in range(config.samples):
            opened = partial(OpenChain, problem, sample, models, config)  # type: ignore[arg-type]
            yield [PlannedChain(ChainKey(problem.id, sample), opened)]


async def test_every_chain_is_solved_once_within_the_limit(
    config: Config, problems: list[Problem]
) -> None:
    engine = FakeEngine(write=lambda _: "\\boxed{1}", seconds=0.001)
    done: list[Chain] = []
    await run_chains(chains(engine, problems, config), ALONE, 3, Clock(), done.append)
    assert sorted(c.key for c in done) == [(p.id, s) for p in problems for s in range(2)]
    assert engine.most_in_flight == 3
    assert all(0 <= c.started <= c.done for c in done)


async def test_a_slow_problem_holds_nobody_up(config: Config, problems: list[Problem]) -> None:
    release = asyncio.Event()

    class OneSlowEngine(FakeEngine):
        async def _work(self) -> None:
            if "0 + 0" in self.generated[-1][0]:
                await release.wait()

    done: list[Chain] = []

    def finished(chain: Chain) -> None:
        done.append(chain)
        if len(done) == 8:  # all but the slow problem's two
            release.set()

    engine = OneSlowEngine(write=lambda _: "\\boxed{1}")
    await run_chains(chains(engine, problems, config), ALONE, 3, Clock(), finished)
    assert {c.problem_id for c in done[-2:]} == {"p0"}
    assert len(done) == 10


@pytest.mark.parametrize("error", [EngineError("no luck"), ValueError("a bug")])
async def test_a_failing_chain_is_recorded_and_the_others_go_on(
    config: Config, problems: list[Problem], error: Exception
) -> None:
    def write(prompt: str) -> str:
        if "3 + 3" in prompt:
            raise error
        return "\\boxed{1}"

    done: list[Chain] = []
    await run_chains(
        chains(FakeEngine(write=write), problems, config), ALONE, 4, Clock(), done.append
    )
    failed = [c for c in done if c.end == "failed"]
    assert len(done) == 10
    assert {c.problem_id for c in failed} == {"p3"}
    assert {c.error for c in failed} == {f"{type(error).__name__}: {error}"}


async def test_a_configuration_that_turns_out_wrong_stops_the_run(
    config: Config, problems: list[Problem]
) -> None:
    def write(_: str) -> str:
        raise ConfigError("the template refuses it")

    engine, done = FakeEngine(write=write), list[Chain]()
    with pytest.raises(ConfigError, match="the template refuses it"):
        await run_chains(chains(engine, problems, config), ALONE, 4, Clock(), done.append)
    assert (engine.in_flight, done) == (0, [])


async def test_a_failed_chain_keeps_the_turns_that_it_had(
    config: Config, problems: list[Problem]
) -> None:
    from atts.conformal.online import OnlineControl

    def logprob(segment: str) -> float:
        if segment == "second..":
            raise EngineError("lost the connection")
        return -1.0

    def write(prompt: str) -> str:
        return "first... and" if prompt.endswith("a:") else "second.. and"

    models = {
        "draft": Model(FakeEngine(write=write), byte_tokenizer()),
        "target": Model(FakeEngine(logprob=logprob), byte_tokenizer()),
    }
    decider = ControlDecider(OnlineControl(rate=0.0, coverage="marginal"), "p0")
    opened = partial(OpenChain, problems[0], 0, models, config, decider)  # type: ignore[arg-type]
    chain = PlannedChain(ChainKey("p0", 0), opened)
    done: list[Chain] = []
    await run_chains([[chain]], METHODS["atts"], 1, Clock(), done.append)
    assert [c.end for c in done] == ["failed"]
    assert done[0].error == "EngineError: lost the connection"
    assert [t.decision.score for t in done[0].turns if t.decision] == [1.0]
    assert done[0].text == "first..."


@pytest.mark.parametrize(
    ("raised", "end", "error"),
    [
        (EngineError("no tokens"), "failed", "EngineError: no tokens"),
        (RuntimeError("of a template"), "failed", "RuntimeError: of a template"),
        (ContextLengthError("full"), "context", None),
    ],
)
async def test_a_chain_that_cannot_be_begun_is_data_too(
    config: Config, problems: list[Problem], raised: Exception, end: str, error: str | None
) -> None:
    def cannot() -> OpenChain:
        raise raised

    engine = FakeEngine(write=lambda _: "\\boxed{1}")
    broken = [PlannedChain(ChainKey("broken", 3), cannot)]
    done: list[Chain] = []
    groups = [broken, *chains(engine, problems, config)]
    await run_chains(groups, ALONE, 4, Clock(), done.append)
    (lost,) = [chain for chain in done if chain.problem_id == "broken"]
    assert (lost.sample, lost.end, lost.error, lost.turns) == (3, end, error, ())
    assert len(done) == 1 + len(problems) * config.samples


async def test_a_wrong_configuration_ends_the_run(config: Config, problems: list[Problem]) -> None:
    def cannot() -> OpenChain:
        raise ConfigError("no such role")

    groups = [
        [PlannedChain(ChainKey("broken", 0), cannot)],
        *chains(FakeEngine(seconds=60.0), problems, config),
    ]
    with pytest.raises(ConfigError, match="no such role"):
        await run_chains(groups, ALONE, 4, Clock(), lambda _: None)


async def test_a_full_context_is_an_end_not_a_failure(
    config: Config, problems: list[Problem]
) -> None:
    def write(_: str) -> str:
        raise ContextLengthError("full")

    done: list[Chain] = []
    await run_chains(
        chains(FakeEngine(write=write), problems[:1], config), ALONE, 4, Clock(), done.append
    )
    assert [(c.end, c.error) for c in done] == [("context", None)] * 2


async def test_cancelling_leaves_nothing_running(config: Config, problems: list[Problem]) -> None:
    engine = FakeEngine(seconds=60.0)
    done: list[Chain] = []
    task = asyncio.create_task(
        run_chains(chains(engine, problems, config), ALONE, 4, Clock(), done.append)
    )
    while engine.in_flight < 4:  # noqa: ASYNC110 - the fake has nothing to wait for
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (engine.in_flight, engine.aborted, done) == (0, 4, [])
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_full_disk_stops_the_run_with_its_own_error(
    config: Config, problems: list[Problem]
) -> None:
    engine = FakeEngine(write=lambda p: "\\boxed{1}" if "0 + 0" in p else "", seconds=0.001)

    def finished(chain: Chain) -> None:
        raise StoreError(f"disk full at {chain.problem_id}")

    with pytest.raises(StoreError, match="disk full at p0"):
        await run_chains(chains(engine, problems, config), ALONE, 4, Clock(), finished)
    assert engine.in_flight == 0


def test_the_clock_goes_on_where_it_stopped() -> None:
    clock = Clock(already_run=100.0)
    first = clock()
    assert 100.0 <= first <= clock() < 160.0


async def test_who_asks_for_room_first_gets_it_first() -> None:
    capacity = Capacity(2)
    await capacity.take(2)
    got: list[str] = []

    async def take(name: str, count: int) -> None:
        await capacity.take(count)
        got.append(name)

    async with asyncio.TaskGroup() as tasks:
        for name, count in (("large", 2), ("small", 1)):
            tasks.create_task(take(name, count))
            await asyncio.sleep(0)
        capacity.leave()  # room for the small one, which came later
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert got == []
        capacity.leave()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert got == ["large"]
        capacity.leave()
    assert got == ["large", "small"]
