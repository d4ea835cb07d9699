"""What several segments in one request save, from the decisions of a recorded run.

    python benchmarks/fewer.py RUN... [--at-once 1,2,4,6,8]

A recorded run says after which segments the target took over. What a chain comes to does not
depend on how many segments a request brings (docs/methods/atts.md), so the same decisions in
stretches of n tell how many requests there would have been, and, from above, how many tokens the
draft would have written: with those of the segments behind a take-over, or behind the end of a
chain, which are taken to be as long as the run's segments on average, though the draft may have
come to its end before.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from atts.store.run_directory import read_run
from atts.types import Chain


class Requests(NamedTuple):
    """Of a chain, on average."""

    draft: float
    score: float
    target: float
    drafted: float
    """Tokens that the draft writes, at most."""
    kept: float
    """Tokens that the chain has in the end, of both models."""

    @property
    def per_100_kept(self) -> float:
        return 100 * (self.draft + self.score + self.target) / self.kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--at-once", default="1,2,4,6,8")
    options = parser.parse_args()
    console = Console(width=120)
    for path in options.runs:
        run = read_run(path)
        chains = [chain for chain in run.chains if chain.is_finished and any(chain.decisions)]
        if not chains:
            continue
        table = Table(title=f"{path.name}: {len(chains)} chains")
        names = ("at once", "draft", "score", "target", "a 100 kept", "drafted", "kept")
        for name in names:
            table.add_column(name, justify="right")
        for at_once in map(int, options.at_once.split(",")):
            each = requests_of(chains, at_once)
            table.add_row(
                str(at_once),
                *(f"{value:.1f}" for value in each[:3]),
                f"{each.per_100_kept:.1f}",
                *(f"{value:.0f}" for value in each[3:]),
            )
        console.print(table)


def requests_of(chains: Sequence[Chain], at_once: int) -> Requests:
    """What the chains' decisions would have taken with so many segments in a request."""
    lengths = [
        segment.tokens
        for chain in chains
        for segment in chain.segments
        if segment.author == "draft"
    ]
    usual = mean(lengths)
    requests = drafted = target = 0.0
    for chain in chains:
        left = 0  # of the stretch
        for turn in chain.turns:
            written = turn.written("draft")
            if not written:
                continue
            if not left:
                requests += 1
                left = at_once
            left -= 1
            drafted += written
            over = turn.take_over
            target += bool(over)
            if over or turn is chain.turns[-1]:
                drafted += left * usual
                left = 0
    count = len(chains)
    kept = sum(chain.kept("draft") + chain.kept("target") for chain in chains)
    return Requests(
        requests / count, requests / count, target / count, drafted / count, kept / count
    )


if __name__ == "__main__":
    main()
