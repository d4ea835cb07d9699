"""The frontier of accuracy against cost: what no other run beats on both."""

from collections.abc import Sequence
from typing import NamedTuple


class Point(NamedTuple):
    """What a run gives, and what it costs."""

    value: float
    """Higher is better."""
    cost: float
    """Lower is better."""


def beaten_by(points: Sequence[Point]) -> list[int | None]:
    """For each point the most valuable one that beats it; None if it is on the frontier.

    A point beats another if it is worth at least as much for no more, and better in one of the two
    (Pareto dominance). Points that are the same do not beat each other.

    >>> beaten_by([Point(0.6, 0.0), Point(0.9, 50.0), Point(0.8, 70.0), Point(0.9, 90.0)])
    [None, None, 1, 1]
    """
    winners: list[int | None] = []
    for point in points:
        better = [
            index
            for index, other in enumerate(points)
            if other != point and other.value >= point.value and other.cost <= point.cost
        ]
        # Of equally valuable ones the cheapest: a point that is itself on the frontier.
        winners.append(
            min(better, key=lambda index: (-points[index].value, points[index].cost))
            if better
            else None
        )
    return winners
