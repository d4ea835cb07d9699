"""Wall times at full size: two SGLang servers, recorded chains, several schedules.

    python benchmarks/full_size/run.py TRACES [--gpus 2] [--problems 8] [--out full_size.json]

The draft has the architecture of R1-Distill-Llama-8B, the target that of QwQ-32B, both random
weights (``--load-format dummy``). With ``--gpus 1`` they share a GPU of at least 100 GB; with two,
each has its own. Chains are recorded ones (TRACES, of R1-Distill-Llama-8B and QwQ-32B): turns,
lengths of segments and scores are theirs. The decisions are made by conformal p-values, by turn, at
the nominal rate of 0.4. Alone, the target writes as many tokens as both models wrote in the
recording. Servers are started (``atts servers up``) and warmed up, and their caches emptied before
each schedule. A schedule that OUT already has is kept unless it is run again.

``--predict FILE`` needs no GPU: it simulates what FILE measured and prints both side by side.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from following import EndlessSGLang, FollowingEngine, prompt_ids
from models import DRAFT, TARGET, VOCABULARY, make_model
from rich.console import Console
from rich.table import Table

from atts.config import FORMER_DEFAULTS, Config, ModelOptions, parse_config
from atts.conformal.factory import make_control
from atts.engines.base import Engine, GenerateRequest, Sampling, ScoreRequest
from atts.engines.http import HttpClient
from atts.engines.limits import LimitedEngine
from atts.engines.loading import server_urls
from atts.methods import METHODS
from atts.methods.chain import Model, OpenChain
from atts.methods.decider import Decider, Siblings
from atts.runs.pool import Clock, adapting_capacity, run_chains
from atts.runs.setup import PlannedChain
from atts.simulation.deployment import Hardware, ModelHardware, SimulatedMethod
from atts.simulation.engine import Script, ScriptTokenizer
from atts.simulation.simulate import simulate
from atts.simulation.workload import Workload, load_workload
from atts.types import Author, Chain, ChainKey

SAMPLES = 16
SCHEDULES = {
    each.name: each
    for each in (
        SimulatedMethod("atts, overlap", "atts", {"limits.overlap": "on"}),
        SimulatedMethod("atts", "atts", {"limits.overlap": "off"}),
        SimulatedMethod("target-only", "target-only", {}),
        SimulatedMethod("sync-ranking", "sync-ranking", {}),
        SimulatedMethod(
            "atts, follows load", "atts", {"limits.chains_min": "16", "limits.overlap": "off"}
        ),
        SimulatedMethod(
            "atts, rate 0.1", "atts", {"take_over.rate": "0.1", "limits.overlap": "off"}
        ),
        SimulatedMethod.parse("reference"),
    )
}
REFERENCES = ("target-only", "reference")
POLL_SECONDS = 0.5
SETTINGS = ("gpus", "problems", "longest", "chains")
"""Options that all schedules of a table share."""
ARGUMENTS = [
    *("--load-format", "dummy"),
    *("--attention-backend", "triton"),
    *("--sampling-backend", "pytorch"),
    *("--grammar-backend", "none"),
    *("--cuda-graph-max-bs", "128"),
    "--disable-piecewise-cuda-graph",
]
MEMORY = {1: {"draft": 0.25, "target": 0.88}, 2: {"draft": 0.88, "target": 0.88}}
"""By number of GPUs: of what a GPU has free when the server starts; the draft's comes first."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("traces", type=Path)
    parser.add_argument("--gpus", type=int, choices=MEMORY, default=1)
    parser.add_argument("--problems", type=int, default=8, help="evenly spread by length")
    parser.add_argument("--longest", type=int, default=4000, help="tokens of a problem's chain")
    parser.add_argument("--chains", type=int, default=128, help="in flight")
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=[*SCHEDULES])
    parser.add_argument("--python", default="python3", help="that has SGLang")
    parser.add_argument("--pythonpath", help="where it finds it")
    parser.add_argument("--folder", type=Path, help="for models and logs; default: a temporary one")
    parser.add_argument("--out", type=Path, default=Path("full_size.json"))
    parser.add_argument("--no-servers", action="store_true", help="they run already")
    parser.add_argument("--predict", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.predict:
        show(json.loads(options.predict.read_text()), options.traces)
        return
    results = results_so_far(options)
    with TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        config = configuration(folder, options.gpus, options.python, options.pythonpath)
        if not options.no_servers:
            start_servers(folder, options.gpus)
        try:
            workload = part_of(load_workload(options.traces), options.problems, options.longest)
            results = asyncio.run(measure(config, workload, options, results))
        finally:
            if not options.no_servers:
                atts("servers", "down", "--dir", folder / "servers")
    show(results, options.traces)


def configuration(folder: Path, gpus: int, python: str, path: str | None) -> Config:
    """Of the run, and of its servers."""

    def model(author: str, name: str, port: int) -> dict[str, Any]:
        server = {
            "port": port,
            "gpus": [0 if author == "target" or gpus == 1 else 1],
            "executable": python,
            "memory_fraction": MEMORY[gpus][author],
            "arguments": ARGUMENTS,
            "environment": {"PYTHONPATH": path} if path else {},
        }
        return {"engine": "sglang", "model": str(make_model(name, folder)), "server": server}

    tree = {
        "draft": model("draft", DRAFT, 40300),
        "target": model("target", TARGET, 40301),
        "samples": SAMPLES,
        "take_over": {"rate": 0.4},
    }
    (folder / "full_size.yaml").write_text(yaml.safe_dump(tree))
    return parse_config(tree, "the benchmark", FORMER_DEFAULTS)


def atts(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "atts", *map(str, words)], check=True)


def start_servers(folder: Path, gpus: int) -> None:
    where = ["-c", folder / "full_size.yaml", "--dir", folder / "servers"]
    # On one GPU one after the other: each takes its share of what is free when it starts.
    for only in [["--only", "draft"], ["--only", "target"]] if gpus == 1 else [[]]:
        began = time.monotonic()
        atts("servers", "up", *where, *only)
        print(f"answers after {time.monotonic() - began:.0f} s", flush=True)


def part_of(workload: Workload, count: int, longest: int) -> Workload:
    """Problems of all lengths: every so many-th, in the order of the tokens of their chains; but
    none with a chain of more than ``longest`` tokens, for which all schedules would wait alike.
    """
    fitting = [p for p in workload.problems if max(chain.tokens for chain in p.chains) <= longest]
    ordered = sorted(fitting, key=lambda p: sum(chain.tokens for chain in p.chains))
    step = len(ordered) / count
    picked = [ordered[int((number + 0.5) * step)] for number in range(count)]
    return Workload(f"{workload.name}, {count} problems", picked)


def results_so_far(options: argparse.Namespace) -> dict[str, Any]:
    """What OUT holds, if its schedules may stand in one table with those that are to be run."""
    settings = {name: getattr(options, name) for name in SETTINGS}
    if not options.out.exists():
        return settings | {"schedules": {}}
    results: dict[str, Any] = json.loads(options.out.read_text())
    if {name: results[name] for name in SETTINGS} != settings:
        raise SystemExit(f"{options.out} holds schedules of other settings; choose another --out")
    return results


async def measure(
    config: Config, workload: Workload, options: argparse.Namespace, results: dict[str, Any]
) -> dict[str, Any]:
    """Run the schedules one after the other; each result is written when it is there."""
    servers: dict[Author, EndlessSGLang] = {
        "draft": connect_to(config.draft),
        "target": connect_to(config.target),
    }
    try:
        await warm_up(servers)
        for author, server in servers.items():
            facts = await server.client.get("/v1/loads")
            results[f"{author}_cache_tokens"] = facts["loads"][0]["max_total_num_tokens"]
        results["version"] = (await servers["draft"].connect()).version
        for name in options.schedules:
            result = await run_schedule(SCHEDULES[name], config, workload, servers, options)
            results["schedules"][name] = result
            options.out.write_text(json.dumps(results, indent=1))
            print(name, json.dumps(result), flush=True)
    finally:
        for server in servers.values():
            await server.aclose()
    return results


def connect_to(model: ModelOptions) -> EndlessSGLang:
    client = HttpClient(server_urls(model)[0], model.model)
    return EndlessSGLang(client, model, VOCABULARY, frozenset())


async def warm_up(servers: dict[Author, EndlessSGLang]) -> None:
    """Meet the shapes of the run once, so that no kernel is compiled while it is timed."""
    for server in servers.values():
        for rows in (1, 8, 64, 128):
            prompts = [prompt_ids(10_000 + row, 600) for row in range(rows)]
            way = Sampling(max_tokens=8, temperature=0.8, top_p=1.0, seed=0)
            await asyncio.gather(*(server.generate(GenerateRequest(ids, way)) for ids in prompts))
            await asyncio.gather(*(server.score(ScoreRequest(ids, 100)) for ids in prompts))


async def run_schedule(
    contender: SimulatedMethod,
    config: Config,
    workload: Workload,
    servers: dict[Author, EndlessSGLang],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Wall time and more of one schedule over all problems."""
    config = contender.config(config, options.chains)
    method = METHODS[config.method]
    for server in servers.values():
        await server.client.get_text("/flush_cache")
    scripts: dict[int, Script] = {}
    written: dict[tuple[int, int], list[int]] = {}
    in_flight = {
        "draft": config.limits.draft_requests,
        "target": config.limits.target_requests,
    }
    engines: dict[Author, Engine] = {
        author: LimitedEngine(
            FollowingEngine(author, servers[author], scripts, written), in_flight[author], 1, 0.0
        )
        for author in method.authors
    }
    count = len(workload.problems)
    control = None
    if method.needs_calibration:
        control = make_control(config.take_over, workload.calibration(config, count))

    def opened(number: int, sample: int, decider: Decider | None) -> OpenChain:
        script = workload.script(number, sample, config, 1.0)
        scripts[script.number] = script
        tokenizer = ScriptTokenizer(script)
        models = {author: Model(engine, tokenizer) for author, engine in engines.items()}
        problem = workload.problem(number)
        return OpenChain(problem, sample, models, config, decider)

    def chains(numbers: Iterable[int]) -> Iterator[Sequence[PlannedChain]]:
        for number in numbers:
            decider, problem_id = None, workload.problem(number).id
            if method.decider:
                decider = method.decider(Siblings(problem_id, config, control, range(SAMPLES)))
            group = [
                PlannedChain(ChainKey(problem_id, sample), partial(opened, number, sample, decider))
                for sample in range(SAMPLES)
            ]
            yield from [group] if method.together else [[chain] for chain in group]

    done: list[Chain] = []
    clock = Clock()
    peaks: Counter[Author] = Counter()
    watching = asyncio.create_task(watch(servers, peaks))
    for part in [[n] for n in range(count)] if contender.by_problem else [range(count)]:
        async with adapting_capacity(config, list(engines.values()), None) as capacity:
            await run_chains(chains(part), method, capacity, clock, done.append)
    wall = clock()
    watching.cancel()
    return summed_up(wall, done, peaks)


async def watch(servers: dict[Author, EndlessSGLang], peaks: Counter[Author]) -> None:
    """Note the most tokens that running requests hold, until cancelled."""
    while True:
        for author, server in servers.items():
            loads = await server.client.get("/v1/loads?include=core")
            peaks[author] = max(peaks[author], loads["loads"][0]["num_used_tokens"])
        await asyncio.sleep(POLL_SECONDS)


def summed_up(wall: float, chains: list[Chain], peaks: Counter[Author]) -> dict[str, Any]:
    decisions = [decision for chain in chains for _, decision in chain.decisions]
    return {
        "wall_seconds": wall,
        "chains": len(chains),
        "failed": sum(chain.end == "failed" for chain in chains),
        "first_error": next((chain.error for chain in chains if chain.error), None),
        "draft_tokens": sum(chain.written("draft") for chain in chains),
        "target_tokens": sum(chain.written("target") for chain in chains),
        "scored_tokens": sum(decision.scored_tokens for decision in decisions),
        "cached_when_scoring": sum(decision.cached_tokens for decision in decisions),
        "take_over_rate": sum(d.take_over for d in decisions) / max(len(decisions), 1),
        "waited_seconds": sum(chain.waited_seconds for chain in chains) / max(len(chains), 1),
        "chain_seconds": sum(chain.seconds for chain in chains) / max(len(chains), 1),
        "peak_draft_tokens": peaks["draft"],
        "peak_target_tokens": peaks["target"],
    }


def show(results: dict[str, Any], traces: Path) -> None:
    """The measured figures, their ratios, and what the simulation says of the same schedules."""
    with TemporaryDirectory() as folder:
        config = configuration(Path(folder), results["gpus"], "python3", None)
        workload = part_of(load_workload(traces), results["problems"], results["longest"])
        predicted = predict(config, workload, results)
    walls = {name: each["wall_seconds"] for name, each in results["schedules"].items()}
    title = (
        f"{results['problems']} problems x {SAMPLES} chains, {results['chains']} in flight, "
        f"{results['gpus']} GPU{'s' * (results['gpus'] > 1)}, SGLang"
    )
    table = Table(title=title)
    for column in (
        *("schedule", "wall s", "x target-only", "x reference", "tokens/s", "take-over %"),
        *("peak cache, draft", "target", "simulated s", "error %"),
    ):
        table.add_column(column, justify="left" if column == "schedule" else "right")
    for name, each in results["schedules"].items():
        wall, simulated = each["wall_seconds"], predicted[name]
        table.add_row(
            name,
            f"{wall:.1f}",
            *(f"{walls[name] / wall:.2f}" if name in walls else "" for name in REFERENCES),
            f"{(each['draft_tokens'] + each['target_tokens']) / wall:,.0f}",
            f"{100 * each['take_over_rate']:.1f}",
            f"{each['peak_draft_tokens'] / results['draft_cache_tokens']:.0%}",
            f"{each['peak_target_tokens'] / results['target_cache_tokens']:.0%}",
            f"{simulated:.1f}",
            f"{100 * (simulated / wall - 1):+.0f}",
        )
    Console(width=130).print(table)


def predict(config: Config, workload: Workload, results: dict[str, Any]) -> dict[str, float]:
    """Simulated wall seconds of each schedule, by the defaults for H200s."""
    hardware = Hardware(
        gpu="h200",
        shared=results["gpus"] == 1,
        draft=ModelHardware(cache_tokens=results["draft_cache_tokens"]),
        target=ModelHardware(cache_tokens=results["target_cache_tokens"]),
    )
    return {
        name: simulate(
            SCHEDULES[name],
            config,
            workload,
            hardware,
            results["chains"],
            len(workload.problems),
        ).wall_seconds
        for name in results["schedules"]
    }


if __name__ == "__main__":
    main()
