"""Writing ahead while the target scores: wall times with and without, and the same chains.

    python benchmarks/overlap.py [--problems 20] [--rounds 3]

First the bundled pair, at the settings of ``atts demo``, with both models in this process. Rounds
alternate between the two ways, so that a machine that slows down slows both; decisions and texts
are compared chain by chain.

Then two stand-ins for servers that take as long as a GPU would, in virtual time: a draft segment
of 500 tokens 2.5 s, the target's 10 s, a score 0.1 to 0.5 s. Either there is a place for every
request, so that a chain waits for nothing but itself, or the draft's server is full: 64 chains on
16 places.
"""

import argparse
import asyncio
import hashlib
import selectors
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from atts.cli.demo import demo_configs
from atts.config import Config, parse_config
from atts.conformal.calibration import Calibration
from atts.conformal.split import SplitControl
from atts.engines.base import Completion, Sampling, Scored
from atts.methods import METHODS
from atts.methods.chain import Model, Models, OpenChain
from atts.prompts import Tokenizer
from atts.runs import jobs
from atts.runs.limits import LimitedEngine
from atts.runs.runner import Clock, run_chains
from atts.runs.store import read_run
from atts.types import Chain, ChainKey, Problem, Timings

WAYS = ("on", "off")
DRAFT_SECONDS, TARGET_SECONDS = 2.5, 10.0
"""To write 500 tokens: about 200 tokens/s of an 8B model, and 50 of a 32B model."""
SCORE_SECONDS = (0.1, 0.3, 0.5)
RATES = (0.4, 0.1)
ANSWERS = 1 / 7
"""Share of the segments that hold an answer: chains of seven segments."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--problems", type=int, default=20)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        console.print(
            asyncio.run(
                bundled_pair(Path(folder), arguments.problems, arguments.samples, arguments.rounds)
            )
        )
    console.print(stand_ins())


def with_overlap(config: Config, overlap: str) -> Config:
    limits = config.limits.model_copy(update={"overlap": overlap})
    return config.model_copy(update={"limits": limits})


def what_was_done(chains: Sequence[Chain]) -> dict[ChainKey, tuple[str, list[float]]]:
    """What must not depend on the overlap: of each chain, its text and its p-values."""
    return {
        chain.key: (chain.text, [t.decision.p_value for t in chain.turns if t.decision])
        for chain in chains
    }


async def bundled_pair(folder: Path, problems: int, samples: int, rounds: int) -> Table:
    """Run the demo's marginal configuration in both ways, round after round."""
    config = demo_configs(problems, samples, folder)["atts-marginal"]
    path = cast("Path", config.take_over.calibration)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    discarded = dict.fromkeys(WAYS, 0)
    written = dict.fromkeys(WAYS, 0)
    first: Mapping[ChainKey, object] | None = None
    async with jobs.open_models(config) as models:
        await jobs.calibrate(config, models, path.parent)
        for number in range(rounds):
            for way in WAYS if number % 2 else WAYS[::-1]:
                directory = folder / f"{way}-{number}"
                began = time.perf_counter()
                summary = await jobs.run(with_overlap(config, way), models, directory)
                seconds[way].append(time.perf_counter() - began)
                discarded[way], written[way] = (
                    summary.tokens.draft_discarded,
                    summary.tokens.draft_written,
                )
                done = what_was_done(read_run(directory).chains)
                first = first or done
                if done != first:
                    raise AssertionError("a chain has another text or another p-value")
    table = Table(
        title=f"bundled pair in this process, {problems} problems x {samples} chains",
        caption=f"Decisions and texts are the same in all {2 * rounds} runs.",
        box=box.SIMPLE_HEAD,
    )
    for column in ("overlap", "median s", "x that of off", "draft tokens", "in vain, about"):
        table.add_column(column, justify="right")
    reference = statistics.median(seconds["off"])
    for way in WAYS:
        median = statistics.median(seconds[way])
        table.add_row(
            way,
            f"{median:.1f}",
            f"{median / reference:.2f}",
            f"{written[way]:,}",
            f"{discarded[way]:,}",
        )
    return table


class VirtualTime(asyncio.SelectorEventLoop):
    """An event loop on which nothing takes time but sleeping, and that takes none."""

    def __init__(self) -> None:
        self.now = 0.0
        loop = self

        class Skipping(selectors.DefaultSelector):
            def select(self, timeout: float | None = None) -> Any:  # noqa: ANN401
                loop.now += timeout or 0.0
                return super().select(0)

        super().__init__(Skipping())

    def time(self) -> float:
        return self.now


class StandIn:
    """An engine that writes and scores by the seed of each request, in a given time."""

    def __init__(self, write_seconds: float, score_seconds: float) -> None:
        self._write = write_seconds
        self._score = score_seconds
        self.written = self.in_vain = 0.0
        """Tokens."""

    async def generate(self, token_ids: Sequence[int], sampling: Sampling) -> Completion:
        began = _now()
        try:
            await asyncio.sleep(self._write)
        except asyncio.CancelledError:
            self.in_vain += sampling.max_tokens * (_now() - began) / self._write
            raise
        self.written += sampling.max_tokens
        answers = np.random.default_rng(sampling.seed).random() < ANSWERS
        return Completion((1, 2) if answers else (0, 0), "length", len(token_ids), NOW)

    async def score(self, token_ids: Sequence[int], start: int) -> Scored:
        await asyncio.sleep(self._score)
        place = hashlib.blake2b(repr(token_ids[0]).encode()).digest()
        numbers = np.random.default_rng([*place, len(token_ids)])
        return Scored(-numbers.random(len(token_ids) - start), start, NOW)

    async def aclose(self) -> None:
        pass


NOW = Timings(queued=0.0, started=0.0, first_token=0.0, done=0.0)


def _now() -> float:
    return asyncio.get_running_loop().time()


class Words(NamedTuple):
    """As much of a tokenizer as a chain needs: a prompt of one token, and texts of two."""

    def prompt(self, problem: Problem, _: object) -> list[int]:
        return [10 + int(problem.id)]

    def encode(self, text: str) -> list[int]:
        return [1, 2] if "boxed" in text else [0, 0]

    def decode_whole_characters(self, ids: list[int]) -> tuple[list[int], str]:
        return ids, "\\boxed{1}" if ids == [1, 2] else " and"


class Virtual(NamedTuple):
    """What one run in virtual time took."""

    seconds: float
    written: float
    in_vain: float
    done: Mapping[ChainKey, object]


async def virtual_run(
    overlap: str, rate: float, score_seconds: float, chains: int, places: int
) -> Virtual:
    config = parse_config({"limits": {"overlap": overlap}}, "the benchmark")
    draft = StandIn(DRAFT_SECONDS, 0.0)
    target = StandIn(TARGET_SECONDS, score_seconds)
    words = cast("Tokenizer", Words())
    models: Models = {
        "draft": Model(LimitedEngine(draft, places, 1, 0.0), words),
        "target": Model(target, words),
    }
    scores = np.random.default_rng(0).random((1000, 2)).mean(axis=1)
    calibration = Calibration(
        version=2,
        fingerprint={},
        coverage="marginal",
        scores={"c": tuple((score,) for score in scores.tolist())},
    )
    control = SplitControl(calibration, rate)
    waiting = [
        [
            partial(
                OpenChain, Problem(id=str(p), question="?", answer="1"), s, models, config, control
            )
        ]
        for p in range(chains)
        for s in range(8)
    ]
    done: list[Chain] = []
    await run_chains(waiting, METHODS["atts"], chains, Clock(), done.append)
    return Virtual(_now(), draft.written, draft.in_vain, what_was_done(done))


def stand_ins() -> Table:
    """Both ways on stand-ins for servers, by how long a score takes and how full the draft is."""
    table = Table(
        title="stand-ins for two servers, virtual time",
        caption="Decisions and texts are the same in each pair of runs.",
        box=box.SIMPLE_HEAD,
    )
    for column in (
        "draft's server",
        "rate",
        "score, s",
        "off, s",
        "on, s",
        "on / off",
        "in vain, %",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for name, chains, places in (("a place for each", 16, 16), ("64 chains on 16", 64, 16)):
        for rate in RATES:
            for score_seconds in SCORE_SECONDS:
                runs = {}
                for way in WAYS:
                    with asyncio.Runner(loop_factory=VirtualTime) as runner:
                        run = virtual_run(way, rate, score_seconds, chains, places)
                        runs[way] = runner.run(run)
                on, off = runs["on"], runs["off"]
                if on.done != off.done:
                    raise AssertionError("a chain has another text or another p-value")
                table.add_row(
                    name,
                    str(rate),
                    str(score_seconds),
                    f"{off.seconds:,.0f}",
                    f"{on.seconds:,.0f}",
                    f"{on.seconds / off.seconds:.3f}",
                    f"{100 * on.in_vain / (on.in_vain + on.written):.1f}",
                )
    return table


if __name__ == "__main__":
    main()
