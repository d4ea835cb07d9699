"""Smoothed conformal p-values of scores: ranks, and which turns' scores are compared."""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sortedcontainers import SortedList

from atts.errors import CalibrationError


def p_value(sorted_scores: NDArray[np.float64], score: float, u: float) -> float:
    """The smoothed conformal p-value of a score against calibration scores.

    With calibration scores c_1..c_N and U uniform on [0, 1),

        p = (#{c_i > s} + U (1 + #{c_i = s})) / (N + 1)

    which is exactly uniform on [0, 1) when s and the c_i are exchangeable (Vovk, Gammerman and
    Shafer, *Algorithmic Learning in a Random World*, 2005, chapter 2). Small = unusually
    nonconforming. Without calibration scores it is U itself.

    Args:
        sorted_scores: shape (N,), ascending, in nats per token.
        score: the score to judge, in nats per token.
        u: the tie-breaker, in [0, 1).

    Raises:
        CalibrationError: the score is not a finite number.
        ValueError: ``u`` lies outside [0, 1).

    >>> p_value(np.array([1.0, 2.0, 2.0, 3.0]), 2.0, u=0.5)
    0.5
    >>> p_value(np.array([1.0, 2.0, 2.0, 3.0]), 9.0, u=0.5)
    0.1
    """
    require_finite(score)
    count = len(sorted_scores)
    first_equal = int(np.searchsorted(sorted_scores, score, side="left"))
    first_above = int(np.searchsorted(sorted_scores, score, side="right"))
    return smoothed_rank(
        above=count - first_above, equal=first_above - first_equal, count=count, u=u
    )


def smoothed_rank(above: int, equal: int, count: int, u: float) -> float:
    """The p-value from its counts: of ``count`` scores ``above`` are larger, ``equal`` tie.

    Raises:
        ValueError: ``u`` lies outside [0, 1).
    """
    if not 0.0 <= u < 1.0:
        raise ValueError(f"the tie-breaker u must lie in [0, 1), got {u}")
    return (above + u * (1 + equal)) / (count + 1)


def two_draws(u: float) -> tuple[float, float]:
    """Two independent uniform draws from one: its first 20 binary digits, and the others.

    Exact for a draw of 53 bits, which is what tie-breakers are.

    >>> two_draws(0.5 + 2.0**-21)
    (0.5, 0.5)
    """
    rest, whole = math.modf(u * 2.0**20)
    return whole / 2.0**20, rest


def require_finite(score: float) -> None:
    """Refuse a score that cannot be ranked.

    A missing log-probability must not pass for a very good or a very bad one.

    Raises:
        CalibrationError: the score is NaN or infinite.
    """
    if not math.isfinite(score):
        raise CalibrationError(
            f"a segment's score is {score}, not a finite number: the target's engine returned "
            "missing or impossible log-probabilities for it; check that engine"
        )


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

    def __init__(self, scores: Iterable[float] = (), most: int | None = None) -> None:
        """With ``most`` it holds no more than so many, and lets the oldest go."""
        self._scores = SortedList()
        self._most = most
        self._arrived: deque[float] = deque()  # stays empty where nothing is let go
        if most is None:
            self._scores.update(scores)
        else:
            for score in scores:
                self.add(score)

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
        if self._most is not None:
            self._arrived.append(score)
            if len(self._arrived) > self._most:
                self._scores.remove(self._arrived.popleft())
        return counts

    def arrived(self) -> list[float]:
        """All scores, in an order in which they can be added again to the same effect."""
        return list(self._scores if self._most is None else self._arrived)


FEWEST = 100
"""How many calibration scores a group of turns should have at least.

A p-value is uniform for any number N of scores, but the rate that one calibration realises has
a standard deviation of about sqrt(rate (1 - rate) / (N + 2)), 0.05 for 100 scores at 0.4, and more
where scores are clustered.
"""


class TurnGroups:
    """Runs of turns, each with enough calibration scores.

    Scores shift with the turn, so each turn is its own group as long as it has ``fewest`` scores;
    later turns, which few chains reach, are merged with their neighbours. Turn 0, which continues
    nothing, stays alone however few its scores are, and the turns after it, if too few for any
    group, are one. The last group is open: it holds all turns after it, seen in the calibration
    or not.

    >>> TurnGroups([300, 200, 90, 40, 10], fewest=100).first_turns
    [0, 1, 2]
    >>> TurnGroups([300, 200, 90, 8, 1], fewest=100).first_turns
    [0, 1]
    >>> TurnGroups([60, 60, 20], fewest=100).first_turns
    [0, 1]
    """

    def __init__(
        self, counts: Sequence[int], fewest: int = FEWEST, turn_0_alone: bool = True
    ) -> None:
        """``counts`` holds the number of scores of each turn, from turn 0."""
        # A turn 0 without any score has nothing to be compared with by itself.
        alone = 1 if turn_0_alone and counts and counts[0] else 0
        firsts: list[int] = []
        first, total = alone, 0
        for turn, count in enumerate(counts[alone:], start=alone):
            total += count
            if total >= fewest:
                firsts.append(first)
                first, total = turn + 1, 0
        # What is left is too little for a group of its own, and joins the last one but turn 0.
        if total and not firsts:
            firsts = [alone]
        self.first_turns = [0, *firsts] if alone else firsts or [0]

    def of(self, turn: int) -> int:
        """The first turn of the group that a turn belongs to."""
        return self.first_turns[bisect_right(self.first_turns, turn) - 1]
