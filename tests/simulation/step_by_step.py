"""A server that takes one step at a time: slow, plain, and what the fast one must agree with."""

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from atts.simulation.hardware import Costs


class Sent(NamedTuple):
    at: float
    length: int
    write: int
    """0: score the second half."""


@dataclass
class _Running:
    number: int
    context: int
    left: int


def finish_times(sent: list[Sent], costs: Costs, chunk: int, mixed: bool) -> list[float]:
    """When each request is done, on a server with room for all of them."""
    done = [0.0] * len(sent)
    coming = deque(sorted(range(len(sent)), key=lambda number: sent[number].at))
    waiting: deque[list[int]] = deque()  # [number, tokens computed]
    running: list[_Running] = []
    now = 0.0
    while coming or waiting or running:
        if not waiting and not running:
            now = max(now, sent[coming[0]].at)
        while coming and sent[coming[0]].at <= now:
            waiting.append([coming.popleft(), 0])
        batch: list[tuple[list[int], int]] = []
        budget = chunk
        for entry in waiting:
            if budget > 0:
                new = min(budget, sent[entry[0]].length - entry[1])
                batch.append((entry, new))
                budget -= new
        writing = running if mixed or not batch else []
        arithmetic = read = 0.0
        for (number, before), new in batch:
            length, write = sent[number].length, sent[number].write
            heads = range(before, before + new)
            asked = length - 1 if write else length // 2 - 1
            arithmetic += new * costs.token + costs.logits * sum(at >= asked for at in heads)
            arithmetic += costs.pair * new * (before + new / 2)
            read += before
        for each in writing:
            arithmetic += costs.token + costs.logits
            read += each.context
        rows = len(batch) + len(writing)
        weights = costs.reading(sum(new for _, new in batch) + len(writing))
        now += costs.step + rows * costs.row + max(weights, arithmetic) + read * costs.context
        for each in writing:
            each.context += 1
            each.left -= 1
            if each.left == 0:
                done[each.number] = now
        running = [each for each in running if each.left]
        for entry, new in batch:
            entry[1] += new
            number = entry[0]
            if entry[1] == sent[number].length:
                waiting.popleft()
                if sent[number].write > 1:
                    left = sent[number].write - 1
                    running.append(_Running(number, sent[number].length, left))
                else:
                    done[number] = now
    return [each + costs.request for each in done]
