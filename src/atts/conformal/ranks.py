"""Scores in order: what sequential ranks and the drift alarm count against."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

_BLOCK = 512
"""Most scores in a block: 4 KiB, which moves in less time than a comparison in Python takes."""


class Counts(NamedTuple):
    """How a score stands among others."""

    above: int
    """How many are larger."""
    equal: int
    """How many tie with it."""
    total: int
    """How many there are."""


class SortedScores:
    """A sorted multiset of floats that counts ranks and grows one by one.

    The scores lie in sorted blocks of at most 512, as plain doubles; a Fenwick tree (Fenwick,
    *A new data structure for cumulative frequency tables*, 1994) counts those in the blocks
    below. A rank and an insertion cost O(log n) steps, and the shift of a part of one block. A
    block that overflows is split in two and the tree built anew, which is once in 256 insertions
    at most, so n / 512 / 256 steps an insertion: under 8 for a million scores.

    ``sortedcontainers.SortedList`` would do the same. With a million scores it took two to three
    times as long, more than a decision may cost: its elements are objects scattered over memory.

    >>> scores = SortedScores([0.5, 0.1])
    >>> scores.add(0.5)
    Counts(above=0, equal=1, total=2)
    >>> scores.counts(0.3)
    Counts(above=2, equal=0, total=3)
    >>> list(scores)
    [0.1, 0.5, 0.5]
    """

    def __init__(self, scores: Iterable[float] = ()) -> None:
        ordered = array("d", sorted(scores))
        half = _BLOCK // 2
        self._blocks = [ordered[i : i + half] for i in range(0, len(ordered), half)]
        self._count = len(ordered)
        self._build()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[float]:
        for block in self._blocks:
            yield from block

    def counts(self, score: float) -> Counts:
        """How many scores are larger than this one, tie with it, and are there at all."""
        if not self._blocks:
            return Counts(0, 0, 0)
        return self._counts_at(score, *self._place(score))

    def add(self, score: float) -> Counts:
        """Let one more score join; how it stands among those before it."""
        if not self._blocks:
            self._blocks, self._count = [array("d", [score])], 1
            self._build()
            return Counts(0, 0, 0)
        block, offset = self._place(score)
        counts = self._counts_at(score, block, offset)
        self._count += 1
        scores = self._blocks[block]
        scores.insert(offset, score)
        self._largest[block] = scores[-1]
        if len(scores) > _BLOCK:
            half = len(scores) // 2
            self._blocks[block : block + 1] = [scores[:half], scores[half:]]
            self._build()
            return counts
        node, tree = block + 1, self._tree
        while node < len(tree):
            tree[node] += 1
            node += node & -node
        return counts

    def _place(self, score: float) -> tuple[int, int]:
        """The block that a score belongs to, and its position there, after its ties."""
        block = bisect_right(self._largest, score)
        if block == len(self._blocks):
            return block - 1, len(self._blocks[-1])
        return block, bisect_right(self._blocks[block], score)

    def _counts_at(self, score: float, block: int, offset: int) -> Counts:
        first_above = self._below(block) + offset
        # Ties are rare among means of many log-probabilities: look before counting them.
        before = None
        if offset:
            before = self._blocks[block][offset - 1]
        elif block:
            before = self._largest[block - 1]
        equal = 0
        if before == score:
            block = bisect_left(self._largest, score)
            equal = first_above - self._below(block) - bisect_left(self._blocks[block], score)
        return Counts(self._count - first_above, equal, self._count)

    def _below(self, block: int) -> int:
        """How many scores the blocks before this one hold."""
        total, tree = 0, self._tree
        while block:
            total += tree[block]
            block &= block - 1
        return total

    def _build(self) -> None:
        self._largest = array("d", [block[-1] for block in self._blocks])
        totals = list(accumulate(map(len, self._blocks), initial=0))
        # Node k of a Fenwick tree counts the blocks from k - (lowest bit of k) on, up to k.
        self._tree = [totals[k] - totals[k & (k - 1)] for k in range(len(totals))]
