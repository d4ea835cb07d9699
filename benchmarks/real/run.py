"""Runs of many settings on a real pair of models, several at a time; the same command goes on.

    python benchmarks/real/run.py RUNS.yaml -c PAIR.yaml --out DIR --lanes 3 --minutes 9

RUNS.yaml names each run and lists its settings, as of ``--set``. Every run is a run directory
DIR/NAME, so what was stopped goes on where it was. A lane is a pair of servers of its own, on ports
that follow those of PAIR.yaml: where the models are small, one pair leaves most of a GPU idle. Runs
of a lane come one after the other, each on emptied caches. Wall times can be compared with one lane
alone.

``--servers`` starts the servers of the lanes first, with the settings of ``--set``, and leaves them
running; ``--down`` ends them. So servers that decode speculatively, in a folder of their own:

    python benchmarks/real/run.py benchmarks/real/speculative.yaml -c PAIR.yaml --out DIR \\
        --set target.server.speculative.method=draft --set target.server.speculative.draft=DRAFT \\
        --set target.server.speculative.max_requests=256 --servers
"""

import argparse
import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import yaml

from atts.config import Config, load_config
from atts.engines.loading import server_urls
from atts.types import Author

AUTHORS: tuple[Author, ...] = ("draft", "target")
PORTS_APART = 10
EMPTY_CACHE = {"sglang": "/flush_cache", "vllm": "/reset_prefix_cache"}
GRACE_SECONDS = 30.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, help="YAML: name -> list of settings")
    parser.add_argument("-c", "--config", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], help="for all runs", dest="settings")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument(
        "--minutes", type=float, help="begin no run after, and stop those under way"
    )
    parser.add_argument("--servers", action="store_true", help="start them first")
    parser.add_argument("--down", action="store_true", help="only end the servers")
    options = parser.parse_args()
    own = [lane_settings(options.config, number) for number in range(options.lanes)]
    lanes = [[*options.settings, *lane] for lane in own]
    folders = [options.out / "servers" / str(number) for number in range(options.lanes)]
    if options.down:
        for folder in folders:
            atts("servers", "down", "--dir", folder)
        return
    ends = time.monotonic() + 60.0 * options.minutes if options.minutes else None
    if options.servers:
        starts = [
            ("servers", "up", "-c", options.config, *as_options(settings), "--dir", folder)
            for settings, folder in zip(lanes, folders, strict=True)
        ]
        atts(*starts[0])  # alone: it compiles the kernels that the others then find
        others = [subprocess.Popen(command_of(*start)) for start in starts[1:]]
        codes = [process.wait() for process in others]
        if any(codes):
            sys.exit("a lane's servers did not start")
    runs = yaml.safe_load(options.runs.read_text(encoding="utf-8"))
    todo = [name for name in runs if not (options.out / name / "summary.json").is_file()]
    print(f"{len(todo)} of {len(runs)} runs to make, on {len(lanes)} lanes", flush=True)
    asyncio.run(make_all(options, {name: runs[name] for name in todo}, lanes, ends))


def lane_settings(config_file: Path, number: int) -> list[str]:
    """Settings that move a pair's servers to the ports of a lane."""
    config = load_config(config_file)
    return [
        f"{author}.server.port={config.options_of(author).server.port + PORTS_APART * number}"
        for author in AUTHORS
    ]


async def make_all(
    options: argparse.Namespace,
    runs: dict[str, list[str]],
    lanes: Sequence[list[str]],
    ends: float | None,
) -> None:
    waiting = list(runs)

    async def work(lane: list[str]) -> None:
        config = load_config(options.config, lane)
        while waiting and (ends is None or time.monotonic() < ends):
            name = waiting.pop(0)
            await empty_caches(config)
            began = time.monotonic()
            code = await make(options, name, [*lane, *runs[name]], ends)
            print(f"{name}: code {code} after {time.monotonic() - began:.1f} s", flush=True)

    await asyncio.gather(*map(work, lanes))


async def make(
    options: argparse.Namespace, name: str, settings: list[str], ends: float | None
) -> int:
    """One run, in a process of its own; stopped like by Ctrl-C when the time is up."""
    options.out.mkdir(parents=True, exist_ok=True)
    command = ("run", "-c", options.config, *as_options(settings), "--out", options.out / name)
    with (options.out / f"{name}.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *command_of(*command), stdout=log, stderr=log
        )
        try:
            left = None if ends is None else max(0.0, ends - time.monotonic())
            return await asyncio.wait_for(process.wait(), left)
        except TimeoutError:
            process.send_signal(signal.SIGINT)
            try:
                return await asyncio.wait_for(process.wait(), GRACE_SECONDS)
            except TimeoutError:
                process.kill()
                return await process.wait()


async def empty_caches(config: Config) -> None:
    """So that no run finds its predecessor's prefixes, or a cache that those have broken up."""
    async with aiohttp.ClientSession() as session:
        for author in AUTHORS:
            model = config.options_of(author)
            if model.engine in EMPTY_CACHE:
                for url in server_urls(model):
                    async with session.post(url + EMPTY_CACHE[model.engine]) as reply:
                        await reply.read()


def as_options(settings: Sequence[str]) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def command_of(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "atts", *map(str, arguments)]


def atts(*arguments: object) -> None:
    subprocess.run(command_of(*arguments), check=True)


if __name__ == "__main__":
    main()
