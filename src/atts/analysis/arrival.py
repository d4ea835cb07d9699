"""The order in which scores arrive: as recorded, or as a pool of chains would bring them."""

import heapq
import random
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from atts.analysis.recording import RecordedChain, Recording, Step

JITTER = 0.2
"""Simulated steps take between 1 - JITTER and 1 + JITTER of their recorded work."""


class Arrival(NamedTuple):
    chain: RecordedChain
    step: Step


def recorded_order(recording: Recording) -> list[Arrival]:
    """As the scores arrived.

    A trace of the reference does not say; it did one problem after the other, the chains of a
    problem side by side.
    """
    arrivals = [Arrival(chain, step) for chain in recording.chains for step in chain.steps]
    if all(arrival.step.order is not None for arrival in arrivals):
        return sorted(arrivals, key=lambda arrival: arrival.step.order or 0)
    return [
        arrival
        for _, chains in groupby(recording.chains, key=lambda chain: chain.problem_id)
        for arrival in _pool(iter(chains), in_flight=2**20, rng=None)
    ]


def simulated_order(recording: Recording, seed: int, in_flight: int) -> list[Arrival]:
    """As a pool of ``in_flight`` chains over all problems brings them, which is how ``atts`` runs.

    Chains start in their recorded order, each step takes its recorded work times a random
    factor, and a chain that ends makes room for the next.
    """
    return list(_pool(iter(recording.chains), in_flight, random.Random(seed)))  # noqa: S311


def _pool(
    waiting: Iterator[RecordedChain], in_flight: int, rng: random.Random | None
) -> Iterator[Arrival]:
    # The second entry keeps ties in the order in which chains started.
    pending: list[tuple[float, int, RecordedChain, int]] = []
    started = 0

    def duration(step: Step) -> float:
        return step.work * (rng.uniform(1.0 - JITTER, 1.0 + JITTER) if rng else 1.0)

    def start(now: float) -> None:
        nonlocal started
        chain = next((chain for chain in waiting if chain.steps), None)
        if chain:
            started += 1
            heapq.heappush(pending, (now + duration(chain.steps[0]), started, chain, 0))

    for _ in range(in_flight):
        before = len(pending)
        start(0.0)
        if len(pending) == before:
            break
    while pending:
        now, number, chain, index = heapq.heappop(pending)
        yield Arrival(chain, chain.steps[index])
        if index + 1 < len(chain.steps):
            done = now + duration(chain.steps[index + 1])
            heapq.heappush(pending, (done, number, chain, index + 1))
        else:
            start(now)
