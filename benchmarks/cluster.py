"""What a run on a cluster costs: turns a second by workers, the decider's actor, memory, and rates.

    python benchmarks/cluster.py turns [--workers 2 --workers 8]
    python benchmarks/cluster.py decisions
    python benchmarks/cluster.py chains [--count 100000]
    python benchmarks/cluster.py rates

A cluster of one node on this machine has as many places as there are to be workers; the engines
answer at once (``benchmarks/overhead.py``), in every worker. Where there are more workers than
cores they share them: turns a second then show what the machine can do, and processor time for a
turn what a worker costs on a core of its own.
"""

import argparse
import asyncio
import os
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest import mock

import psutil
from overhead import AUTHORS, NOW, InstantEngine, some_reasoning
from rich.console import Console
from rich.table import Table

from atts.cluster.connection import connected, load_ray
from atts.config import FORMER_DEFAULTS, Config, ModelOptions, parse_config
from atts.conformal.factory import make_control
from atts.engines.base import Completion, GenerateRequest
from atts.methods.chain import Model, Models
from atts.models.prompts import Tokenizer
from atts.runs import jobs
from atts.runs.making import Opening
from atts.runs.observer import SilentObserver
from atts.runs.setup import limited
from atts.store.run_directory import read_run
from atts.types import Author, Chain, ChainKey

WORKERS = (2, 4, 8)
SAMPLES = 16
MOST_TOKENS = 500
"""That a segment may have."""
MARK = "ATTS_BENCHMARK"
"""The environment variable by which the processes of a cluster are found."""


class ShortEngine(InstantEngine):
    """Answers at once, with no more tokens than are asked for."""

    async def generate(self, request: GenerateRequest) -> Completion:
        await asyncio.sleep(0)
        piece = self._written(request.sampling.seed).token_ids
        return Completion(piece[: request.sampling.max_tokens], "length", 0, NOW)


def instant_models(config: Config) -> Models:
    """Models of the bundled pair's vocabulary whose engines answer at once."""
    text = some_reasoning(random.Random(0), 200_000)
    models: Models = {}
    for author in AUTHORS:
        tokenizer = Tokenizer.load(ModelOptions(model=f"bundled/{author}"))
        engine = ShortEngine(tokenizer.encode(text), MOST_TOKENS)
        models[author] = Model(limited(engine, author, config.limits), tokenizer)
    return models


@contextmanager
def instant_workers(places: int) -> Iterator[Opening]:
    """A cluster with so many places, whose workers have such engines."""
    load_ray(is_local=True)
    from ray.cluster_utils import Cluster

    from atts.cluster import crew, worker
    from atts.cluster.messages import Failure, Opened
    from atts.cluster.run import open_workers

    @asynccontextmanager
    async def instant(config: Config, _: Collection[Author]) -> AsyncIterator[Models]:
        yield instant_models(config)

    class InstantWorker(worker.Worker):
        """A worker with engines that answer at once."""

        async def open(
            self, config: Config, authors: Collection[Author], environment: Mapping[str, str]
        ) -> Opened | Failure:
            with mock.patch.object(worker, "open_models", instant):
                return await super().open(config, authors, environment)

    os.environ[MARK] = str(time.monotonic_ns())
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": places, "include_dashboard": False}
    )
    try:
        with connected(cluster.address), mock.patch.object(crew, "Worker", InstantWorker):
            yield open_workers
    finally:
        cluster.shutdown()


def configuration(chains: int, control: str, in_flight: int, turns: int, tokens: int) -> Config:
    requests = {"draft_requests": in_flight, "target_requests": in_flight}
    return parse_config(
        {
            "draft": {"engine": "vllm", "model": "bundled/draft"},
            "target": {"engine": "vllm", "model": "bundled/target"},
            "problems": {"source": "arithmetic", "count": -(-chains // SAMPLES)},
            "samples": SAMPLES,
            "turns": {"max_turns": turns, "draft_tokens": tokens, "target_tokens": tokens},
            "take_over": {"control": control},
            "limits": {
                "chains": in_flight,
                "chains_min": in_flight,
                "overlap": "off",
                **requests,
            },
        },
        "the benchmark",
        FORMER_DEFAULTS,
    )


class Used(NamedTuple):
    """Of the processes of a kind: seconds of the processor, and the memory of the largest."""

    seconds: float
    megabytes: float
    processes: int


def used() -> dict[str, Used]:
    """By kind of process."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for process in psutil.process_iter():
        try:
            kind = kind_of(process)
            if kind:
                times, memory = process.cpu_times(), process.memory_info()
                found[kind].append((times.user + times.system, memory.rss / 1e6))
        except (psutil.Error, OSError, IndexError):
            continue
    return {
        kind: Used(sum(s for s, _ in each), max(m for _, m in each), len(each))
        for kind, each in found.items()
    }


def kind_of(process: psutil.Process) -> str | None:
    if process.pid == os.getpid():
        return "driver"
    words = process.cmdline()
    if MARK not in os.environ or process.environ().get(MARK) != os.environ[MARK]:
        return None
    if words[0].startswith("ray::InstantWorker"):
        return "worker"
    if words[0].startswith("ray::ControlActor"):
        return "decider"
    name = Path(words[0]).name
    return {"raylet": "raylet", "gcs_server": "raylet"}.get(name)


class Watch(SilentObserver):
    """Takes the time and the processor's from the first chain's start to the last one's end."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = self.chains = 0
        self.seconds = 0.0
        self.before: dict[str, Used] = {}
        self.after: dict[str, Used] = {}
        self.said: list[str] = []
        self._left = 0

    def started(self, total: int, done: int) -> None:
        self._left = self.chains = total - done
        self.before = used()
        self.seconds = time.monotonic()

    def chain_done(self, chain: Chain) -> None:
        if chain.end != "turns":
            raise ValueError(f"a chain ended with {chain.end}: {chain.error}")
        self.turns += len(chain.turns)
        self._left -= 1
        if self._left == 0:
            self.seconds = time.monotonic() - self.seconds
            self.after = used()

    def warned(self, message: str) -> None:
        self.said.append(message)

    def microseconds(self, kind: str, each: int) -> float:
        """Of the processor, for a turn or whatever there are so many of."""
        if kind not in self.after:
            return 0.0
        before = self.before[kind].seconds if kind in self.before else 0.0
        return 1e6 * (self.after[kind].seconds - before) / each


def a_run(config: Config, opening: Opening | None, folder: Path) -> Watch:
    """A run, in this process or by workers."""
    watch = Watch()

    async def run() -> None:
        if opening is None:
            await jobs.run(config, instant_models(config), folder, watch)
            return
        async with opening(config, None) as models:
            await jobs.run(config, models, folder, watch)

    asyncio.run(run())
    return watch


def turns(workers: Collection[int], count: int) -> None:
    """Turns a second, and what a turn costs in each kind of process."""
    table = Table("", "control", "turns/s", "CPU us a turn: worker", "driver", "decider", "raylet")

    def row(name: str, control: str, watch: Watch) -> None:
        kinds = [watch.microseconds(kind, watch.turns) for kind in KINDS]
        if watch.after.get("worker") is None:  # the driver does the work
            kinds[0], kinds[1] = kinds[1], 0.0
        speed = watch.turns / watch.seconds
        table.add_row(name, control, f"{speed:,.0f}", *(f"{each:,.0f}" for each in kinds))

    for control in ("coin", "online"):
        config = configuration(count, control, 64, turns=8, tokens=500)
        with TemporaryDirectory() as folder:
            a_run(configuration(64, control, 64, 8, 500), None, Path(folder) / "warm")
            row("1 process", control, a_run(config, None, Path(folder) / "one"))
    for number in workers:
        with instant_workers(number) as opening, TemporaryDirectory() as folder:
            for control in ("coin", "online"):
                config = configuration(count, control, 64, turns=8, tokens=500)
                watch = a_run(config, opening, Path(folder) / control)
                row(f"{watch.after['worker'].processes} workers", control, watch)
    Console(width=120).print(table)


KINDS = ("worker", "driver", "decider", "raylet")


def decisions(count: int) -> None:
    """What a decision costs by the actor, by the number that are asked for in one call."""
    with instant_workers(1):
        import ray

        from atts.cluster.decider import ControlActor
        from atts.cluster.messages import Question

        config = configuration(16, "online", 64, 8, 500)
        control = make_control(config.take_over, None)
        own = time.process_time()
        for n in range(count):
            control.decide("p", 0, float(n % 97), 0.5)
        own = 1e6 * (time.process_time() - own) / count
        print(f"in the process itself: {own:.1f} us of CPU a decision")
        table = Table("in a call", "us a decision", "CPU us here", "CPU us in the actor")
        for batch in (1, 8, 64):
            actor: Any = ray.remote(ControlActor)
            handle = actor.options(num_cpus=0).remote(make_control(config.take_over, None))
            ids = [ChainKey("p", n) for n in range(batch)]

            def ask(handle: Any = handle, ids: list[ChainKey] = ids) -> None:  # noqa: ANN401
                asked = [Question(key, 0, 0.5, float(key.sample % 97)) for key in ids]
                ray.get(handle.rule.remote(asked, 0))

            for _ in range(50):
                ask()
            calls = max(count // batch // 4, 200)
            before, began, mine = used()["decider"], time.monotonic(), time.process_time()
            for _ in range(calls):
                ask()
            mine, took = time.process_time() - mine, time.monotonic() - began
            there = used()["decider"].seconds - before.seconds
            each = 1e6 / (calls * batch)
            table.add_row(str(batch), *(f"{each * s:,.0f}" for s in (took, mine, there)))
            ray.kill(handle)
        Console().print(table)


def chains(count: int, workers: int) -> None:
    """A run of many short chains: time, memory, size, and the time to report."""
    with TemporaryDirectory() as folder:
        directory = Path(folder) / "run"
        config = configuration(count, "online", 512, turns=2, tokens=40)
        with instant_workers(workers) as opening:
            watch = a_run(config, opening, directory)
        print(f"{watch.chains:,} chains, {watch.turns:,} turns: {watch.seconds:,.0f} s")
        for kind, each in watch.after.items():
            micro = watch.microseconds(kind, watch.turns)
            print(
                f"{kind}: {each.megabytes:,.0f} MB, the largest of {each.processes}; "
                f"{micro:,.0f} us of CPU a turn"
            )
        for said in watch.said:
            print("said:", said)
        size = sum(path.stat().st_size for path in directory.iterdir())
        print(f"the directory: {size / 1e6:,.0f} MB")
        began = time.monotonic()
        report = subprocess.Popen(
            [sys.executable, "-m", "atts", "report", str(directory)],
            stdout=subprocess.DEVNULL,
        )
        _, _, resources = os.wait4(report.pid, 0)
        took = time.monotonic() - began
        print(f"atts report: {took:,.0f} s, {resources.ru_maxrss / 1e3:,.0f} MB")


def rates(count: int, workers: int) -> None:
    """The realised take-over rate by turn, by workers and in one process, for a nominal 0.4."""
    table = Table("control", "", "all", *(f"turn {turn}" for turn in range(8)))
    with instant_workers(workers) as opening, TemporaryDirectory() as folder:
        for control in ("adaptive", "online"):
            config = configuration(count, control, 128, turns=8, tokens=60)
            for name, where in (("1 process", None), (f"{workers} workers", opening)):
                directory = Path(folder) / f"{control}-{name}"
                a_run(config, where, directory)
                taken: dict[int, list[bool]] = defaultdict(list)
                for chain in read_run(directory).chains:
                    for turn, decision in chain.decisions:
                        taken[turn].append(decision.take_over)
                everything = [each for every in taken.values() for each in every]
                shares = [
                    sum(each) / len(each) for each in (everything, *(taken[t] for t in range(8)))
                ]
                table.add_row(control, name, *(f"{share:.3f}" for share in shares))
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("turns", "decisions", "chains", "rates"))
    parser.add_argument("--workers", type=int, action="append")
    parser.add_argument("--count", type=int, help="of chains, or of decisions")
    arguments = parser.parse_args()
    workers = arguments.workers or WORKERS
    what: dict[str, Callable[[], None]] = {
        "turns": lambda: turns(workers, arguments.count or 1600),
        "decisions": lambda: decisions(arguments.count or 20_000),
        "chains": lambda: chains(arguments.count or 100_000, max(workers)),
        "rates": lambda: rates(arguments.count or 2000, max(workers)),
    }
    what[arguments.what]()


if __name__ == "__main__":
    main()
