"""Runs on a cluster of two nodes, of which workers, nodes and the decider are killed."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil
import pytest
from campaign import serving

from atts.analysis.summary import Summary
from atts.cluster.connection import connected
from atts.config import Config, parse_config
from atts.errors import ConfigError, EngineConnectionError, EngineGoneError
from atts.runs import jobs
from atts.runs.observer import SilentObserver
from atts.runs.setup import open_models
from atts.store.contents import CALIBRATION
from atts.store.run_directory import read_run
from atts.types import Author, Chain

if find_spec("ray") is None:
    pytest.skip("Ray is not installed", allow_module_level=True)

from nodes import a_cluster, processes

T = TypeVar("T")
AUTHORS: tuple[Author, ...] = ("draft", "target")


def configuration(urls: dict[Author, str], **changed: Any) -> Config:  # noqa: ANN401
    tree: dict[str, Any] = {
        author: {"engine": "sglang", "model": f"bundled/{author}", "urls": [url]}
        for author, url in urls.items()
    }
    tree |= {
        "problems": {"source": "arithmetic", "count": 10},
        "samples": 4,
        "turns": {"max_turns": 6, "draft_tokens": 24, "target_tokens": 24},
        "take_over": {"control": "coin"},
        "limits": {"chains": 12, "chains_min": 12},
    }
    return parse_config(tree | changed, "a test")


class Ground(NamedTuple):
    """A cluster to which this process is connected, and scripted servers."""

    cluster: Any
    urls: dict[Author, str]
    runner: asyncio.Runner

    def run(self, job: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(job)

    def config(self, **changed: Any) -> Config:  # noqa: ANN401
        return configuration(self.urls, **changed)


class Stage(NamedTuple):
    """The same, with workers that ask the servers; they take all processors of the nodes."""

    ground: Ground
    workers: Any

    def make(self, config: Config, folder: Path, observer: SilentObserver | None = None) -> Summary:
        return self.ground.run(jobs.run(config, self.workers, folder, observer))

    def wait_for_workers(self, count: int) -> None:
        """Until so many can take chains: those that were lost are replaced, while the loop runs."""

        async def wait() -> None:
            async with asyncio.timeout(60):
                while len(self.workers._crew.members) < count:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

        self.ground.run(wait())


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with (
        a_cluster(1, at_head=1) as cluster,
        connected(cluster.address),
        serving(0.01) as urls,
        asyncio.Runner() as runner,
    ):
        yield Ground(cluster, urls, runner)


@pytest.fixture(scope="module")
def stage(ground: Ground) -> Iterator[Stage]:
    from atts.cluster.run import open_workers

    opening = open_workers(ground.config())
    workers = ground.run(opening.__aenter__())
    try:
        yield Stage(ground, workers)
    finally:
        ground.run(opening.__aexit__(None, None, None))


async def test_chains_of_whole_problems_are_not_spread_over_workers() -> None:
    from atts.cluster.run import open_workers

    config = parse_config({"method": "auto", "auto": {"whole_problems": True}}, "a test")
    with pytest.raises(ConfigError, match=r"auto\.whole_problems=true, but a cluster spreads"):
        await open_workers(config).__aenter__()


class Watch(SilentObserver):
    """Hears what is said, and does something after so many chains."""

    def __init__(self, after: int = 10**9, then: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.said: list[str] = []
        self.total = self.done = 0
        self._after, self._then = after, then

    def started(self, total: int, done: int) -> None:
        self.total, self.done = total, done

    def chain_done(self, chain: Chain) -> None:  # noqa: ARG002
        self.done += 1
        if self.done == self._after:
            self._then()

    def warned(self, message: str) -> None:
        self.said.append(message)


def what_matters(folder: Path) -> list[tuple[object, ...]]:
    """The chains without their times and their order."""
    made = [
        (*chain.key, chain.end, chain.answer, chain.text, [d.take_over for _, d in chain.decisions])
        for chain in read_run(folder).chains
    ]
    return sorted(made, key=str)


async def here(config: Config, folder: Path) -> Summary:
    """A run in this process."""
    async with open_models(config) as models:
        return await jobs.run(config, models, folder)


async def there(config: Config, folder: Path, observer: SilentObserver | None = None) -> Summary:
    """A run by workers of its own."""
    from atts.cluster.run import open_workers

    async with open_workers(config) as workers:
        return await jobs.run(config, workers, folder, observer)


def test_the_bundled_pair_comes_to_the_chains_of_one_process(
    ground: Ground, tmp_path: Path
) -> None:
    tree = {
        "problems": {"source": "arithmetic", "count": 3},
        "samples": 2,
        "turns": {"max_turns": 3},
        "take_over": {"control": "coin"},
    }
    config = parse_config(tree, "a test")
    ground.run(there(config, tmp_path / "ray"))
    asyncio.run(here(config, tmp_path / "one"))
    assert what_matters(tmp_path / "ray") == what_matters(tmp_path / "one")
    assert len(what_matters(tmp_path / "ray")) == 6


def test_what_is_wrong_on_a_node_is_told_with_the_worker_and_the_node(
    ground: Ground, tmp_path: Path
) -> None:
    config = ground.config(
        method="target-only",
        target={"engine": "sglang", "model": "bundled/target", "urls": ["http://127.0.0.1:1"]},
    )
    with pytest.raises(EngineConnectionError, match=r"^worker \d on [0-9.]+: http"):
        ground.run(there(config, tmp_path / "nobody"))


def test_a_server_that_goes_is_waited_for_and_then_ends_the_run(
    ground: Ground, tmp_path: Path
) -> None:
    limits = {"chains": 12, "chains_min": 12, "patience_seconds": 1.0, "backoff_seconds": 0.01}
    with serving(0.01) as urls:
        config = configuration(urls, limits=limits, samples=40)

        def kill() -> None:
            port = int(urls["target"].rpartition(":")[2])
            for process in psutil.Process().children():
                if str(port) in process.cmdline():
                    process.kill()

        watch = Watch(20, kill)
        with pytest.raises(EngineGoneError, match=r"^worker \d on .* the target's engine served"):
            ground.run(there(config, tmp_path / "gone", watch))
    assert any("is waited for" in each for each in watch.said)
    assert {chain.end for chain in read_run(tmp_path / "gone").chains} <= {"answer", "turns"}


def test_calibration_and_run_are_those_of_one_process_and_go_on_either_way(
    stage: Stage, tmp_path: Path
) -> None:
    config = stage.ground.config(
        samples=2,
        take_over={"control": "split"},
        calibration={"problems": {"source": "arithmetic", "count": 6}, "samples": 4},
    )

    async def calibrate_here() -> None:
        async with open_models(config) as models:
            await jobs.calibrate(config, models, tmp_path / "one")

    stage.ground.run(jobs.calibrate(config, stage.workers, tmp_path / "ray"))
    asyncio.run(calibrate_here())
    files = [tmp_path / name / CALIBRATION for name in ("one", "ray")]
    assert files[0].read_bytes() == files[1].read_bytes()
    options = config.take_over.model_copy(update={"calibration": files[0]})
    config = config.model_copy(update={"take_over": options})
    for folder, first_there in (("x", True), ("y", False)):
        for samples, there in ((1, first_there), (2, not first_there), (3, first_there)):
            grown = config.model_copy(update={"samples": samples})
            if there:
                stage.make(grown, tmp_path / folder)
            else:
                asyncio.run(here(grown, tmp_path / folder))
    asyncio.run(here(config.model_copy(update={"samples": 3}), tmp_path / "z"))
    assert what_matters(tmp_path / "x") == what_matters(tmp_path / "z")
    assert what_matters(tmp_path / "y") == what_matters(tmp_path / "z")
    orders = [d.order for chain in read_run(tmp_path / "y").chains for _, d in chain.decisions]
    assert len(set(orders)) == len(orders)


def test_a_killed_worker_costs_nothing_but_time(stage: Stage, tmp_path: Path) -> None:
    config = stage.ground.config(samples=12)
    stage.wait_for_workers(2)
    watch = Watch(30, lambda: processes("Worker")[0].kill())
    summary = stage.make(config, tmp_path / "killed", watch)
    asyncio.run(here(config, tmp_path / "one"))
    assert what_matters(tmp_path / "killed") == what_matters(tmp_path / "one")
    assert summary.failed == 0
    assert any("worker" in each and "lost" in each and "done again" in each for each in watch.said)
    assert watch.activity.in_flight == 0
    assert watch.activity.turns >= sum(len(c.turns) for c in read_run(tmp_path / "one").chains)


def test_a_node_that_goes_and_one_that_comes(stage: Stage, tmp_path: Path) -> None:
    config = stage.ground.config(samples=20)
    stage.wait_for_workers(2)
    first = next(node for node in stage.ground.cluster.worker_nodes)

    def replace() -> None:
        stage.ground.cluster.remove_node(first, allow_graceful=False)
        stage.ground.cluster.add_node(num_cpus=1, wait=False)

    watch = Watch(60, replace)
    summary = stage.make(config, tmp_path / "gone", watch)
    asyncio.run(here(config, tmp_path / "one"))
    assert what_matters(tmp_path / "gone") == what_matters(tmp_path / "one")
    assert summary.failed == 0
    assert any("lost" in each for each in watch.said)
    stage.wait_for_workers(2)


def test_a_decider_that_dies_is_followed_by_one_that_knows_all_decisions(
    stage: Stage, tmp_path: Path
) -> None:
    config = stage.ground.config(samples=16, take_over={"control": "adaptive", "rate": 0.3})
    stage.wait_for_workers(2)

    def kill() -> None:
        processes("ControlActor")[0].kill()
        processes("Worker")[0].kill()

    watch = Watch(80, kill)
    summary = stage.make(config, tmp_path / "run", watch)
    assert (summary.chains, summary.failed) == (160, 0)
    decisions = [d for chain in read_run(tmp_path / "run").chains for _, d in chain.decisions]
    assert len({d.order for d in decisions}) == len(decisions)
    # The bound of the control holds of what is on record, as if nothing had happened.
    assert summary.take_over
    assert summary.take_over.tracked
    for each in summary.take_over.tracked:
        assert abs(each.deviation) <= each.bound
    assert any("the decider has ended" in each or "lost" in each for each in watch.said)
    assert not processes("ControlActor")


def test_chains_that_wait_for_each_other_are_with_one_worker(stage: Stage, tmp_path: Path) -> None:
    config = stage.ground.config(method="sync-ranking", samples=6)
    stage.wait_for_workers(2)
    watch = Watch(12, lambda: processes("Worker")[0].kill())
    stage.make(config, tmp_path / "ray", watch)
    asyncio.run(here(config, tmp_path / "one"))
    assert what_matters(tmp_path / "ray") == what_matters(tmp_path / "one")


def test_chains_that_are_not_needed_end_on_all_workers(stage: Stage, tmp_path: Path) -> None:
    config = stage.ground.config(samples=16, stop={"when": "majority"}, problems={"count": 4})
    summary = stage.make(config, tmp_path / "ray")
    ends = [chain.end for chain in read_run(tmp_path / "ray").chains]
    assert len(ends) == 64
    assert 0 < ends.count("not-needed") < 64
    assert summary.failed == 0
