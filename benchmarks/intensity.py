"""The asynchronous arithmetic intensity r against the number of chains per problem.

Runs ``atts`` and ``sync-ranking`` on the bundled models, which stay loaded, with 2 to 32 chains per
problem, and profiles each run. By default the chains in flight stay as many (with fewer chains per
problem there are more problems), so that what changes is the barrier alone and not how full the
engines are; with ``--problems`` the problems stay as many instead. ``atts`` decides by online
control, which needs no calibration.

    python benchmarks/intensity.py [--in-flight 64 | --problems 4] [--samples 2 --samples 4]
                                   [--out DIR] [--json]

The runs stay in DIR if one is given, e.g. for ``atts profile DIR/*``.
"""

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from atts.config import Config, parse_config
from atts.profiles.profile import Profile, profile
from atts.runs import jobs
from atts.runs.store import read_run

METHODS = ("atts", "sync-ranking")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--in-flight", type=int, default=64, help="chains of each run")
    parser.add_argument("--problems", type=int, help="problems of each run, instead")
    parser.add_argument("--samples", type=int, action="append", help="chains per problem")
    parser.add_argument("--out", type=Path, help="where to leave the runs")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()

    samples = arguments.samples or [2, 4, 8, 16, 32]
    sizes = {each: arguments.problems or max(1, arguments.in_flight // each) for each in samples}
    with tempfile.TemporaryDirectory() as name:
        figures = asyncio.run(measure(sizes, arguments.out or Path(name)))
    if arguments.json:
        print(json.dumps(figures))
    else:
        show(figures)


def make_config(method: str, samples: int, problems: int) -> Config:
    tree = {
        "method": method,
        "samples": samples,
        "problems": {"count": problems},
        "turns": {"max_turns": 15, "draft_tokens": 32, "target_tokens": 24},
        "take_over": {"mode": "replace", "control": "online"},
        "limits": {"chains": 1000, "draft_requests": 1000, "target_requests": 1000},
    }
    return parse_config(tree, "the benchmark")


async def measure(sizes: dict[int, int], folder: Path) -> list[dict[str, Any]]:
    """The figures of each run; ``sizes`` gives the problems for a number of chains."""
    figures = []
    first = make_config("atts", 2, 2)
    async with jobs.open_models(first, ("draft", "target")) as models:
        with tempfile.TemporaryDirectory() as name:
            await jobs.run(first, models, Path(name))  # warms up
        for samples, problems in sizes.items():
            for method in METHODS:  # side by side, so that a busy machine meets both
                directory = folder / f"{method}-{samples}"
                await jobs.run(make_config(method, samples, problems), models, directory)
                found = profile(read_run(directory))
                figures.append(row(found))
                print(f"{method} with {samples} chains: r = {found.intensity.r}", flush=True)
    return figures


def row(found: Profile) -> dict[str, Any]:
    return {
        "method": found.method,
        "problems": found.problems,
        "samples": found.samples,
        "compute": found.intensity.compute,
        "held back": found.intensity.memory,
        "waiting": found.intensity.synchronisation,
        "overhead": sum(time.seconds for time in found.phases if time.kind == "overhead"),
        "r": found.intensity.r,
        "r_sync": found.intensity.r_sync,
        "wall": found.wall_seconds,
    }


def show(figures: list[dict[str, Any]]) -> None:
    table = Table("chains per problem", "problems", "method", "compute, s", "held back, s")
    for column in ("waiting, s", "overhead, s", "r", "T_c / T_s", "wall, s"):
        table.add_column(column, justify="right")
    for each in figures:
        table.add_row(
            str(each["samples"]),
            str(each["problems"]),
            each["method"],
            *(f"{each[key]:,.1f}" for key in ("compute", "held back", "waiting", "overhead")),
            *("-" if each[key] is None else f"{each[key]:,.2f}" for key in ("r", "r_sync")),
            f"{each['wall']:,.1f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
