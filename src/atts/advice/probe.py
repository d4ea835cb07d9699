"""What requests to a pair's engines take, by how many are in flight: measured in a minute or two.

Chains are played: each sends one request after the other, as those of a run do, through the same
client. The text is that of real problems, so that speculative decoding meets what it will meet.
Times are those of the event loop, so that a simulated engine can be probed in its virtual time.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import cycle, islice
from typing import NamedTuple

from atts.advice.prices import Level, Line, Prices
from atts.engines.base import (
    ChainMark,
    Engine,
    GenerateRequest,
    Metered,
    Sampling,
    ScoreRequest,
)
from atts.errors import EngineError
from atts.methods.chain import Models
from atts.types import Author

LEVELS = (1, 4, 16, 64, 256)
SHORT, LONG, LONGEST = 8, 64, 256
"""Tokens of the requests whose times make a line: of segments, and of texts in one request."""
ROUNDS, LONG_ROUNDS, MOST_ROUNDS = 3, 2, 8
DRAFTS, WRITES = 0.15, 0.35
"""Of the time that a level has, most that the draft and the target write alone; both together, and
scores, need the rest."""


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


class _Asked(NamedTuple):
    """One request, or the mean of many."""

    seconds: float
    tokens: float
    hit: float
    """Share of what was there before that was found in the cache."""


_Chain = Callable[[int, Played], Awaitable[list[_Asked]]]


class _Work:
    """Requests, and the time of this process that they took."""

    def __init__(self) -> None:
        self.requests = 0
        self.spared = 0.0
        """Seconds that passed with what is left out where time is short."""
        self._began = time.process_time()

    @property
    def seconds(self) -> float:
        """Of each request."""
        return (time.process_time() - self._began) / max(1, self.requests)


async def probe(
    models: Models,
    texts: Callable[[Author, int], Texts],
    segments: tuple[int, int],
    levels: Sequence[int] = LEVELS,
    seconds: float = 90.0,
    remote: bool = True,
    told: Callable[[str], None] = lambda _: None,
) -> Prices:
    """Measure what requests take at several numbers in flight.

    Args:
        models: a draft and a target that are open and have nothing else to do.
        texts: what the chains of a model are made of, with so many tokens to be scored.
        segments: tokens of the shortest and the longest segment that is scored: what a token takes
            is not the same for both, as few are read as fast as one.
        levels: numbers in flight, each above the last. Those that would not fit the time are left
            out.
        seconds: about the most time. Slow engines write fewer long texts, so that all levels have
            some of it; the first is measured whatever it takes.
        remote: whether this process only asks, so that its own time is the client's, and servers
            have other work with a request than to write.
        told: is told what is being measured.

    Raises:
        EngineError: a model could not serve a request.
    """
    draft, target = models["draft"].engine, models["target"].engine
    clock = asyncio.get_running_loop().time
    began = clock()
    least: list[float] = []
    found: list[Level] = []
    prefill = hits = 0.0
    own: list[float] = []
    ahead = ROUNDS * sum(segments)
    played = {author: texts(author, ahead) for author in models}
    rooms = {author: await _room(model.engine) for author, model in models.items()}
    for number, in_flight in enumerate(levels):
        left = seconds - (clock() - began)
        if number and _foreseen(levels, least) > left:
            break
        told(f"{in_flight} in flight")
        level_began, work, share = clock(), _Work(), left / (len(levels) - number)
        ours, theirs = (played[author].chains(in_flight) for author in ("draft", "target"))
        prefill = await _computed(target, theirs)
        await _computed(draft, ours)
        drafts = await _writing(draft, ours, work, share * DRAFTS, remote, rooms["draft"])
        writings = await _writing(target, theirs, work, share * WRITES, remote, rooms["target"])
        drafted, written = _line(drafts[:2]), _line(writings[:2])
        one_draft, one_target = (found[0].draft, found[0].target) if found else (drafted, written)
        scores = [
            await _scoring(target, theirs, tokens, ROUNDS * sum(segments[:place]), work)
            for place, tokens in enumerate(segments)
        ]
        own.append(work.seconds)
        # The faster one writes again, until the other is done.
        times = written.seconds(LONG) / max(drafted.seconds(LONG), 1e-9)
        one, other = await asyncio.gather(
            _together(_writer(draft, LONG, _rounds(times)), ours, work),
            _together(_writer(target, LONG, _rounds(1.0 / max(times, 1e-9))), theirs, work),
        )
        hits = scores[-1].hit
        found.append(
            Level(
                in_flight=in_flight,
                draft=drafted,
                target=written,
                score=_line(scores),
                draft_long=_long(drafts[2:], one_draft),
                target_long=_long(writings[2:], one_target),
                draft_beside=_slower(one, drafted),
                target_beside=_slower(other, written),
            )
        )
        least.append(clock() - level_began - work.spared)
    return Prices(
        levels=tuple(found),
        client_seconds=min(own) if remote else 0.0,
        prefill_token=prefill,
        cached=hits,
        draft_room=rooms["draft"],
        target_room=rooms["target"],
    )


def _foreseen(levels: Sequence[int], least: Sequence[float]) -> float:
    """Seconds of the next level, by the least that those before took: they grow as they did."""
    number, power = len(least), 0.25  # few at a time take hardly longer than one
    if number > 1 and least[-2] > 0.0:
        more = math.log(levels[number - 1] / levels[number - 2])
        power = min(1.0, math.log(max(1.0, least[-1] / least[-2])) / more)
    return least[-1] * math.pow(levels[number] / levels[number - 1], power)


def _rounds(times: float) -> int:
    return min(MOST_ROUNDS, max(1, round(times)))


def _slower(asked: _Asked, line: Line) -> float:
    alone = line.seconds(asked.tokens)
    return max(1.0, asked.seconds / alone) if alone > 0.0 else 1.0


def _line(asked: Sequence[_Asked]) -> Line:
    short, long = asked
    return Line.through((short.tokens, short.seconds), (long.tokens, long.seconds))


def _long(asked: Sequence[_Asked], alone: Line) -> Line | None:
    """Of one length alone: what a request takes besides is that of one by itself, as those who wait
    to be taken in are not many while the others are written.
    """
    if not asked:
        return None
    seconds, tokens, _ = asked[0]
    fixed = min(alone.fixed, seconds)
    return Line(fixed=fixed, token=(seconds - fixed) / max(tokens, 1.0))


async def _computed(engine: Engine, chains: Sequence[Played]) -> float:
    """Have the beginnings of all computed and kept; the seconds of a token."""
    clock = asyncio.get_running_loop().time
    began = clock()
    await asyncio.gather(*(engine.generate(_request(each.prefix, 1, 0)) for each in chains))
    return (clock() - began) / sum(len(each.prefix) for each in chains)


def _request(
    ids: list[int], tokens: int, seed: int, mark: ChainMark | None = None
) -> GenerateRequest:
    return GenerateRequest(ids, Sampling(tokens, 0.8, 1.0, seed), mark)


async def _writing(
    engine: Engine,
    chains: Sequence[Played],
    work: _Work,
    seconds: float,
    remote: bool,
    room: int | None,
) -> list[_Asked]:
    """Short and long requests, and of a server very long ones, as far as they fit its cache and the
    time.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + seconds
    asked = [await _together(_writer(engine, SHORT, ROUNDS), chains, work)]
    fits = room is None or sum(len(each.prefix) + LONGEST for each in chains) <= room
    for tokens, least in ((LONG, 1), (LONGEST, 0)) if remote and fits else ((LONG, 1),):
        # By the last, as a token of a short request seems to take longer than one of a long one.
        one_round = tokens * asked[-1].seconds / max(1.0, asked[-1].tokens)
        left = max(0.0, until - clock())
        in_time = sum(rounds * one_round <= left for rounds in range(1, LONG_ROUNDS + 1))
        if rounds := max(in_time, least):
            began = clock()
            asked.append(await _together(_writer(engine, tokens, rounds), chains, work))
            work.spared += (clock() - began) * (rounds - least) / rounds
    return asked


def _writer(engine: Engine, tokens: int, rounds: int) -> _Chain:
    """Long texts are all written after the beginning, so that no context is exceeded."""

    async def one(number: int, chain: Played) -> list[_Asked]:
        clock = asyncio.get_running_loop().time
        ids, mark, asked = list(chain.prefix), ChainMark(), []
        for turn in range(rounds):
            began = clock()
            done = await engine.generate(_request(ids, tokens, number + turn, mark))
            asked.append(
                _Asked(clock() - began, len(done.token_ids), done.cached_tokens / len(ids))
            )
            if tokens == SHORT:
                ids += done.token_ids
        return asked

    return one


async def _scoring(
    engine: Engine, chains: Sequence[Played], tokens: int, begin: int, work: _Work
) -> _Asked:
    async def one(_number: int, chain: Played) -> list[_Asked]:
        clock = asyncio.get_running_loop().time
        ids, mark, asked = list(chain.prefix), ChainMark(), []
        for turn in range(ROUNDS):
            start, cut = len(ids), begin + turn * tokens
            ids += chain.ahead[cut : cut + tokens]
            began = clock()
            done = await engine.score(ScoreRequest(ids, start, mark))
            hit = min(1.0, done.cached_tokens / max(1, start - 1))
            asked.append(_Asked(clock() - began, tokens, hit))
        return asked

    return await _together(one, chains, work)


async def _together(one: _Chain, chains: Sequence[Played], work: _Work) -> _Asked:
    """All chains at a time, each at its own pace, and of the rounds the middle one: in the first
    with so many in flight the server may have something to compile.
    """
    done = await asyncio.gather(*(one(number, chain) for number, chain in enumerate(chains)))
    rounds = [_mean(asked) for asked in zip(*done, strict=True)]
    work.requests += len(chains) * len(rounds)
    return sorted(rounds)[(len(rounds) - 1) // 2]


def _mean(asked: Sequence[_Asked]) -> _Asked:
    return _Asked(*(sum(part) / len(asked) for part in zip(*asked, strict=True)))


async def _room(engine: Engine) -> int | None:
    if not isinstance(engine, Metered):
        return None
    try:
        load = await engine.meter()
    except EngineError:
        return None
    return load.room if load else None
