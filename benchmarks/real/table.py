"""What the runs of ``run.py`` came to: accuracy against tokens written, and against cost.

    python benchmarks/real/table.py DIR --problems PROBLEMS.jsonl --out results.json \
        --draft-cost 0.3 --score-cost 0.2

Every run is compared with the run named ``target-only`` over the same problems: paired tests and
intervals clustered by problem. ``--draft-cost`` and ``--score-cost`` are what a token that the
draft writes, or the target scores, costs in tokens that the target writes: ``costs.py`` measures
them. By the answer of a problem, k chains count with all their subsets of k. Where PROBLEMS.jsonl
has a level for each problem, so do the results.
"""

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from math import hypot
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

from rich.console import Console
from rich.table import Table

from atts.analysis.graded_run import grade_run
from atts.analysis.summary import TakeOver, summarise
from atts.grading.chains import GradedChains, majority_by_problem
from atts.grading.grader import Grader, VerdictCache
from atts.grading.paired import paired_difference
from atts.store.run_directory import RecordedRun, read_run

ALONE = "target-only"
VOTERS = (1, 2, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--problems", type=Path, help="with a level for each")
    parser.add_argument("--draft-cost", type=float, required=True)
    parser.add_argument("--score-cost", type=float, required=True)
    parser.add_argument(
        "--beside", type=Path, help="results of other runs over the same problems, shown with them"
    )
    parser.add_argument("--out", type=Path, default=Path("real.json"))
    options = parser.parse_args()
    levels = read_levels(options.problems) if options.problems else {}
    folders = sorted(path.parent for path in options.folder.glob("*/chains.jsonl"))
    with Grader(cache=VerdictCache()) as grader:
        figures = {
            folder.name: figures_of(
                read_run(folder), grader, levels, options.draft_cost, options.score_cost
            )
            for folder in folders
        }
    if options.beside:
        earlier = json.loads(options.beside.read_text(encoding="utf-8"))["runs"]
        figures = {name: numbered(each) for name, each in earlier.items()} | figures
    alone = figures[ALONE]
    for each in figures.values():
        compare(each, alone)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(each)}" for name, each in figures.items())
    costs = f'"draft_cost": {options.draft_cost}, "score_cost": {options.score_cost}'
    options.out.write_text(f'{{{costs}, "runs": {{\n{lines}\n}}}}\n', encoding="utf-8")
    show(figures)


def numbered(figures: dict[str, Any]) -> dict[str, Any]:
    """A run's figures as they were before JSON made texts of the numbers of chains."""
    for key in ("majority", "pass_at_k"):
        figures[key] = {int(k): value for k, value in figures[key].items()}
    return figures


def read_levels(path: Path) -> dict[str, int]:
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {line["id"]: line["level"] for line in lines if "level" in line}


def figures_of(
    run: RecordedRun,
    grader: Grader,
    levels: Mapping[str, int],
    draft_cost: float,
    score_cost: float,
) -> dict[str, Any]:
    """Everything about one run that does not need the others."""
    graded = grade_run(run, grader)
    summary = summarise(graded)
    tokens, chains = summary.tokens, summary.chains
    cost = tokens.target_written + draft_cost * tokens.draft_written
    cost += score_cost * tokens.target_scored
    by_level = defaultdict(list)
    for name, share in summary.accuracy_by_problem.items():
        if name in levels:
            by_level[levels[name]].append(share)
    voters = [k for k in VOTERS if k <= summary.samples]
    return {
        "method": summary.method,
        "settings": run.config.take_over.model_dump(mode="json"),
        "problems": summary.problems,
        "samples": summary.samples,
        "failed": summary.failed,
        "ends": dict(Counter(chain.end for chain in run.chains)),
        "accuracy": summary.accuracy and summary.accuracy.model_dump(),
        "accuracy_by_problem": summary.accuracy_by_problem,
        "accuracy_by_level": {
            level: {"problems": len(shares), "accuracy": mean(shares)}
            for level, shares in sorted(by_level.items())
        },
        "majority": {k: majority_of(graded.graded, k) for k in voters},
        "majority_by_problem": summary.majority_by_problem,
        "pass_at_k": {k: summary.pass_at_k[k].model_dump() for k in voters},
        "a_chain": {
            "target_written": tokens.target_written / chains,
            "draft_written": tokens.draft_written / chains,
            "scored": tokens.target_scored / chains,
            "cost": cost / chains,
        },
        "wall_seconds": summary.wall_seconds,
        "take_over": take_overs(run, summary.take_over),
    }


def majority_of(graded: GradedChains, k: int) -> float:
    """Share of the problems that k chains, drawn from a problem's, answer rightly by majority."""
    shares = []
    for grades in graded.grades.values():
        subsets = [{"": list(subset)} for subset in combinations(grades, k)]
        shares.append(mean(majority_by_problem(each, graded.same)[""] for each in subsets))
    return mean(shares)


def take_overs(run: RecordedRun, found: TakeOver | None) -> dict[str, Any] | None:
    """The realised rate: overall, by turn, and how it varies over problems."""
    if found is None:
        return None
    by_problem: dict[str, list[bool]] = defaultdict(list)
    for chain in run.chains:
        for _, decision in chain.decisions:
            by_problem[chain.problem_id].append(decision.take_over)
    return {
        "nominal": found.nominal,
        "realised": found.realised.model_dump(),
        "by_turn": [{"decisions": each.decisions, "rate": each.rate} for each in found.by_turn],
        "sd_over_problems": pstdev([mean(each) for each in by_problem.values()]),
    }


def compare(figures: dict[str, Any], alone: Mapping[str, Any]) -> None:
    """Add what a run has more or less than the target alone.

    What was compared before stays as it is: it may have been paired with a run that only its
    figures are left of. Where no pairing can be made the interval is that of independent samples,
    so it is too wide, and there is no p-value.
    """
    for key in ("accuracy", "majority"):
        if f"{key}_minus_target_only" in figures:
            continue
        ours, theirs = (each.get(f"{key}_by_problem") for each in (figures, alone))
        if ours is not None and theirs is not None:
            figures[f"{key}_minus_target_only"] = paired_difference(ours, theirs).model_dump()
        elif key == "accuracy":
            figures["accuracy_minus_target_only"] = unpaired(figures[key], alone[key])
    figures["of_target_only"] = {
        key: figures["a_chain"][key] / alone["a_chain"][key] for key in ("target_written", "cost")
    }
    figures["target_only_at_equal_cost"] = {
        k: at_cost(k * figures["a_chain"]["cost"], alone["majority"], alone["a_chain"]["cost"])
        for k in figures["majority"]
    }


def unpaired(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, float | None]:
    """The difference of two means of independent samples, from their intervals."""
    estimate = ours["estimate"] - theirs["estimate"]
    down = hypot(ours["estimate"] - ours["low"], theirs["high"] - theirs["estimate"])
    up = hypot(ours["high"] - ours["estimate"], theirs["estimate"] - theirs["low"])
    return {"estimate": estimate, "low": estimate - down, "high": estimate + up, "p_value": None}


def at_cost(cost: float, majority: Mapping[int, float], a_chain: float) -> float | None:
    """The target's majority at a cost, between the numbers of chains that it pays for; None outside
    of what was measured.
    """
    points = sorted((k * a_chain, share) for k, share in majority.items())
    for (low, before), (high, after) in pairwise(points):
        if low <= cost <= high:
            return before + (after - before) * (cost - low) / (high - low)
    return None


def show(figures: Mapping[str, Mapping[str, Any]]) -> None:
    table = Table(box=None)
    for heading in ("run", "accuracy, %", "minus target-only", "p", "written, %", "cost, %"):
        table.add_column(heading, justify="left" if heading == "run" else "right")
    for heading in (*(f"maj@{k}" for k in VOTERS), "rate", "sd", "wall, s"):
        table.add_column(heading, justify="right")
    for name, each in sorted(figures.items(), key=lambda item: item[1]["accuracy"]["estimate"]):
        table.add_row(name, *row(each))
    Console(width=200).print(table)


def row(each: Mapping[str, Any]) -> Sequence[str]:
    found, difference = each["accuracy"], each["accuracy_minus_target_only"]
    rate = each["take_over"]
    return [
        f"{100 * found['estimate']:.1f} ({100 * found['low']:.1f}-{100 * found['high']:.1f})",
        f"{100 * difference['estimate']:+.1f} "
        f"({100 * difference['low']:+.1f}..{100 * difference['high']:+.1f})",
        "-" if difference["p_value"] is None else f"{difference['p_value']:.3f}",
        f"{100 * each['of_target_only']['target_written']:.1f}",
        f"{100 * each['of_target_only']['cost']:.1f}",
        *(f"{100 * each['majority'][k]:.1f}" if k in each["majority"] else "-" for k in VOTERS),
        f"{100 * rate['realised']['estimate']:.1f}" if rate else "-",
        f"{100 * rate['sd_over_problems']:.1f}" if rate else "-",
        f"{each['wall_seconds']:.0f}",
    ]


if __name__ == "__main__":
    main()
