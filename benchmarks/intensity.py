"""The asynchronous arithmetic intensity r against the number of chains per problem.

Runs ``atts`` and ``sync-ranking`` on the bundled models, which stay loaded, with 2 to 32 chains per
problem, and profiles each run. By default the chains in flight stay as many (with fewer chains per
problem there are more problems), so that what changes is the barrier alone and not how full the
engines are; with ``--problems`` the problems stay as many instead. ``atts`` decides by online
control, which needs no calibration. Each round has other problems and another seed; seconds are
sums over the rounds, and r is that of the sums, with its range over the rounds.

    python benchmarks/intensity.py [--in-flight 64 | --problems 4] [--samples 2 --samples 4]
                                   [--rounds 3] [--out DIR] [--json]
    python benchmarks/intensity.py --simulated TRACES [--in-flight 256]

With ``--simulated`` the same code runs in virtual time on simulated servers, of the sizes of the
paper's pair on five H200 (four for the target), and follows recorded chains; as many chains in all
for each row. Past the recorded chains of a problem (16 in the reference's traces) they are
followed again.

The runs stay in DIR if one is given, e.g. for ``atts profile DIR/*``; those that are there already
are not run again.
"""

import argparse
import asyncio
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from atts.analysis.profile import Intensity, RunProfile, profile
from atts.analysis.spans import Phase
from atts.config import FORMER_DEFAULTS, Config, MethodName, parse_config
from atts.runs import jobs
from atts.runs.setup import open_models
from atts.simulation.deployment import Hardware, ModelHardware, SimulatedMethod
from atts.simulation.simulate import simulate
from atts.simulation.workload import load_workload
from atts.store.run_directory import RecordedRun, read_run
from atts.types import Chain

METHODS: tuple[MethodName, ...] = ("atts", "sync-ranking")
SPLITS = ("test", "calibration", "train")
"""Of the generated problems; a round takes one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--in-flight", type=int, default=64, help="chains of each run")
    parser.add_argument("--problems", type=int, help="problems of each run, instead")
    parser.add_argument("--samples", type=int, action="append", help="chains per problem")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--simulated", type=Path, metavar="TRACES", help="recorded chains")
    parser.add_argument("--chains", type=int, default=1600, help="simulated, in all")
    parser.add_argument("--out", type=Path, help="where to leave the runs")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()

    samples = arguments.samples or [2, 4, 8, 16, 32]
    if arguments.simulated:
        sizes = {each: arguments.chains // each for each in samples}
        simulated = simulate_all(sizes, arguments.simulated, arguments.in_flight)
        print(json.dumps(simulated)) if arguments.json else show(simulated)
        return
    sizes = {each: arguments.problems or max(1, arguments.in_flight // each) for each in samples}
    with tempfile.TemporaryDirectory() as name:
        figures = asyncio.run(measure(sizes, arguments.rounds, arguments.out or Path(name)))
    if arguments.json:
        print(json.dumps(figures))
    else:
        show(figures)


def make_config(method: str, samples: int, problems: int, round_number: int) -> Config:
    tree = {
        "method": method,
        "samples": samples,
        "seed": round_number,
        "problems": {"count": problems, "split": SPLITS[round_number % len(SPLITS)]},
        "turns": {"max_turns": 15, "draft_tokens": 32, "target_tokens": 24},
        "take_over": {"mode": "replace", "control": "online"},
        "limits": {"chains": 1000, "draft_requests": 1000, "target_requests": 1000},
    }
    return parse_config(tree, "the benchmark", FORMER_DEFAULTS)


async def measure(sizes: dict[int, int], rounds: int, folder: Path) -> list[dict[str, Any]]:
    """The figures by method and chains; ``sizes`` gives the problems for a number of chains."""
    profiles: dict[tuple[int, str], list[RunProfile]] = defaultdict(list)
    first = make_config("atts", 2, 2, 0)
    async with open_models(first, ("draft", "target")) as models:
        with tempfile.TemporaryDirectory() as name:
            await jobs.run(first, models, Path(name))  # warms up
        for number in range(rounds):
            for samples, problems in sizes.items():
                for method in METHODS:  # side by side, so that a busy machine meets both
                    directory = folder / f"{method}-{samples}-round{number}"
                    config = make_config(method, samples, problems, number)
                    await jobs.run(config, models, directory)
                    found = profile(read_run(directory))
                    profiles[samples, method].append(found)
                    print(f"{directory.name}: r = {found.intensity.r}", flush=True)
    return [row(found) for found in profiles.values()]


def simulate_all(sizes: dict[int, int], traces: Path, in_flight: int) -> list[dict[str, Any]]:
    """The figures by method and chains, in virtual time."""
    workload = load_workload(traces)
    hardware = Hardware(target=ModelHardware(gpus=4, tensor_parallel=4))
    figures = []
    for samples, problems in sizes.items():
        for method in METHODS:
            config = parse_config(
                {
                    "samples": samples,
                    "draft": {"model": "DeepSeek-R1-Distill-Llama-8B"},
                    "target": {"model": "QwQ-32B"},
                    "take_over": {"control": "online"},
                },
                "the benchmark",
                FORMER_DEFAULTS,
            )
            contender = SimulatedMethod(method, method, {})
            chains: list[Chain] = []
            simulate(contender, config, workload, hardware, in_flight, problems, 1.0, chains.append)
            solved = tuple(workload.problem(number) for number in range(problems))
            run = RecordedRun(contender.config(config, in_flight), solved, tuple(chains))
            figures.append(row([profile(run)]))
    return figures


def row(rounds: list[RunProfile]) -> dict[str, Any]:
    """Sums over the rounds of one method with one number of chains."""
    sums: dict[Phase, float] = defaultdict(float)
    for found in rounds:
        for spent in found.phases:
            sums[spent.phase] += spent.seconds
    intensity = Intensity.of(sums)
    return {
        "method": rounds[0].method,
        "problems": rounds[0].problems,
        "samples": rounds[0].samples,
        "compute": intensity.compute,
        "held back": intensity.memory,
        "waiting": intensity.synchronisation,
        "overhead": sums["overhead"],
        "take-over": sum(found.budget.realised.estimate for found in rounds if found.budget)
        / len(rounds),
        "r": intensity.r,
        "r by round": [found.intensity.r for found in rounds],
        "r_sync": intensity.r_sync,
        "wall": sum(found.wall_seconds for found in rounds),
    }


def show(figures: list[dict[str, Any]]) -> None:
    table = Table("chains", "problems", "method", "compute, s", "held back, s")
    for column in (
        "waiting, s",
        "overhead, s",
        "taken over",
        "r",
        "by round",
        "T_c / T_s",
        "wall, s",
    ):
        table.add_column(column, justify="right")
    for each in figures:
        by_round = [ratio for ratio in each["r by round"] if ratio is not None]
        table.add_row(
            str(each["samples"]),
            str(each["problems"]),
            each["method"],
            *(f"{each[key]:,.1f}" for key in ("compute", "held back", "waiting", "overhead")),
            f"{each['take-over']:.2f}",
            "-" if each["r"] is None else f"{each['r']:,.2f}",
            f"{min(by_round):,.2f}-{max(by_round):,.2f}" if by_round else "-",
            "-" if each["r_sync"] is None else f"{each['r_sync']:,.2f}",
            f"{each['wall']:,.1f}",
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
