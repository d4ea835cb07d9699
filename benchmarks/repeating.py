"""What stop.repeating costs and saves on recorded runs: right answers lost, text and time saved.

    python benchmarks/repeating.py RUN... [--piece 500] [--json]

A chain that decides in turns is looked at after each turn, as in a run. Of a chain that is written
in one request the text is cut into pieces of so many tokens and looked at after each, which is
what it would take to end such a chain: today the loop is only found when all is written. A right
answer is lost if the chain is ended before it stands there. Time is when the last chain is done,
every chain begun when it was, and ended where its loop is found.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from atts.grading.chains import grade_chains
from atts.grading.extract import extract_answer
from atts.grading.grader import Grader, VerdictCache
from atts.methods.atts import repeats
from atts.store.run_directory import read_run
from atts.types import Chain, ChainKey, Problem


class Look(NamedTuple):
    """A moment at which a chain's text is looked at."""

    text: str
    tokens: int
    """Written until then, by both models, in the chain or not."""
    seconds: float


class Found(NamedTuple):
    """What ending loops would have done to a run."""

    run: str
    method: str
    chains: int
    loops: int
    """Chains that would have been ended early."""
    right: int
    lost: int
    """Right chains that would not be."""
    tokens_saved: float
    """As a share of all tokens written."""
    seconds: float
    """When the last chain was done."""
    seconds_then: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--piece", type=int, default=500, help="tokens between two looks")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    with Grader(cache=VerdictCache()) as grader:
        found = [measure(path, arguments.piece, grader) for path in arguments.runs]
    if arguments.json:
        print(json.dumps([each._asdict() for each in found], indent=1))
    else:
        show(found)


def measure(path: Path, piece: int, grader: Grader) -> Found:
    run = read_run(path)
    problems = {problem.id: problem for problem in run.problems}
    chains = sorted(run.chains, key=lambda chain: chain.key)
    graded = grade_chains(run.problems, chains, grader).grades
    numbers = {name: iter(grades) for name, grades in graded.items()}
    right = {chain.key: next(numbers[chain.problem_id]).correct for chain in chains}
    cut = {chain.key: ended(chain, piece) for chain in chains}
    whole = {chain.key: written(chain) for chain in chains}
    saved = sum(whole[key] - look.tokens for key, look in cut.items() if look)
    return Found(
        run=path.name,
        method=run.config.method,
        chains=len(chains),
        loops=sum(look is not None for look in cut.values()),
        right=sum(right.values()),
        lost=sum(lost(chain, problems[chain.problem_id], right, cut) for chain in chains),
        tokens_saved=saved / sum(whole.values()),
        seconds=max(chain.done for chain in chains),
        seconds_then=max(
            chain.done if look is None else min(chain.started + look.seconds, chain.done)
            for chain in chains
            for look in [cut[chain.key]]
        ),
    )


def lost(
    chain: Chain,
    problem: Problem,
    right: dict[ChainKey, bool],
    cut: dict[ChainKey, Look | None],
) -> bool:
    look = cut[chain.key]
    return (
        right[chain.key]
        and look is not None
        and extract_answer(look.text, problem.choices)
        != extract_answer(chain.text, problem.choices)
    )


def ended(chain: Chain, piece: int) -> Look | None:
    """Where a chain would be ended, if before its end."""
    return next((look for look in looks(chain, piece) if repeats(look.text)), None)


def looks(chain: Chain, piece: int) -> Iterator[Look]:
    """The moments before a chain's end at which its text is looked at."""
    if len(chain.turns) == 1:
        segment = chain.turns[0].segments[-1]
        seconds = segment.timings.done - segment.timings.queued
        for tokens in range(piece, segment.tokens, piece):
            share = tokens / segment.tokens
            text = segment.text[: round(share * len(segment.text))]
            yield Look(text, tokens, share * seconds)
        return
    text, tokens, began = "", 0, None
    for turn in chain.turns[:-1]:
        for segment in turn.segments:
            began = segment.timings.queued if began is None else began
            tokens += segment.tokens
            text += segment.text if segment.kept else ""
        if began is not None and turn.segments:
            yield Look(text, tokens, turn.segments[-1].timings.done - began)


def written(chain: Chain) -> int:
    return sum(segment.tokens for turn in chain.turns for segment in turn.segments)


def show(found: list[Found]) -> None:
    table = Table(
        "run", "method", "chains", "ended", "right", "of them lost", "text saved, %", "last, s",
        "then, s",
    )  # fmt: skip
    for each in found:
        table.add_row(
            each.run,
            each.method,
            f"{each.chains:,}",
            f"{each.loops:,}",
            f"{each.right:,}",
            str(each.lost),
            f"{100 * each.tokens_saved:.1f}",
            f"{each.seconds:.1f}",
            f"{each.seconds_then:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
