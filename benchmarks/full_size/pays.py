"""Where ATTS pays, by pair, chains in flight and rate: simulated, at equal GPUs.

    python benchmarks/full_size/pays.py TRACES [--pairs NAME ...] [--out pays.json]

Speed is tokens a second that stay in chains, of four waves of recorded chains. The target alone has
all of the GPUs, split over them or in whole copies, whichever is faster; so has ATTS its better
placement: the draft on a GPU of its own, or on all of them beside the target. ``speculative`` is
the rival, and ATTS whose take-overs are decoded like that: a head of one layer proposes 3 tokens a
pass, each kept with probability 0.7 if those before it are.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from measuring import Followed, configuration, part_of
from rich.console import Console
from rich.table import Table

from atts.config import SpeculativeOptions
from atts.errors import ConfigError
from atts.simulation.deployment import Hardware, ModelHardware, SimulatedMethod
from atts.simulation.shapes import shape_of
from atts.simulation.simulate import check, simulate
from atts.simulation.workload import Workload, load_workload

IN_FLIGHT = (16, 64, 256)
MOST = 1_024
"""Also for mixtures of experts."""
CROWDED = 256
FOLLOWING = ",limits.chains_min=32"
"""From so many on the number of chains follows the load, as it does by default."""
WAVES = 4
LONGEST = 4_000
PLAIN = SpeculativeOptions()
RIVAL = SpeculativeOptions(method="eagle3", draft="a head", tokens=3)
ACCEPTANCE = 0.7
METHODS = {
    "0.4": ("atts:take_over.rate=0.4", PLAIN),
    "0.1": ("atts:take_over.rate=0.1", PLAIN),
    "0.1, speculative": ("atts:take_over.rate=0.1", RIVAL),
    "rewind 0.4": ("atts:take_over.mode=rewind,take_over.score.kind=largest-surprise", PLAIN),
}
"""By label: the method, and how its target decodes."""


class Case(NamedTuple):
    draft: str
    target: str
    gpus: int
    """H200s."""
    parallel: int
    """That one copy of the target needs."""


CASES = {
    "8B + 32B": Case("DeepSeek-R1-Distill-Llama-8B", "QwQ-32B", 2, 1),
    "1.7B + 32B": Case("Qwen3-1.7B", "Qwen3-32B", 2, 1),
    "1.5B + 70B": Case("DeepSeek-R1-Distill-Qwen-1.5B", "DeepSeek-R1-Distill-Llama-70B", 4, 2),
    "1.7B + 30B-A3B": Case("Qwen3-1.7B", "Qwen3-30B-A3B", 2, 1),
    "gpt-oss 20b + 120b": Case("gpt-oss-20b", "gpt-oss-120b", 2, 1),
    "1.7B + 235B-A22B, FP8": Case("Qwen3-1.7B", "Qwen3-235B-A22B-FP8", 4, 4),
    "9B + GLM-4.6, FP8": Case("GLM-Z1-9B-0414", "GLM-4.6-FP8", 4, 4),
    "8B + DeepSeek-V3.2, FP8": Case("DeepSeek-R1-0528-Qwen3-8B", "DeepSeek-V3.2", 8, 8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("traces", type=Path)
    parser.add_argument("--pairs", nargs="+", choices=CASES, default=[*CASES])
    parser.add_argument("--cache", choices=["bf16", "fp8"], default="fp8")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    workload = load_workload(options.traces, models_cuts=True)
    rows = []
    for name in options.pairs:
        mixture = shape_of(CASES[name].target).experts
        for in_flight in (*IN_FLIGHT, MOST) if mixture else IN_FLIGHT:
            rows.append(row(name, in_flight, workload, options.cache))
            print(json.dumps(rows[-1]), flush=True)
    show(rows)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


def row(name: str, in_flight: int, workload: Workload, cache: str) -> dict[str, Any]:
    """Tokens a second of each method, where it is placed best."""
    case = CASES[name]
    alone = [(m, "target-only") for m in all_for_the_target(case, cache, PLAIN)]
    rival = [(m, "target-only") for m in all_for_the_target(case, cache, RIVAL)]
    rates = {"alone": best(alone, case, in_flight, workload)}
    rates["speculative"] = best(rival, case, in_flight, workload)
    for label, (method, how) in METHODS.items():
        if in_flight >= CROWDED:
            method += FOLLOWING
        ways = [(each, method) for each in for_both(case, cache, how)]
        rates[label] = best(ways, case, in_flight, workload)
    return {"pair": name, "gpus": case.gpus, "in_flight": in_flight, "cache": cache, **rates}


def all_for_the_target(case: Case, cache: str, how: SpeculativeOptions) -> Iterator[Hardware]:
    for parallel in {case.parallel, case.gpus}:
        yield hardware(0, case.gpus, parallel, cache, how)


def for_both(case: Case, cache: str, how: SpeculativeOptions) -> Iterator[Hardware]:
    yield hardware(case.gpus, case.gpus, case.gpus, cache, how, shared=True)
    if left := (case.gpus - 1) // case.parallel * case.parallel:
        yield hardware(case.gpus - left, left, case.parallel, cache, how)


def hardware(
    draft: int,
    target: int,
    parallel: int,
    cache: str,
    how: SpeculativeOptions,
    *,
    shared: bool = False,
) -> Hardware:
    tree = {
        "draft": {"gpus": max(1, draft), "cache": cache},
        "target": {"gpus": target, "tensor_parallel": parallel, "cache": cache},
        "shared": shared,
    }
    made = Hardware.model_validate(tree)
    decoding = {"speculative": how, "acceptance": ACCEPTANCE}
    speculating: ModelHardware = made.target.model_copy(update=decoding)
    return made.model_copy(update={"target": speculating})


def best(
    ways: Sequence[tuple[Hardware, str]], case: Case, in_flight: int, workload: Workload
) -> float | None:
    """The most tokens a second of these; None where none fits."""
    found = []
    run = Followed("", in_flight, WAVES, LONGEST, 1.0)
    part = part_of(workload, run.problems, run.longest, run.scale)
    config = configuration(case.draft, case.target)
    for served, method in ways:
        contender = SimulatedMethod.parse(method)
        try:
            outcome = simulate(contender, config, part, served, in_flight, run.problems)
        except ConfigError:  # it does not fit, or copies of both cannot share the GPUs
            continue
        check(outcome)
        found.append(outcome.kept_tokens / outcome.wall_seconds)
    return max(found, default=None)


def show(rows: Sequence[dict[str, Any]]) -> None:
    table = Table("pair", "GPUs", "in flight", "alone, tokens/s", "speculative", *METHODS)
    table.add_column("best over the better rival")
    for each in rows:
        alone = each["alone"]
        names = ("speculative", *METHODS)
        ours = max(each[name] for name in METHODS)
        rival = max(alone, each["speculative"])
        table.add_row(
            *(each["pair"], str(each["gpus"]), f"{each['in_flight']:,}", f"{alone:,.0f}"),
            *(f"{each[name] / alone:.2f}" for name in names),
            f"{ours / rival:.2f}",
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
