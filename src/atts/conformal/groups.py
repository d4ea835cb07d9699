"""Which scores are compared with each other: those of the same turns, of the same problem."""

from bisect import bisect_right
from collections.abc import Sequence

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
