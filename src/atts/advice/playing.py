"""Chains that a probe plays: what they are made of, and whole turns of them."""

import asyncio
import math
from collections.abc import Sequence
from itertools import chain as chained
from itertools import cycle, islice
from statistics import fmean
from typing import NamedTuple

import numpy as np

from atts.advice.model import Circle, circle_seconds
from atts.advice.prices import Prices
from atts.engines.base import ChainMark, GenerateRequest, Sampling, ScoreRequest
from atts.methods.chain import Models

TURNS, MOST_TURNS, ALL_TURNS = 5, 16, 64
"""Whole turns that a chain plays, and of few chains about so many together."""


class Played(NamedTuple):
    """What a chain of the probe is made of."""

    prefix: list[int]
    ahead: Sequence[int]
    """What its scored segments are cut from."""


class Texts:
    """Different beginnings for every chain of a probe, in one model's token ids."""

    def __init__(self, ids: Sequence[int], length: int, ahead: int) -> None:
        """``ids``: of real text, as long as may be; ``length``: tokens of a beginning, and
        ``ahead``: of what follows it.
        """
        self._ids = list(ids)
        self._digits = sorted({*ids})
        self._length, self._ahead = length, ahead
        self._made = 0

    def chains(self, count: int) -> list[Played]:
        """So many, of which none was given before."""
        return [self._next() for _ in range(count)]

    def _next(self) -> Played:
        self._made += 1
        start = (self._made * 7919) % len(self._ids)
        around = list(islice(cycle(self._ids), start, start + self._length + self._ahead))
        # The number of the chain in front: what the text repeats must not be found in the cache.
        base, number = len(self._digits), self._made
        digits = [self._digits[number // base**place % base] for place in range(4)]
        return Played(digits + around[: self._length], around[self._length :])


class _Turn(NamedTuple):
    """One, or the mean of many."""

    seconds: float
    drafted: float
    """Tokens, as those written."""
    scored: float
    """Whether it was, as the next."""
    taken: float
    written: float


def request(
    ids: list[int], tokens: int, seed: int, mark: ChainMark | None = None
) -> GenerateRequest:
    """For so many tokens, as chains are written."""
    return GenerateRequest(ids, Sampling(tokens, 0.8, 1.0, seed), mark)


def of_a_turn(circle: Circle) -> int:
    """Tokens of text that a turn needs at most."""
    return math.ceil(max(circle.draft_tokens, circle.score_tokens) + circle.take_over_tokens)


async def turns_over_model(
    models: Models,
    chains: Sequence[tuple[Played, Played]],
    circle: Circle,
    begin: int,
    prices: Prices,
    seconds: float,
) -> float:
    """Whole turns of all chains, take-overs being drawn, over what the model says of them.

    A turn is timed if all chains are there: each begins at any time of the first turn. All go on
    from the beginning, so that no cache is filled, and the draft from as much of another text as
    the target has written in the turn before.

    Args:
        models: a draft and a target.
        chains: beginnings, which both have in their caches.
        circle: of the turns.
        begin: where in what is ahead of a chain the text begins that no turn has scored.
        prices: what the model knows.
        seconds: the most time. Where it is too short, or a cache too small, none is played.

    Returns:
        1 where none was played.

    Raises:
        EngineError: a model could not serve a request.
    """
    draft, target = models["draft"].engine, models["target"].engine
    clock, n = asyncio.get_running_loop().time, len(chains)
    length, tokens = max(1, round(circle.draft_tokens)), max(1, round(circle.score_tokens))
    most = max(1, round(circle.take_over_tokens))
    expected = circle_seconds(prices, circle, n).seconds
    turns = min(MOST_TURNS, max(TURNS, ALL_TURNS // n), int(seconds / expected) - 1)
    need = sum(len(theirs.prefix) + of_a_turn(circle) for _, theirs in chains)
    rooms = (prices.draft_room, prices.target_room)
    if turns < TURNS or any(room is not None and need > room for room in rooms):
        return 1.0

    async def one(number: int, ours: Played, theirs: Played) -> list[_Turn]:
        at_draft, at_target, random = ChainMark(), ChainMark(), np.random.default_rng(number)
        others: list[int] = []
        played = []
        await asyncio.sleep(random.uniform(0.0, expected))
        for turn in range(turns):
            began, seed, cut = clock(), number + turn, begin + turn * of_a_turn(circle)
            ids, read = [*ours.prefix, *others], theirs.prefix
            drafted = len((await draft.generate(request(ids, length, seed, at_draft))).token_ids)
            if scored := random.random() < circle.scores:
                read = [*read, *theirs.ahead[cut : cut + tokens]]
                await target.score(ScoreRequest(read, len(theirs.prefix), at_target))
            written = 0
            if taken := random.random() < circle.take_overs:
                done = await target.generate(request(read, most, seed, at_target))
                written = len(done.token_ids)
            others = [*ours.ahead[cut : cut + written]]
            played.append(_Turn(clock() - began, drafted, scored, taken, written))
        return played[1:-1]

    every = await asyncio.gather(*(one(number, *each) for number, each in enumerate(chains)))
    mean = _Turn(*(fmean(each) for each in zip(*chained.from_iterable(every), strict=True)))
    did = Circle(
        draft_tokens=mean.drafted,
        scores=mean.scored,
        score_tokens=tokens,
        take_overs=mean.taken,
        take_over_tokens=mean.written / mean.taken if mean.taken else 0.0,
    )
    return mean.seconds / circle_seconds(prices, did, n).seconds
