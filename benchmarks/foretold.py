"""How well the model of ``atts advise`` predicts: its probe and whole runs on simulated servers.

    python benchmarks/foretold.py TRACES [--pairs NAME ...] [--in-flight 4 16 64 256]

The servers that are probed are those of the run, in virtual time, so that what is off is the model
alone: lengths, take-overs and lines are known. Real servers are ``benchmarks/real/advise.py``.
"""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from atts.advice.model import Circle, Limits, Work, course_of, pace
from atts.advice.prices import Prices
from atts.advice.probe import LEVELS, Played, Texts, probe
from atts.analysis.tokens import count_tokens
from atts.api.jobs import OF_A_TRACE
from atts.config import Config, parse_config
from atts.methods.chain import Model, Models
from atts.simulation.deployment import Hardware, ModelHardware, SimulatedMethod, make_servers
from atts.simulation.engine import (
    Script,
    ScriptTokenizer,
    ScriptTurn,
    SimulatedClient,
    SimulatedEngine,
    segment_id,
)
from atts.simulation.simulate import check, run_virtually, simulate
from atts.simulation.workload import Workload, load_workload
from atts.types import Author, Chain

PAIRS: dict[str, tuple[str, str, int, int, bool]] = {
    # draft, target, GPUs of each, and whether they are the same ones
    "8B + 32B, one GPU each": ("DeepSeek-R1-Distill-Llama-8B", "QwQ-32B", 1, 1, False),
    "1.7B + 30B-A3B, one GPU for both": ("Qwen3-1.7B", "Qwen3-30B-A3B", 1, 1, True),
    "0.6B + 1.5B, one GPU for both": ("Qwen3-0.6B", "DeepSeek-R1-Distill-Qwen-1.5B", 1, 1, True),
    "1.7B + 32B, one GPU each": ("Qwen3-1.7B", "Qwen3-32B", 1, 1, False),
}
METHODS = ("target-only", "atts:take_over.rate=0.1", "atts:take_over.rate=0.4")
CHAINS = 256
SEGMENTS = (128, 400)


class Row(NamedTuple):
    in_flight: int
    method: str
    simulated: float
    """Seconds to the end of the last chain, as the next."""
    predicted: float
    error: float
    limited_by: str


class Endless(Mapping[int, Script]):
    """A script of one long turn for every number: chains of a probe are cut from it."""

    def __getitem__(self, number: int) -> Script:
        turn = ScriptTurn(10_000, 10_000, 0.1)
        return Script(number, number, 2, (turn, turn), None)

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        return 0


class Numbered(Texts):
    """Beginnings that name a script."""

    def __init__(self, author: Author, length: int, ahead: int) -> None:
        super().__init__([segment_id(0, author)], length, ahead)

    def _next(self) -> Played:
        self._made += 1
        segment = self._ids[0]
        return Played([self._made, 0, *[segment] * (self._length - 2)], [segment] * self._ahead)


def prices_of(hardware: Hardware, config: Config, levels: tuple[int, ...], length: int) -> Prices:
    """What a probe of simulated servers finds."""

    async def probed() -> Prices:
        client = SimulatedClient(hardware.client_seconds)
        models: Models = {}
        endless = Endless()
        for author, servers in make_servers(config, ("draft", "target"), hardware).items():
            engine = SimulatedEngine(author, servers[0], endless, client)
            models[author] = Model(engine, ScriptTokenizer(endless[1]))

        def texts(author: Author, ahead: int) -> Texts:
            return Numbered(author, length, ahead)

        return await probe(models, texts, SEGMENTS, levels, 1e9, remote=False)

    found = run_virtually(probed())
    return found.model_copy(update={"client_seconds": hardware.client_seconds})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("traces", type=Path)
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=[*PAIRS])
    parser.add_argument("--in-flight", type=int, nargs="+", default=[4, 16, 64, 256])
    options = parser.parse_args()
    workload = load_workload(options.traces)
    print("| pair | in flight | way | simulated, s | predicted, s | error | limited by |")
    print("|---|---|---|---|---|---|---|")
    for name in options.pairs:
        for row in rows(name, workload, options.in_flight):
            print(
                f"| {name} | {row.in_flight} | {row.method} | {row.simulated:.1f} | "
                f"{row.predicted:.1f} | {100 * row.error:+.0f} % | {row.limited_by} |",
                flush=True,
            )


def on_servers(name: str) -> tuple[Config, Hardware]:
    """A pair, and what serves it."""
    draft, target, ours, theirs, shared = PAIRS[name]
    hardware = Hardware(
        gpu="h200",
        draft=ModelHardware(gpus=ours),
        target=ModelHardware(gpus=theirs),
        shared=shared,
    )
    config = parse_config(
        {"samples": 4, "draft": {"model": draft}, "target": {"model": target}}, name, OF_A_TRACE
    )
    return config, hardware


def rows(name: str, workload: Workload, levels: list[int]) -> Iterator[Row]:
    """A pair's methods with several numbers in flight."""
    config, hardware = on_servers(name)
    for method in METHODS:
        contender = SimulatedMethod.parse(method)
        for n in levels:
            each = contender.config(config, n)
            chains: list[Chain] = []
            outcome = simulate(
                contender,
                config,
                workload,
                hardware,
                n,
                max(8, min(CHAINS, 4 * n) // 4),
                1.0,
                chains.append,
            )
            check(outcome)
            kept = [chain.kept("draft") + chain.kept("target") for chain in chains]
            context = 100 + sum(k * k for k in kept) // (2 * sum(kept))
            prices = prices_of(hardware, each, LEVELS, context)
            chains.sort(key=lambda chain: chain.started)
            tokens = count_tokens(each, chains)
            circle = Circle.of(tokens, each.overlaps)
            found = pace(prices, circle, Limits(n, n))
            took = course_of([Work.of(chain) for chain in chains], n, found).seconds
            error = took / outcome.wall_seconds - 1.0
            yield Row(n, method, outcome.wall_seconds, took, error, found(n).limited_by)


if __name__ == "__main__":
    main()
