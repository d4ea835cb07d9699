"""What stop.when would have saved on recorded chains, and how often the majority would differ.

    python benchmarks/stopping.py ../shared/data/traces/math500_emc4_ct1.compact.jsonl.gz

The chains of a problem start together and each ends after as long as it has text, which is as they
would on servers with room for all; or one after another, which is the order of adaptive
consistency (arXiv 2305.11860). A chain that is ended early counts with the part of its text that it
had by then. Answers are compared as in a run, without the gold answer. They are those that our
rules find in the text, and those that a language model wrote down after the run: what the run
itself had found with a pattern that cuts nested braces is no answer to grade by.
"""

import argparse
import asyncio
import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from atts.config import StopOptions, StopRule
from atts.grading.chains import grade_chains, majority_vote
from atts.grading.grader import Grader, VerdictCache
from atts.runs.stopping import Stopping
from atts.types import Chain, Problem

ANSWERS = {"rules": "reextracted", "language model": "final_answer"}
"""Who found an answer, and its key in the trace."""


class Recorded(NamedTuple):
    """A chain of the trace."""

    problem: Problem
    sample: int
    answer: str | None
    characters: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("trace", type=Path)
    with gzip.open(parser.parse_args().trace, "rt") as file:
        lines = [json.loads(line) for line in file]
    for found_by, key in ANSWERS.items():
        problems: dict[str, list[Recorded]] = defaultdict(list)
        for line in lines:
            chain = recorded(line, key)
            problems[chain.problem.id].append(chain)
        Console().print(asyncio.run(measure(list(problems.values()), found_by)))


def recorded(line: dict[str, Any], key: str) -> Recorded:
    answer = line[key]
    none = answer is None or str(answer).lower() == "invalid"
    return Recorded(
        Problem(id=str(line["question_id"]), question="?", answer=str(line["gold_answer"])),
        int(line["sample_index"]),
        None if none else str(answer),
        sum(turn["draft_chars"] + turn["target_chars"] for turn in line["turns"]),
    )


async def measure(problems: list[list[Recorded]], found_by: str) -> Table:
    samples = len(problems[0])
    table = Table(
        title=f"{len(problems)} problems x {samples} chains, answers found by {found_by}",
        caption="Saved: of all characters.",
        box=box.SIMPLE_HEAD,
    )
    for column in ("chains", "stop.when", "not needed, %", "saved, %", "majority right, %"):
        table.add_column(column, justify="right")
    rules: tuple[StopRule, ...] = ("never", "majority", "adaptive")
    for together in (True, False):
        for rule in rules:
            needed, spent = [], 0.0
            for chains in problems:
                kept, characters = await replayed(chains, rule, together)
                needed.append(kept)
                spent += characters
            every = sum(chain.characters for chains in problems for chain in chains)
            idle = sum(map(len, problems)) - sum(map(len, needed))
            table.add_row(
                "together" if together else "one by one",
                rule,
                f"{100 * idle / sum(map(len, problems)):.1f}",
                f"{100 * (1 - spent / every):.1f}",
                f"{100 * right(needed):.1f}",
            )
    return table


async def replayed(
    chains: list[Recorded], rule: StopRule, together: bool
) -> tuple[list[Recorded], float]:
    """The chains of a problem that are needed, and the characters written by all of them."""
    order = sorted(chains, key=lambda chain: chain.characters) if together else chains
    with (
        Grader(cache=VerdictCache()) as grader,
        Stopping(StopOptions(when=rule), len(chains), grader) as stopping,
    ):
        for number, chain in enumerate(order, 1):
            if rule != "never":
                await stopping.chains_done([as_chain(chain)])
            if stopping.is_settled(chain.problem.id):
                kept = order[:number]
                cut = chain.characters * (len(order) - number) if together else 0
                return kept, sum(each.characters for each in kept) + cut
    return order, sum(chain.characters for chain in order)


def as_chain(chain: Recorded) -> Chain:
    return Chain(
        problem_id=chain.problem.id,
        sample=chain.sample,
        end="stop" if chain.answer is None else "answer",
        answer=chain.answer,
        turns=(),
        started=0.0,
        done=0.0,
    )


def right(problems: list[list[Recorded]]) -> float:
    """The share of problems whose majority vote is right."""
    chains = [as_chain(chain) for of_problem in problems for chain in of_problem]
    with Grader(cache=VerdictCache()) as grader:
        graded = grade_chains([of_problem[0].problem for of_problem in problems], chains, grader)
    return majority_vote(graded.grades, graded.same).estimate


if __name__ == "__main__":
    main()
