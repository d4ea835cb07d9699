"""A worker in the process of the test: the same class, without Ray."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from importlib.util import find_spec
from typing import Any

import pytest
from campaign import serving

from atts.config import Config, parse_config
from atts.conformal.control import BudgetControl
from atts.conformal.factory import make_control
from atts.errors import CalibrationError
from atts.files import to_jsonl
from atts.methods.decider import ControlDecider, Ruling, Scores
from atts.types import Author, Chain, ChainKey, Problem

if find_spec("ray") is None:
    pytest.skip("Ray is not installed", allow_module_level=True)

from ray.exceptions import RayActorError

from atts.cluster.decider import ControlActor, DeciderClient, FarDecider, restored
from atts.cluster.messages import Failure, Opened, Question, Report, Share, Work
from atts.cluster.worker import Worker

AUTHORS: tuple[Author, ...] = ("draft", "target")
PROBLEMS = [Problem(id=f"p{i}", question=f"{i} + {i}?", answer=str(2 * i)) for i in range(3)]


def configuration(urls: dict[Author, str], **changed: Any) -> Config:  # noqa: ANN401
    tree: dict[str, Any] = {
        author: {"engine": "sglang", "model": f"bundled/{author}", "urls": [urls[author]]}
        for author in AUTHORS
    }
    tree |= {
        "samples": 4,
        "turns": {"max_turns": 4, "draft_tokens": 24, "target_tokens": 24},
        "take_over": {"control": "online"},
        "limits": {"overlap": "off"},
    }
    return parse_config(tree | changed, "a test")


class Call:
    """A method of an actor, called in this process."""

    def __init__(self, function: Any) -> None:  # noqa: ANN401
        self._function = function

    async def remote(self, *arguments: Any) -> Any:  # noqa: ANN401
        await asyncio.sleep(0)
        return self._function(*arguments)


class Actor:
    """A decider in this process; it can die."""

    def __init__(self, control: Any) -> None:  # noqa: ANN401
        self.actor = ControlActor(control)
        self.is_dead = False
        self.batches: list[int] = []
        self.rule = Call(self._rule)

    def _rule(self, questions: Sequence[Question], done: int) -> list[Any]:
        if self.is_dead:
            raise RayActorError
        self.batches.append(len(questions))
        return self.actor.rule(questions, done)


async def reports(worker: Worker, chains: int) -> list[Report]:
    """What a worker tells, until so many chains have ended."""
    found: list[Report] = []
    while sum(len(report.chains) for report in found) < chains:
        found.append(await worker.report(0.02))
    return found


def work(config: Config, **changed: Any) -> Work:  # noqa: ANN401
    control = make_control(config.take_over, None)
    given = Work(1, config, "run", control if not control.learns else None, 5.0, ())
    return given._replace(**changed)


@pytest.fixture
async def urls() -> AsyncIterator[dict[Author, str]]:
    with serving(0.01) as found:
        yield found


async def test_a_worker_makes_the_chains_that_it_is_given_and_counts(
    urls: dict[Author, str],
) -> None:
    config = configuration(urls)
    worker = Worker("worker 0 on here", 0, 8)
    opened = await worker.open(config, AUTHORS, {})
    assert isinstance(opened, Opened)
    assert opened.room == config.limits.chains
    await worker.begin(work(config), to_jsonl(PROBLEMS).encode())
    await worker.ask_of(1, Actor(make_control(config.take_over, None)))
    await worker.add([Share("p0", [0, 1]), Share("p2", [3])])
    heard = await reports(worker, 3)
    chains = [Chain.model_validate_json(line) for report in heard for line in report.chains]
    assert {chain.key for chain in chains} == {("p0", 0), ("p0", 1), ("p2", 3)}
    assert all(chain.started >= 5.0 for chain in chains)
    assert sum(report.turns for report in heard) == sum(len(chain.turns) for chain in chains)
    decided = [take_over for report in heard for take_over in report.decided]
    assert sum(decided) == sum(chain.take_overs for chain in chains)
    for author in AUTHORS:
        written = sum(report.written[author] for report in heard)
        assert written == sum(chain.written(author) for chain in chains)
    assert heard[-1].in_flight == 0
    assert heard[-1].failure is None
    (load,) = await worker.meter("draft")
    assert load is not None
    assert not isinstance(load, Failure)
    # All that was told of is on record once the next report is asked for.
    assert (await worker.hold()).decided
    await worker.report(0.02)
    assert not (await worker.hold()).decided
    await worker.close()


async def test_what_is_left_of_a_job_ends_with_it(urls: dict[Author, str]) -> None:
    config = configuration(urls)
    worker = Worker("worker 0 on here", 0, 8)
    await worker.open(config, AUTHORS, {"OF_A_TEST": "x"})
    await worker.begin(work(config), to_jsonl(PROBLEMS).encode())
    await worker.add([Share("p0", [0, 1])])  # which wait for a decider
    await worker.begin(work(config, job=2, settled=["p1"]), to_jsonl(PROBLEMS).encode())
    await worker.add([Share("p1", [0])])
    (report,) = await reports(worker, 1)
    assert report.job == 2
    assert Chain.model_validate_json(report.chains[0]).end == "not-needed"
    await worker.add([Share("p2", [0])])
    await worker.settle("p2")
    (report,) = await reports(worker, 1)
    assert Chain.model_validate_json(report.chains[0]).end == "not-needed"
    await worker.close()


async def test_errors_are_told_and_name_the_worker(urls: dict[Author, str]) -> None:
    nowhere: dict[Author, str] = {"draft": urls["draft"], "target": "http://127.0.0.1:1"}
    worker = Worker("worker 3 on there", 0, 8)
    failure = await worker.open(configuration(nowhere), AUTHORS, {})
    assert isinstance(failure, Failure)
    assert str(failure.error("worker 3")).startswith("worker 3: ")
    assert type(failure.error()).__name__ == "EngineConnectionError"

    limits = {"attempts": 1, "patience_seconds": 0.0}
    with serving(0.01) as going:
        config = configuration(going, take_over={"control": "coin"}, limits=limits)
        await worker.open(config, AUTHORS, {})
    await worker.begin(work(config), to_jsonl(PROBLEMS).encode())
    await worker.add([Share(f"p{n}", [0, 1, 2, 3]) for n in range(3)])
    heard: list[Report] = []
    while not (heard and heard[-1].failure):
        heard.append(await worker.report(0.02))
    chains = [Chain.model_validate_json(line) for report in heard for line in report.chains]
    assert all(chain.error and chain.error.endswith("(worker 3 on there)") for chain in chains)
    assert heard[-1].failure
    assert heard[-1].failure.kind == "EngineGoneError"
    (load,) = await worker.meter("draft")
    assert isinstance(load, Failure)
    await worker.close()


async def test_copies_of_a_control_that_learns_nothing_number_apart(
    urls: dict[Author, str],
) -> None:
    config = configuration(urls, take_over={"control": "coin"})
    orders: list[int | None] = []
    for number in range(2):
        worker = Worker("w", number, 2)
        await worker.open(config, AUTHORS, {})
        await worker.begin(work(config), to_jsonl(PROBLEMS).encode())
        await worker.add([Share("p0", [0, 1])])
        for report in await reports(worker, 2):
            for line in report.chains:
                orders += [d.order for _, d in Chain.model_validate_json(line).decisions]
        await worker.close()
    assert len(set(orders)) == len(orders) > 2


async def test_a_client_asks_in_batches_and_of_the_next_decider_when_one_is_lost() -> None:
    config = parse_config({"take_over": {"control": "adaptive", "budget": {"in_flight": 3}}}, "")
    first, second = (Actor(make_control(config.take_over, None)) for _ in range(2))
    client = DeciderClient()
    serving = asyncio.create_task(client.serve())

    def ask(sample: int, turn: int, score: float = 1.0, u: float = 0.0) -> "asyncio.Task[Ruling]":
        question = Question(ChainKey("p", sample), turn, u, score)
        return asyncio.create_task(client.ask(question))

    waiting = [ask(sample, 0) for sample in range(4)]
    client.ask_of(1, first)
    rulings = await asyncio.gather(*waiting)
    assert first.batches == [4]
    assert [ruling.verdict.take_over for ruling in rulings] == [True, True, True, False]
    client.take_over_done()
    client.forget(ChainKey("p", 3))
    first.is_dead = True
    again = ask(0, 1)
    for _ in range(10):
        await asyncio.sleep(0)
    lost = client.lost
    assert lost == 1
    held = client.hold()
    assert [each.key.sample for each in held.decided] == [0, 1, 2]
    assert held.take_overs == 2
    second.actor = ControlActor(restored(make_control(config.take_over, None), [], [held]))
    client.ask_of(2, second)
    assert client.lost is None
    ruling = await again
    assert ruling.order == 3
    assert ruling.verdict.take_over
    assert not (await ask(1, 1)).verdict.take_over  # three are on the target again
    with pytest.raises(CalibrationError):
        await ask(2, 1, score=float("nan"))
    serving.cancel()


async def test_answers_of_a_decider_that_is_left_count_for_nothing() -> None:
    control = make_control(parse_config({"take_over": {"control": "online"}}, "").take_over, None)
    first, second = Actor(control), Actor(control)
    client = DeciderClient()
    serving = asyncio.create_task(client.serve())
    decider = FarDecider(client, False, "p")
    client.ask_of(1, first)
    waiting = asyncio.create_task(client.ask(Question(ChainKey("p", 0), 0, 0.5, 1.0)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert client.hold().decided == []
    client.ask_of(2, second)
    await waiting
    assert second.batches == [1]
    assert len(client.hold().decided) == 1
    decider.leave(0)
    serving.cancel()


async def test_the_gate_is_asked_of_the_decider_too() -> None:
    take_over = {"control": "online", "gate": {"share": 0.5}}
    config = parse_config({"take_over": take_over}, "")
    there, here = (make_control(config.take_over, None) for _ in range(2))
    client = DeciderClient()
    serving = asyncio.create_task(client.serve())
    client.ask_of(1, Actor(there))
    far, near = FarDecider(client, True, "p"), ControlDecider(here, "p")
    for turn, (surprise, u) in enumerate([(0.1, 0.9), (7.0, 0.3), (0.2, 0.6), (3.0, 0.01)] * 5):
        said = await far.gate(0, turn, surprise, u)
        assert said == await near.gate(0, turn, surprise, u)
        if said and said[1] is None:
            scores = Scores(surprise)
            assert await far.decide(0, turn, scores, u) == await near.decide(0, turn, scores, u)
    held = client.hold()
    assert {each.decision.passed for each in held.decided} == {True, False}
    # The next decider stands where this one did.
    after = restored(make_control(config.take_over, None), [], [held])
    for score in (0.0, 1.0, 5.0):
        assert after.look("p", 3, score, 0.5) == here.look("p", 3, score, 0.5)
    assert await FarDecider(client, False, "p").gate(0, 0, None, 0.5) is None
    serving.cancel()


def test_take_overs_that_are_not_done_count_within_a_budget() -> None:
    config = parse_config({"take_over": {"control": "coin", "budget": {"in_flight": 1}}}, "")
    control = make_control(config.take_over, None)
    assert isinstance(control, BudgetControl)
    control.take_overs_begun(1)
    assert not control.decide("p", 0, 1.0, 0.0).take_over
    control.take_over_done()
    assert control.decide("p", 0, 1.0, 0.0).take_over
