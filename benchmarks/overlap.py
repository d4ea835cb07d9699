"""Writing ahead while the target scores: wall times with and without, and the same chains.

    python benchmarks/overlap.py [--problems 20] [--rounds 3] [--seeds 6] [--only pair|stand-ins]

First the bundled pair, at the settings of ``atts demo``, with both models in this process. Rounds
alternate between the two ways, so that a machine that slows down slows both; decisions and texts
are compared chain by chain.

Then two stand-ins for servers that take as long as a GPU would, in virtual time: a draft segment
of 500 tokens 2.5 s, the target's 10 s, each up to 30 % more or less, and a score 0.1 or 0.5 s. 256
chains, of which 16, 32 or 64 are in flight, have 16 places at the draft. "Queued" is what writing
ahead would cost if its requests waited for a place like all others, by their length.
"""

import argparse
import asyncio
import hashlib
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple, cast
from unittest import mock

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from atts.cli.demo import demo_configs
from atts.config import FORMER_DEFAULTS, Config, parse_config
from atts.conformal.calibration import Calibration
from atts.conformal.split import SplitControl
from atts.engines import limits
from atts.engines.base import Completion, GenerateRequest, Need, Scored, ScoreRequest
from atts.methods import METHODS
from atts.methods.chain import Model, Models, OpenChain
from atts.methods.decider import ControlDecider
from atts.models.prompts import Tokenizer
from atts.runs import jobs
from atts.runs.pool import Clock, run_chains
from atts.runs.setup import PlannedChain, open_models
from atts.simulation.simulate import run_virtually
from atts.store.run_directory import read_run
from atts.types import Chain, ChainKey, Problem, Timings

WAYS = ("on", "off")
DRAFT_SECONDS, TARGET_SECONDS = 2.5, 10.0
"""To write 500 tokens: about 200 tokens/s of an 8B model, and 50 of a 32B model."""
VARIATION = 0.3
SCORE_SECONDS = (0.1, 0.5)
RATES = (0.7, 0.4, 0.1)
ANSWERS = 1 / 7
"""Share of the segments that hold an answer: chains of seven segments."""
PLACES, IN_FLIGHT = 16, (16, 32, 64)
PROBLEMS, SAMPLES = 32, 8

Way = Literal["off", "on", "queued"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--problems", type=int, default=20)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=6, help="of the stand-ins")
    parser.add_argument("--only", choices=("pair", "stand-ins"))
    arguments = parser.parse_args()
    console = Console(width=100)  # of the wider table
    if arguments.only != "stand-ins":
        sizes = arguments.problems, arguments.samples, arguments.rounds
        with tempfile.TemporaryDirectory() as folder:
            console.print(asyncio.run(bundled_pair(Path(folder), *sizes)))
    if arguments.only != "pair":
        console.print(stand_ins(arguments.seeds))


def with_overlap(config: Config, overlap: str) -> Config:
    limits = config.limits.model_copy(update={"overlap": overlap})
    return config.model_copy(update={"limits": limits})


def what_was_done(chains: Sequence[Chain]) -> dict[ChainKey, tuple[str, list[float]]]:
    """What must not depend on the overlap: of each chain, its text and its p-values."""
    return {
        chain.key: (chain.text, [decision.p_value for _, decision in chain.decisions])
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
    async with open_models(config) as models:
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


class StandIn:
    """An engine that writes and scores by the seed of each request, in a given time."""

    def __init__(self, write_seconds: float, score_seconds: float) -> None:
        self._write = write_seconds
        self._score = score_seconds
        self.written = self.in_vain = 0.0
        """Tokens."""

    async def generate(self, request: GenerateRequest) -> Completion:
        sampling = request.sampling
        numbers = np.random.default_rng(sampling.seed)
        answers = numbers.random() < ANSWERS
        seconds = self._write * numbers.uniform(1 - VARIATION, 1 + VARIATION)
        began = _now()
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.in_vain += sampling.max_tokens * (_now() - began) / seconds
            raise
        self.written += sampling.max_tokens
        return Completion((1, 2) if answers else (0, 0), "length", len(request.token_ids), NOW)

    async def score(self, request: ScoreRequest) -> Scored:
        token_ids, start = request.token_ids, request.start
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

    def is_in_thought(self, _prompt: list[int]) -> bool:
        return False


class Virtual(NamedTuple):
    """What one run in virtual time took."""

    seconds: float
    written: float
    in_vain: float
    done: Mapping[ChainKey, object]


def virtual_run(way: Way, rate: float, score_seconds: float, chains: int, seed: int) -> Virtual:
    """One run of all chains, in a way, with so many in flight."""
    run = partial(_virtual_run, rate=rate, score_seconds=score_seconds, chains=chains, seed=seed)
    if way != "queued":
        return run_virtually(run(way))
    with mock.patch.object(Need, "put_off", new=at_once):
        return run_virtually(run("on"))


async def at_once(_need: Need) -> None:
    """As if every request were needed."""


async def _virtual_run(
    overlap: str, rate: float, score_seconds: float, chains: int, seed: int
) -> Virtual:
    config = parse_config(
        {"seed": seed, "limits": {"overlap": overlap}}, "the benchmark", FORMER_DEFAULTS
    )
    draft = StandIn(DRAFT_SECONDS, 0.0)
    target = StandIn(TARGET_SECONDS, score_seconds)
    words = cast("Tokenizer", Words())
    models: Models = {
        "draft": Model(limits.LimitedEngine(draft, PLACES, 1, 0.0), words),
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
    problems = [Problem(id=str(number), question="?", answer="1") for number in range(PROBLEMS)]
    waiting = [
        [
            PlannedChain(
                ChainKey(problem.id, s),
                partial(OpenChain, problem, s, models, config, ControlDecider(control, problem.id)),
            )
        ]
        for problem in problems
        for s in range(SAMPLES)
    ]
    done: list[Chain] = []
    await run_chains(waiting, METHODS["atts"], chains, Clock(), done.append)
    if failed := [chain.error for chain in done if not chain.is_finished]:
        raise SystemExit(f"{len(failed)} chains failed: {failed[0]}")
    return Virtual(_now(), draft.written, draft.in_vain, what_was_done(done))


def stand_ins(seeds: int) -> Table:
    """All ways on stand-ins for servers, by how long a score takes and how full the draft is."""
    table = Table(
        title=f"stand-ins for two servers, virtual time, {PLACES} places at the draft",
        caption=f"Mean of {seeds} seeds, +- standard error of the ratio within a seed. Decisions "
        "and texts are the same in all runs of a seed.",
        box=box.SIMPLE_HEAD,
    )
    columns = "in flight", "rate", "score, s", "off, s", "on / off", "queued / off", "in vain, %"
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for chains, rate, score_seconds in product(IN_FLIGHT, RATES, SCORE_SECONDS):
        runs: dict[Way, list[Virtual]] = {"off": [], "on": [], "queued": []}
        for seed in range(seeds):
            for way, some in runs.items():
                some.append(virtual_run(way, rate, score_seconds, chains, seed))
                if some[-1].done != runs["off"][-1].done:
                    raise AssertionError("a chain has another text or another p-value")
        row = [f"{chains}", f"{rate}", f"{score_seconds}"]
        row.append(f"{statistics.mean(run.seconds for run in runs['off']):,.0f}")
        for way in ("on", "queued"):
            ratios = [
                run.seconds / off.seconds for run, off in zip(runs[way], runs["off"], strict=True)
            ]
            row.append(
                f"{statistics.mean(ratios):.3f} +- {statistics.stdev(ratios) / seeds**0.5:.3f}"
            )
        in_vain = statistics.mean(run.in_vain / (run.in_vain + run.written) for run in runs["on"])
        table.add_row(*row, f"{100 * in_vain:.1f}")
    return table


if __name__ == "__main__":
    main()
