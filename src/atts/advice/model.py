"""How long chains take, from what requests cost: arithmetic alone.

A chain of ATTS goes round a circle: the draft writes, the target scores, and perhaps writes. With n
chains in flight each station has as many requests as the time spent there is a share of the circle,
and is the slower the more it has. The time of a circle is the fixed point of that (Little's law:
requests at a station = n x seconds there / seconds of the circle). What a station takes with so
many requests is measured (``atts.advice.probe``), not derived.
"""

import heapq
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np

from atts.advice.prices import Prices, between
from atts.analysis.tokens import Tokens
from atts.types import Author, Chain

Station = Literal["drafting", "scoring", "writing", "the client"]
ROUNDS, DAMPING = 200, 0.3
"""Of the search for the fixed point."""
EXACT, BEND = 8, 1.3
"""Numbers in flight are looked at one by one up to the first, then in steps of the second."""
MOST_SCORING = 0.95
"""Of the target's time, beyond which a fixed point is looked for with less of it."""


class Circle(NamedTuple):
    """What the chains of a setting do in a circle, in the mean: a request of the draft, and what
    follows from it.
    """

    draft_tokens: float
    scores: float
    """Requests to score."""
    score_tokens: float
    """Of each of them."""
    take_overs: float
    take_over_tokens: float
    """Of each of them."""
    overlaps: bool = False
    """The draft writes ahead while the target scores."""

    @classmethod
    def of(cls, tokens: Tokens, overlaps: bool) -> "Circle | None":
        """That of recorded chains; None where they have none, as one model writes alone."""
        if not tokens.draft_requests or not (tokens.target_requests or tokens.score_requests):
            return None
        return cls(
            draft_tokens=tokens.draft_written / tokens.draft_requests,
            scores=tokens.score_requests / tokens.draft_requests,
            score_tokens=tokens.target_scored / max(1, tokens.score_requests),
            take_overs=tokens.target_requests / tokens.draft_requests,
            take_over_tokens=tokens.target_written / max(1, tokens.target_requests),
            overlaps=overlaps,
        )

    @property
    def requests(self) -> float:
        """Of all kinds."""
        return 1.0 + self.scores + self.take_overs


class Work(NamedTuple):
    """What one chain has of everything."""

    circles: float
    """Requests of the draft; where one model writes alone, its tokens."""
    drafted: float = 0.0
    """Tokens, as those that follow."""
    scored: float = 0.0
    written: float = 0.0

    @classmethod
    def of(cls, chain: Chain) -> "Work":
        """That of a recorded chain."""
        drafted, written = chain.written("draft"), chain.written("target")
        requests = sum(each.author == "draft" and not each.with_former for each in chain.segments)
        if not (drafted and (written or chain.scored_tokens)):
            return cls(float(drafted or written))
        return cls(float(requests), float(drafted), float(chain.scored_tokens), float(written))


class Limits(NamedTuple):
    """Most requests in flight at each model."""

    draft: float = math.inf
    target: float = math.inf


NO_LIMITS = Limits()


class Pace(NamedTuple):
    """How fast a chain goes with so many in flight."""

    seconds: float
    """Of a unit: a circle, or a token where one model writes alone."""
    fixed: float
    """Of a chain, besides."""
    limited_by: Station
    units: Callable[[Work], float]
    """Of a chain: one that is taken over more often than others has the longer circles."""


def _circles(work: Work) -> float:
    return work.circles


def pace(
    prices: Prices, circle: Circle | None, limits: Limits = NO_LIMITS, author: Author = "target"
) -> Callable[[int], Pace]:
    """How fast chains go, by their number in flight.

    Args:
        prices: of the servers.
        circle: of the chains; None: ``author`` writes each in one request.
        limits: most requests at each model.
        author: who writes alone.
    """

    @cache
    def found(n: int) -> Pace:
        if circle:
            turn = circle_seconds(prices, circle, n, limits)
            return Pace(turn.seconds, 0.0, turn.limited_by, partial(_weighed, circle, turn))
        limit = limits.draft if author == "draft" else limits.target
        level = prices.at(min(n, limit))
        lines = {
            "draft": level.draft_long or level.draft,
            "target": level.target_long or level.target,
        }
        line = lines[author]
        queued = max(1.0, n / limit)
        station: Station = "drafting" if author == "draft" else "writing"
        return Pace(line.token * queued, line.fixed * queued, station, _circles)

    return found


def _weighed(circle: Circle, turn: "Turn", work: Work) -> float:
    """A chain in mean circles, by where their time passes."""
    shares = turn.shares
    means = (
        (work.drafted, circle.draft_tokens, shares["drafting"]),
        (work.scored, circle.scores * circle.score_tokens, shares["scoring"]),
        (work.written, circle.take_overs * circle.take_over_tokens, shares["writing"]),
    )
    told = sum(seconds * own / mean for own, mean, seconds in means if mean)
    plain = turn.seconds - sum(seconds for _, mean, seconds in means if mean)
    return (told + plain * work.circles) / turn.seconds


class Turn(NamedTuple):
    """The seconds of a circle, and at which station they pass."""

    seconds: float
    shares: dict[Station, float]

    @property
    def limited_by(self) -> Station:
        """Where most of the time passes."""
        return max(self.shares, key=lambda station: self.shares[station])


def circle_seconds(prices: Prices, circle: Circle, n: float, limits: Limits = NO_LIMITS) -> Turn:
    """How long a circle takes with n chains in flight.

    A request meets the other n - 1 chains as they spend their time (mean value analysis, in the
    approximation of Bard and Schweitzer), and takes what it took when as many were measured. Scores
    go before tokens that are being written, as a server computes prompts first: where they take a
    share u of its time, writing takes 1 / (1 - u) times as long.
    """
    alone = prices.levels[0]
    drafting = alone.draft.seconds(circle.draft_tokens)
    scoring = circle.scores * alone.score.seconds(circle.score_tokens)
    writing = circle.take_overs * alone.target.seconds(circle.take_over_tokens)
    ahead = 0.0  # drafting that passes while the target scores
    total = drafting + scoring + writing
    for _ in range(ROUNDS):
        others = (n - 1.0) / total
        at_draft = 1.0 + others * (drafting + ahead)
        at_score, at_write = 1.0 + others * scoring, 1.0 + others * writing
        at_target = at_score + at_write - 1.0
        of_draft = prices.at(min(at_draft, limits.draft))
        of_score = prices.at(min(at_score, limits.target))
        of_write = prices.at(min(at_write, limits.target))
        draft_slower = 1.0 + (of_draft.draft_beside - 1.0) * _busy(at_target - 1.0)
        target_slower = 1.0 + (of_write.target_beside - 1.0) * _busy(at_draft - 1.0)
        one_draft = of_draft.draft.seconds(circle.draft_tokens) * draft_slower
        one_draft *= max(1.0, at_draft / limits.draft)
        one_score = of_score.score.seconds(circle.score_tokens) * target_slower
        one_write = of_write.target.seconds(circle.take_over_tokens) * target_slower
        # Those that are scored at a time share the server's time, but for the requests' own.
        served = max(0.0, one_score - alone.target.fixed)
        used = others * circle.scores * served / at_score
        queued = max(1.0, at_target / limits.target)
        new_scoring = circle.scores * one_score * queued
        new_writing = circle.take_overs * one_write * queued / (1.0 - min(used, MOST_SCORING))
        new_drafting, new_ahead = one_draft, 0.0
        if circle.overlaps:  # what stays was written while the score came
            new_ahead = min(one_draft, new_scoring)
            new_drafting -= max(0.0, 1.0 - circle.take_overs) * new_ahead
        least = n * circle.requests * prices.client_seconds
        drafting += DAMPING * (new_drafting - drafting)
        scoring += DAMPING * (new_scoring - scoring)
        writing += DAMPING * (new_writing - writing)
        ahead += DAMPING * (new_ahead - ahead)
        total += DAMPING * (max(drafting + scoring + writing, least) - total)
    shares: dict[Station, float] = {
        "drafting": drafting,
        "scoring": scoring,
        "writing": writing,
        "the client": max(0.0, total - drafting - scoring - writing),
    }
    return Turn(total, shares)


def _busy(others: float) -> float:
    """The chance that a model has work, where so many requests are there in the mean."""
    return 1.0 - math.exp(-others)


def curve(speed: Callable[[int], Pace]) -> Callable[[int], Pace]:
    """The same, looked at where it bends and interpolated by powers between: for many numbers."""

    @cache
    def found(n: int) -> Pace:
        if n <= EXACT:
            return speed(n)
        step = math.floor(math.log(n / EXACT) / math.log(BEND))
        low, high = (max(EXACT, round(EXACT * BEND**each)) for each in (step, step + 1))
        if n in (low, high):
            return speed(n)
        below, above = speed(low), speed(high)
        share = math.log(n / low) / math.log(high / low)
        seconds = between(below.seconds, above.seconds, share)
        fixed = below.fixed + share * (above.fixed - below.fixed)
        return (below if share < 0.5 else above)._replace(seconds=seconds, fixed=fixed)

    return found


class Course(NamedTuple):
    """How a set of chains goes."""

    seconds: float
    """To the end of the last."""
    chain_seconds: float
    """Of a chain, in the mean."""


def course(
    units: Sequence[float],
    in_flight: int,
    unit_seconds: Callable[[int], float],
    fixed_seconds: float = 0.0,
) -> Course:
    """Chains of so many units each, ``in_flight`` at a time, in this order.

    While k are in flight a unit of each takes ``unit_seconds(k)``, so that the last ones, which are
    few, go fast. ``fixed_seconds`` are what each chain takes besides.

    >>> course([2, 4, 2], 2, lambda k: float(k))
    Course(seconds=8.0, chain_seconds=5.333333333333333)
    """
    speed = cache(unit_seconds)
    waiting = iter(units)
    # (units at which it ends, when it began)
    open_chains = [(first, 0.0) for first in islice(waiting, in_flight)]
    now = done = spent = 0.0
    ended = 0
    heapq.heapify(open_chains)
    while open_chains:
        end, began = heapq.heappop(open_chains)
        now += (end - done) * speed(len(open_chains) + 1)
        done, ended = end, ended + 1
        spent += now - began + fixed_seconds
        if (another := next(waiting, None)) is not None:
            heapq.heappush(open_chains, (done + another, now))
    waves = max(1.0, len(units) / max(1, min(in_flight, len(units))))
    return Course(now + waves * fixed_seconds, spent / max(1, ended))


def course_of(works: Sequence[Work], in_flight: int, speed: Callable[[int], Pace]) -> Course:
    """How chains go whose work is known, in this order.

    Args:
        works: of each chain.
        in_flight: most of them at a time.
        speed: see ``pace``.
    """
    at = speed(min(in_flight, len(works)))
    units = [at.units(work) for work in works]
    return course(units, in_flight, lambda n: speed(n).seconds, at.fixed)


def resampled(values: Sequence[Sequence[float]], chains: int, seed: int) -> list[float]:
    """So many chains like those of a pilot: of problems drawn with replacement, theirs.

    Args:
        values: by problem, its chains' figures.
        chains: how many.
        seed: of the draws.
    """
    random = np.random.default_rng(seed)
    problems = [values[place] for place in random.integers(len(values), size=len(values))]
    pool = [value for problem in problems for value in problem]
    return [pool[place] for place in random.integers(len(pool), size=chains)]


def relative_cost(
    draft_tokens: float, target_tokens: float, scored_tokens: float, d: float, s: float
) -> float:
    """What a chain costs in tokens that the target writes, where a token costs d that the draft
    writes, and s that the target scores.

    >>> round(relative_cost(587, 231, 587, 0.15, 0.05), 1)
    348.4
    """
    return target_tokens + d * draft_tokens + s * scored_tokens
