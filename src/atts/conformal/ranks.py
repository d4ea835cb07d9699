"""Scores in order: what sequential ranks and the drift alarm count against."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sortedcontainers import SortedList


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

    >>> scores = SortedScores([0.5, 0.1])
    >>> scores.add(0.5)
    Counts(above=0, equal=1, total=2)
    >>> scores.counts(0.3)
    Counts(above=2, equal=0, total=3)
    >>> list(scores)
    [0.1, 0.5, 0.5]
    """

    def __init__(self, scores: Iterable[float] = ()) -> None:
        self._scores = SortedList(scores)

    def __len__(self) -> int:
        return len(self._scores)

    def __iter__(self) -> Iterator[float]:
        return iter(self._scores)

    def counts(self, score: float) -> Counts:
        """How many scores are larger than this one, tie with it, and are there at all."""
        total, not_above = len(self._scores), self._scores.bisect_right(score)
        # Ties are rare among means of many log-probabilities: look before counting them.
        tied = not_above and self._scores[not_above - 1] == score
        below = self._scores.bisect_left(score) if tied else not_above
        return Counts(total - not_above, not_above - below, total)

    def add(self, score: float) -> Counts:
        """Let one more score join; how it stands among those before it."""
        counts = self.counts(score)
        self._scores.add(score)
        return counts
