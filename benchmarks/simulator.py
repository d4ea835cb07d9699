"""The simulator itself: its speed, what it says of measured servers, and the speedup curve.

    python benchmarks/simulator.py speed TRACES [--chains 100000]
    python benchmarks/simulator.py servers
    python benchmarks/simulator.py curve TRACES [--problems 64]
    python benchmarks/simulator.py claim TRACES [--problems 64]

``speed``: seconds and memory of a simulation of so many chains. ``servers``: the simulated server
beside two that were measured, with the default efficiencies and with some fitted to half of the
figures. ``curve``: wall times and speedups by chains in flight. ``claim``: speedups over the target
alone, by how that is served: from a full pool to one request at a time. TRACES is a trace of the
reference implementation (.jsonl.gz) or a run directory.
"""

import argparse
import asyncio
import json
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from atts.config import FORMER_DEFAULTS, Config, parse_config
from atts.simulation.deployment import Hardware, ModelHardware, SimulatedMethod
from atts.simulation.fit import least_squares
from atts.simulation.hardware import GPUS, Costs, Efficiency, SharedGpus
from atts.simulation.server import Scheduling, Server, SimulatedRequest
from atts.simulation.shapes import SHAPES, Shape
from atts.simulation.simulate import check, run_virtually, simulate
from atts.simulation.workload import load_workload


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    for name, work in (
        ("speed", speed),
        ("servers", servers),
        ("curve", curve),
        ("claim", claim),
    ):
        command = commands.add_parser(name)
        command.set_defaults(work=work)
        if name != "servers":
            command.add_argument("traces", type=Path)
        command.add_argument("--chains", type=int, default=100_000)
        command.add_argument("--problems", type=int, default=64)
        command.add_argument("--methods", nargs="+", default=["target-only", "atts"])
        command.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    figures = arguments.work(arguments)
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1))


def pair(draft: str = "DeepSeek-R1-Distill-Llama-8B", target: str = "QwQ-32B") -> Config:
    return parse_config(
        {"draft": {"model": draft}, "target": {"model": target}}, "a benchmark", FORMER_DEFAULTS
    )


# speed


def speed(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Chains of the trace again and again, with 1,024 in flight on five GPUs."""
    workload = load_workload(arguments.traces)
    hardware = Hardware(target=ModelHardware(gpus=4, tensor_parallel=4))
    problems = -(-arguments.chains // pair().samples)
    figures = []
    for name in arguments.methods:
        wall, processor = time.perf_counter(), time.process_time()
        outcome = simulate(SimulatedMethod.parse(name), pair(), workload, hardware, 1_024, problems)
        check(outcome)
        figures.append(
            {
                "method": name,
                "chains": outcome.chains,
                "virtual_hours": outcome.wall_seconds / 3600,
                "seconds": time.perf_counter() - wall,
                "processor_seconds": time.process_time() - processor,
                "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
        print(figures[-1], flush=True)
    return figures


# servers


class Load(NamedTuple):
    """Requests that are sent at once, and how long the last of them took."""

    model: str
    requests: int
    cached: int
    new: int
    write: int
    """0: score the new tokens."""
    measured_seconds: float


# SGLang 0.5.12, Triton attention, both servers on one NVIDIA H200, one of them at work; random
# weights of the two architectures with 152,064 ids each. Decoding: 200 tokens in, 256 out.
_DECODED = {
    "draft": {1: 202, 16: 2_189, 64: 8_186, 256: 14_737},  # requests: tokens/s
    "target": {1: 55, 16: 788, 64: 2_431, 256: 4_227},
}
_SCORED = {1: (0.089, 0.221), 8: (0.499, 1.692), 32: (1.848, 6.800)}  # prefix cached, or not
LOADS = [
    *(
        Load(model, requests, 0, 200, 256, requests * 256 / rate)
        for model, rates in _DECODED.items()
        for requests, rate in rates.items()
    ),
    *(Load("target", requests, 1_499, 501, 0, warm) for requests, (warm, _) in _SCORED.items()),
    *(Load("target", requests, 0, 2_000, 0, cold) for requests, (_, cold) in _SCORED.items()),
]
MODELS: dict[str, tuple[Shape, int]] = {
    "draft": (SHAPES["deepseek-r1-distill-llama-8b"]._replace(vocabulary=152_064), 161_836),
    "target": (SHAPES["qwq-32b"], 120_123),
}


def servers(_: argparse.Namespace) -> list[dict[str, Any]]:
    """The same loads on simulated servers."""
    measured = np.array([load.measured_seconds for load in LOADS])
    # Every second load is left out of the fit, of each kind.
    seen = np.arange(len(LOADS)) % 2 == 0

    def simulated(efficiency: Efficiency) -> NDArray[np.float64]:
        return np.array([run_virtually(under(load, efficiency)) for load in LOADS])

    (fitted,) = least_squares(
        lambda each: np.log(simulated(each[0]) / measured)[seen], [Efficiency()]
    )
    by_default, by_fit = simulated(Efficiency()), simulated(fitted)
    table = Table("model", "load", "measured", "default", "error", "fitted", "error", "in the fit")
    for load, usual, found, used in zip(LOADS, by_default, by_fit, seen, strict=True):
        what = f"{load.requests} x " + (f"write {load.write}" if load.write else "score 500")
        if not load.write:
            what += ", prefix cached" if load.cached else ", nothing cached"
        table.add_row(
            load.model,
            what,
            f"{load.measured_seconds:.3f} s",
            *(f"{usual:.3f} s", f"{usual / load.measured_seconds - 1:+.0%}"),
            *(f"{found:.3f} s", f"{found / load.measured_seconds - 1:+.0%}"),
            "yes" if used else "no",
        )
    Console(width=110).print(table)
    print(fitted)
    return [
        {
            **load._asdict(),
            "default_seconds": usual,
            "fitted_seconds": found,
            "in_the_fit": bool(used),
        }
        for load, usual, found, used in zip(LOADS, by_default, by_fit, seen, strict=True)
    ]


async def under(load: Load, efficiency: Efficiency) -> float:
    """Seconds until all requests of a load are done."""
    shape, room = MODELS[load.model]
    costs = Costs.of(shape, GPUS["h200"], 1, efficiency)
    server = Server(costs, Scheduling(cache_tokens=room), SharedGpus())
    loop = asyncio.get_running_loop()
    requests = [
        SimulatedRequest(
            chain=number,
            problem=-1 - number,
            prompt=1,
            ids=range(load.cached + load.new),
            scored_from=None if load.write else 1_500,
            write=load.write,
            max_tokens=max(load.write, 1),
            last_id=-1,
            future=loop.create_future(),
            queued=0.0,
            known_cached=load.cached,
        )
        for number in range(load.requests)
    ]
    for request in requests:
        server.submit(request)
    await asyncio.gather(*(request.future for request in requests))
    return loop.time()


# curve


FIVE = Hardware(target=ModelHardware(gpus=4, tensor_parallel=4))
PAIRS = {
    "8B + 32B": pair(),
    "1.5B + 70B": pair("DeepSeek-R1-Distill-Qwen-1.5B", "DeepSeek-R1-Distill-Llama-70B"),
}
IN_FLIGHT = (16, 64, 256, 1_024, 4_096)
METHODS = ("sync-ranking", "atts", "atts:take_over.rate=0.1")
RATIOS = (1.0, 4.0)
"""Tokens of a chain that the target writes alone, as multiples of the recorded ones."""


def curve(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Wall times by pair, method and chains in flight: one H200 drafts, four hold the target.

    Where more chains should be in flight than the problems have, there are more problems.
    """
    workload = load_workload(arguments.traces)
    figures = []
    for name, config in PAIRS.items():
        rows = []
        for in_flight in IN_FLIGHT:
            problems = max(arguments.problems, in_flight // config.samples)
            for method, ratio in (
                *(("target-only", ratio) for ratio in RATIOS),
                *((method, 1.0) for method in METHODS),
            ):
                contender = SimulatedMethod.parse(method)
                outcome = simulate(contender, config, workload, FIVE, in_flight, problems, ratio)
                check(outcome)
                rows.append({"pair": name, "ratio": ratio, **outcome.model_dump(mode="json")})
                print(name, method, ratio, in_flight, f"{outcome.wall_seconds:.0f} s", flush=True)
        figures += rows
        show(name, rows)
    return figures


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    def wall(name: str, in_flight: int, ratio: float = 1.0) -> float:
        for row in rows:
            if (row["name"], row["chains_in_flight"], row["ratio"]) == (name, in_flight, ratio):
                return float(row["wall_seconds"])
        raise ValueError(name)

    table = Table(title=title)
    for column in (
        *(
            "in flight",
            "chains",
            "method",
            "wall s",
            "x target-only",
            "x target-only, 4 x its tokens",
        ),
        *("x sync-ranking", "tokens/s", "draft busy", "target busy", "target cache", "cached"),
        "barrier s",
    ):
        table.add_column(column, justify="left" if column == "method" else "right")
    for row in rows:
        seconds, in_flight = row["wall_seconds"], row["chains_in_flight"]
        draft, target = row["draft"], row["target"]
        table.add_row(
            f"{in_flight:,}",
            f"{row['chains']:,}",
            row["name"] if row["ratio"] == 1.0 else f"{row['name']}, {row['ratio']:g} x tokens",
            f"{seconds:,.0f}",
            *(f"{wall('target-only', in_flight, ratio) / seconds:.2f}" for ratio in RATIOS),
            f"{wall('sync-ranking', in_flight) / seconds:.2f}",
            f"{row['tokens_per_second']:,.0f}",
            f"{draft['busy']:.0%}" if draft else "-",
            f"{target['busy']:.0%}",
            f"{target['peak_cache']:.0%}",
            f"{target['cached']:.0%}",
            f"{row['waited_seconds']:.0f}",
        )
    Console(width=170).print(table)


# claim

POOL = 256
ALONE = {
    "256 in flight": SimulatedMethod.parse("target-only"),
    "16 in flight, a problem at a time": SimulatedMethod(
        "target-only", "target-only", {"limits.target_requests": "16"}, by_problem=True
    ),
    "4 in flight, a problem at a time": SimulatedMethod(
        "target-only", "target-only", {"limits.target_requests": "4"}, by_problem=True
    ),
    "1 in flight": SimulatedMethod("target-only", "target-only", {"limits.target_requests": "1"}),
}
RATES = (0.4, 0.1, 0.0)


def claim(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Speedups of atts in one pool over the target alone, by how that is served and how long it
    thinks: the conditions under which tens are reached.
    """
    workload = load_workload(arguments.traces)
    figures = []
    for name, config in PAIRS.items():

        def seconds(contender: SimulatedMethod, ratio: float, config: Config = config) -> float:
            outcome = simulate(contender, config, workload, FIVE, POOL, arguments.problems, ratio)
            check(outcome)
            return outcome.wall_seconds

        ours = {
            rate: seconds(SimulatedMethod.parse(f"atts:take_over.rate={rate}"), 1.0)
            for rate in RATES
        }
        table = Table(title=f"{name}: wall seconds of target-only / atts with {POOL} in flight")
        for column in ("target-only", "its tokens", "wall s", *(f"rate {rate}" for rate in RATES)):
            table.add_column(column)
        for served, contender in ALONE.items():
            for ratio in RATIOS:
                theirs = seconds(contender, ratio)
                speedups = {rate: theirs / wall for rate, wall in ours.items()}
                figures.append(
                    {
                        "pair": name,
                        "target_only": served,
                        "ratio": ratio,
                        "wall_seconds": theirs,
                        "speedups": speedups,
                    }
                )
                table.add_row(
                    served,
                    f"x {ratio:g}",
                    f"{theirs:,.0f}",
                    *(f"{speedup:.1f}" for speedup in speedups.values()),
                )
        Console(width=110).print(table)
    return figures


if __name__ == "__main__":
    main()
