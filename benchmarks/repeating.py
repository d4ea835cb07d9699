"""What stop.repeating costs and saves on recorded runs: right answers lost, text and time saved.

    python benchmarks/repeating.py RUN... [--piece 500] [--half 1] [--json]

A chain that decides in turns is looked at after each turn, as in a run. Of a chain that is written
in one request the text is cut into pieces of so many tokens and looked at after each, which is
what it would take to end such a chain: today the loop is only found when all is written. A right
answer is lost if the chain is ended before it stands there. Time is when the last chain is done,
every chain begun when it was, and ended where its loop is found.

A loop by another measure, beside it: a chain without an answer whose last 3,000 characters zlib
packs into less than a tenth. ``--half`` looks at every second problem alone, so that what is chosen
on one half can be shown on the other.
"""

import argparse
import json
import zlib
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

TAIL = 3_000
PACKED = 0.1


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
    ended: int
    """Chains that would have been ended early."""
    loops: int
    """Chains that are loops by how well their ends are packed."""
    loops_ended: int
    """Of those, the ones that are ended."""
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
    parser.add_argument("--half", type=int, choices=(0, 1), help="of the problems; without it, all")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    with Grader(cache=VerdictCache()) as grader:
        found = [measure(path, arguments, grader) for path in arguments.runs]
    if arguments.json:
        print(json.dumps([each._asdict() for each in found], indent=1))
    else:
        show(found)


def measure(path: Path, arguments: argparse.Namespace, grader: Grader) -> Found:
    run = read_run(path)
    ordered = sorted(run.problems, key=lambda problem: problem.id)
    chosen = ordered if arguments.half is None else ordered[arguments.half :: 2]
    problems = {problem.id: problem for problem in chosen}
    chains = sorted(
        (chain for chain in run.chains if chain.problem_id in problems), key=lambda chain: chain.key
    )
    graded = grade_chains(chosen, chains, grader).grades
    numbers = {name: iter(grades) for name, grades in graded.items()}
    right = {chain.key: next(numbers[chain.problem_id]).correct for chain in chains}
    cut = {chain.key: ended(chain, arguments.piece) for chain in chains}
    whole = {chain.key: written(chain) for chain in chains}
    saved = sum(whole[key] - look.tokens for key, look in cut.items() if look)
    return Found(
        run=path.name,
        method=run.config.method,
        chains=len(chains),
        ended=sum(look is not None for look in cut.values()),
        loops=sum(map(is_loop, chains)),
        loops_ended=sum(is_loop(chain) and cut[chain.key] is not None for chain in chains),
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


def is_loop(chain: Chain) -> bool:
    """Whether its end packs as only repetition does; what has an answer is none."""
    tail = chain.text[-TAIL:].encode()
    return chain.answer is None and len(tail) >= TAIL and len(zlib.compress(tail)) < PACKED * TAIL


def written(chain: Chain) -> int:
    return sum(segment.tokens for turn in chain.turns for segment in turn.segments)


def show(found: list[Found]) -> None:
    names = ("run", "method", "chains", "ended", "loops", "of them ended", "right", "of them lost")
    table = Table(*names, "text saved, %", "last, s", "then, s")
    for each in found:
        table.add_row(
            each.run,
            each.method,
            f"{each.chains:,}",
            f"{each.ended:,}",
            f"{each.loops:,}",
            f"{each.loops_ended:,}",
            f"{each.right:,}",
            str(each.lost),
            f"{100 * each.tokens_saved:.1f}",
            f"{each.seconds:.1f}",
            f"{each.seconds_then:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
