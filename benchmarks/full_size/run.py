"""Speed at full size: a pair's servers on one GPU or several, recorded chains, the target alone.

    python benchmarks/full_size/run.py TRACES --pair 8B+32B --gpus 2 --out rows.jsonl
    python benchmarks/full_size/run.py TRACES --predict rows.jsonl

The models have true architectures and random weights (``models.py``), the chains are recorded ones
(TRACES: a trace or a run directory): turns, lengths of segments and scores are theirs, the
decisions the control's own. The target alone writes as many tokens as both models wrote, and has
all of the GPUs. Every row is written to OUT when it is there; one that OUT has is not run again.
Rows are run in the order of their importance, the target's first, until ``--seconds`` are over:
those that are missing then are made by the same command. ``--dry-run`` tries all of it with
stand-ins for the servers, without a GPU.

``--costs`` measures what a token costs that the draft writes (d), and that the target scores (s),
in tokens that the target writes. ``--predict FILE`` simulates the rows and prints both.
"""

import argparse
import asyncio
import json
import subprocess
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from costs import Costs
from measuring import Followed, warm
from models import PAIRS
from servers import Fleet, Placement, StartError
from table import show

from atts.errors import AttsError
from atts.simulation.workload import load_workload

SCORE = {"continue": "", "rewind": ",take_over.score.kind=largest-surprise"}
MARGIN_SECONDS = 15.0
"""A row is not begun when less is left."""


def main() -> None:
    options = parsed()
    if options.predict:
        show(rows_in(options.predict), options.traces)
        return
    began = time.monotonic()
    if options.folder:
        work(options, options.folder, began)
    else:
        with TemporaryDirectory() as folder:
            work(options, Path(folder), began)
    show(rows_in(options.out))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("traces", type=Path)
    parser.add_argument("--pair", choices=PAIRS, default="8B+32B")
    parser.add_argument("--gpus", type=int, default=1, help="that are used, from the first")
    parser.add_argument(
        "--draft-gpus",
        type=int,
        help="of them; the others are the target's; 0: it is beside the target on all of them "
        "(default: 1, or 0 of one)",
    )
    parser.add_argument("--draft-parallel", type=int, default=1, help="GPUs of one copy")
    parser.add_argument("--target-parallel", type=int, help="(default: what the pair needs)")
    parser.add_argument(
        "--alone-parallel",
        type=numbers,
        help="GPUs of a copy of the target alone; several are tried (default: all, and what the "
        "pair needs)",
    )
    parser.add_argument("--cache", type=words, default=["bf16"], help="of bf16,fp8")
    parser.add_argument("--weights", choices=["bf16", "fp8"], default="bf16")
    parser.add_argument("--in-flight", type=numbers, default=[64, 256, 16])
    parser.add_argument("--rates", type=words, default=["0.4", "0.1"])
    parser.add_argument("--modes", type=words, default=["continue"], help="of continue,rewind")
    parser.add_argument("--also", nargs="*", default=[], help="methods, as of atts simulate")
    parser.add_argument("--costs", type=numbers, default=[], help="in flight: measure d and s")
    parser.add_argument("--segment", type=int, default=48, help="tokens that --costs scores")
    parser.add_argument("--waves", type=int, default=4, help="of chains, each as many as in flight")
    parser.add_argument("--longest", type=int, default=4000, help="tokens of a problem's chain")
    parser.add_argument(
        "--scale", type=float, default=0.25, help="of all lengths but prompts, so that rows end"
    )
    parser.add_argument("--seconds", type=float, default=3600.0, help="after which nothing begins")
    parser.add_argument("--python", default="python3", help="that has SGLang")
    parser.add_argument("--pythonpath", help="where it finds it")
    parser.add_argument("--folder", type=Path, help="for models and logs; default: a temporary one")
    parser.add_argument("--out", type=Path, default=Path("full_size.jsonl"))
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--predict", type=Path, metavar="FILE")
    options = parser.parse_args()
    needed = PAIRS[options.pair].target_parallel
    if options.draft_gpus is None:
        options.draft_gpus = int(options.gpus > needed)
    options.target_parallel = options.target_parallel or needed
    options.alone_parallel = options.alone_parallel or sorted({options.gpus, needed}, reverse=True)
    return options


def words(text: str) -> list[str]:
    return text.split(",")


def numbers(text: str) -> list[int]:
    return [int(word) for word in words(text)]


def rows_in(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


Measurement = Followed | Costs


def planned(options: argparse.Namespace) -> Iterator[tuple[Placement, list[Measurement]]]:
    """All rows, by what servers they need, those of one placement together."""
    place = Placement(
        pair=options.pair,
        gpus=options.gpus,
        draft_gpus=options.draft_gpus,
        draft_parallel=options.draft_parallel,
        target_parallel=options.target_parallel,
        has_draft=True,
        cache="bf16",
        weights=options.weights,
    )
    shape = (options.waves, options.longest, options.scale)
    methods = [
        f"atts:take_over.mode={mode},take_over.rate={rate}{SCORE[mode]}"
        for mode, rate in product(options.modes, options.rates)
    ]
    methods += options.also
    for cache in options.cache:
        for parallel in options.alone_parallel:
            alone = place._replace(has_draft=False, target_parallel=parallel, cache=cache)
            yield alone, [Followed("target-only", n, *shape) for n in options.in_flight]
        yield (
            place._replace(cache=cache),
            [
                *(Followed(m, n, *shape) for m, n in product(methods, options.in_flight)),
                *(Costs(n, options.segment) for n in options.costs),
            ],
        )


def work(options: argparse.Namespace, folder: Path, began: float) -> None:
    """Make the rows that are missing, until the time is over."""
    workload = load_workload(options.traces, models_cuts=True)
    done = [row["row"] for row in rows_in(options.out) if not row.get("stopped")]
    most = max([*options.in_flight, *options.costs])
    fleet = Fleet(folder, options.python, options.pythonpath, most, options.dry_run)
    device = "stand-in" if options.dry_run else device_name()

    def left() -> float:
        return float(options.seconds - (time.monotonic() - began))

    try:
        for placement, measurements in planned(options):
            missing = [each for each in measurements if key(placement, each) not in done]
            if not missing or left() < MARGIN_SECONDS:
                continue
            try:
                ports = fleet.change_to(placement.servers())
                asyncio.run(warm(ports, most))
            except (StartError, AttsError) as error:
                print(f"{placement}: {error}", flush=True)
                continue
            for each in missing:
                if left() < MARGIN_SECONDS:
                    print("the time is over; the same command makes the rows that are missing")
                    break
                try:
                    row = asyncio.run(each.measure(placement, ports, workload, left()))
                except AttsError as error:
                    row = {"stopped": True, "first_error": str(error)}
                row = {"row": key(placement, each), "device": device, **row}
                with options.out.open("a") as out:
                    out.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)
    finally:
        fleet.end()


def key(placement: Placement, measurement: Measurement) -> dict[str, Any]:
    """What tells a row from all others."""
    return {**placement._asdict(), **measurement._asdict()}


def device_name() -> str:
    found = subprocess.run(
        ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout.splitlines()[0]


if __name__ == "__main__":
    main()
