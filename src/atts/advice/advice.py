"""What follows of what was measured: predictions, what limits, and what to take."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from atts.advice.model import (
    Limits,
    Pace,
    Work,
    course,
    course_of,
    curve,
    pace,
    relative_cost,
    resampled,
)
from atts.advice.pilot import DRAFT, Found
from atts.advice.prices import Prices
from atts.config import LimitsOptions
from atts.grading.intervals import Interval
from atts.grading.paired import Difference
from atts.types import Author, Record

ADVICE = "advice.json"
REPLICATES = 40
MOST_CHAINS = 2_048
"""Of those that are predicted: more take as much longer."""
WORTH_IT = 1.05
"""What a way must promise over the target alone to be recommended."""
OFF_BY = 0.14
"""What the model is off by, told what the chains did: a standard deviation, of the logarithm, of 57
runs of a real pair on SGLang and vLLM (docs/advise.md)."""


class Prediction(Record):
    """One way with so many chains in flight. Intervals are those of other chains like the pilot's:
    95 %, clustered by problem, and of what the model is off by on real servers.
    """

    in_flight: int
    chains: int
    seconds: Interval
    """To the end of the last chain. Where no chain of the pilot was stopped by its last turn, the
    upper end has time for one that is."""
    tokens_per_second: Interval
    """Of those that are part of chains."""
    speedup: Interval
    """The target's seconds with as many chains, over these."""
    limited_by: str


class Advised(Record):
    """A way, what its pilot showed, and what is predicted of it."""

    name: str
    settings: tuple[str, ...]
    """``key=value``, over the configuration."""
    accuracy: Interval
    """Of a chain."""
    loss: Difference | None
    """Accuracy of a chain above that of the target alone; None of that itself."""
    chain_tokens: float
    """Kept, in the mean, as those that follow are means of a chain."""
    target_written: float
    draft_written: float
    target_scored: float
    as_predicted: float | None
    """The pilot's own time to its last chain over what the model says of it: far from 1 the prices
    do not hold for these chains. None where nothing is predicted."""
    predictions: tuple[Prediction, ...] = ()
    relative: float | None = None
    """Time or cost of a chain in those of the target alone, where no prices are known."""

    def at(self, in_flight: int) -> Prediction | None:
        """What is predicted with so many in flight."""
        return next((one for one in self.predictions if one.in_flight == in_flight), None)


class Choice(Record):
    """What to take."""

    name: str
    settings: tuple[str, ...]
    in_flight: int | None
    speedup: Interval
    """Over the target alone, with the number in flight that is best for it."""


class Advice(Record):
    """What ``atts advise`` finds: the content of ``advice.json``."""

    version: int = 1
    draft: str
    target: str
    problems: int
    """Of the pilot."""
    samples: int
    bound: float
    """Most accuracy of a chain that may be lost."""
    by: str
    """What times are from."""
    prices: Prices | None
    context: float
    """Tokens of a chain's context at its end, in the mean."""
    ways: tuple[Advised, ...]
    """The target alone first."""
    choice: Choice | None
    """None: take the target alone."""
    why: str

    @property
    def in_flight(self) -> int | None:
        """With how many chains in flight what is chosen is fastest."""
        if self.choice:
            return self.choice.in_flight
        first = self.ways[0].predictions
        return min(first, key=lambda one: one.seconds.estimate).in_flight if first else None


class Asked(NamedTuple):
    """What predictions are asked for."""

    levels: Sequence[int]
    chains: int
    """Of the run that is planned."""
    bound: float
    prompt: float = 0.0
    """Tokens of a prompt, in the mean."""


class _Timed(NamedTuple):
    """A way whose pace is known."""

    found: Found
    pace: Callable[[int], Pace]
    as_predicted: float | None
    room: int | None
    """Chains whose caches fit."""


def advise(found: Sequence[Found], problems: int, prices: Prices, asked: Asked) -> Advice:
    """Predict every way, and say which to take.

    Args:
        found: what the pilot told; the target alone first.
        problems: of the pilot.
        prices: of the servers.
        asked: what to predict.
    """
    chains = min(asked.chains, MOST_CHAINS)
    levels = [level for level in sorted({*asked.levels}) if level <= chains] or [chains]
    rivals: dict[int, list[float]] = {}
    ways = []
    for each in (_timed(one, prices, asked) for one in found):
        predictions = []
        for in_flight in levels:
            seconds, tokens = _drawn(each, in_flight, chains)
            rival = rivals.setdefault(in_flight, seconds)  # the target alone comes first
            predictions.append(_prediction(each, in_flight, chains, seconds, tokens, rival))
        ways.append(
            _advised(each.found).model_copy(
                update={"predictions": tuple(predictions), "as_predicted": each.as_predicted}
            )
        )
    choice, why = _choice(ways, asked)
    by = "probe and pilot"
    return _advice(found, problems, asked.bound, by, ways, choice, why, prices, asked.prompt)


def advise_relatively(
    found: Sequence[Found], problems: int, bound: float, costs: tuple[float, float] | None
) -> Advice:
    """The same where no prices are known, and nothing can be said of other numbers in flight.

    Args:
        found: what runs told; the target alone first.
        problems: of them.
        bound: most accuracy of a chain that may be lost.
        costs: d and s, what a token costs that the draft writes and one that the target scores, in
            those that the target writes. It says nothing of turns that cost by themselves, and
            holds where servers are busy. None: the runs' own times count.
    """
    ways = [_advised(each) for each in found]
    cost: list[float | None]
    if costs:
        cost = [
            relative_cost(way.draft_written, way.target_written, way.target_scored, *costs)
            for way in ways
        ]
        by = f"d = {costs[0]:g} and s = {costs[1]:g}"
    else:
        cost = [_wall(each) for each in found]
        by = "the runs' own wall times"
    ways = [
        way.model_copy(update={"relative": each / cost[0] if each and cost[0] else None})
        for way, each in zip(ways, cost, strict=True)
    ]
    able = [way for way in _able(ways, bound) if way.relative]
    best = min(able, key=lambda way: way.relative or math.inf, default=None)
    choice = None
    if best is None or best.relative is None:
        why = f"Use the target alone: {_loses(bound)}"
    else:
        ratio = 1.0 / best.relative
        if ratio >= WORTH_IT:
            interval = Interval(estimate=ratio, low=ratio, high=ratio)
            choice = Choice(
                name=best.name, settings=best.settings, in_flight=None, speedup=interval
            )
        why = (
            f"{f'Use {best.name}' if choice else 'Use the target alone'}: a chain of {best.name} "
            f"takes {best.relative:.2f} of one of the target alone, by {by}."
        )
    return _advice(found, problems, bound, by, ways, choice, why, None, 0.0)


def _advice(
    found: Sequence[Found],
    problems: int,
    bound: float,
    by: str,
    ways: Sequence[Advised],
    choice: Choice | None,
    why: str,
    prices: Prices | None,
    prompt: float,
) -> Advice:
    config = next((each.config for each in found if each.circle), found[0].config)
    return Advice(
        draft=config.draft.model,
        target=config.target.model,
        problems=problems,
        samples=found[0].config.samples,
        bound=bound,
        by=by,
        prices=prices,
        context=prompt + found[0].kept,
        ways=tuple(ways),
        choice=choice,
        why=why,
    )


def _advised(found: Found) -> Advised:
    figures = found.figures
    tokens, chains = figures.summary.tokens, max(1, figures.summary.chains)
    return Advised(
        name=found.name,
        settings=found.settings,
        accuracy=figures.accuracy,
        loss=figures.against.accuracy if figures.against else None,
        chain_tokens=found.kept,
        target_written=tokens.target_written / chains,
        draft_written=(tokens.draft_written + tokens.draft_discarded) / chains,
        target_scored=tokens.target_scored / chains,
        as_predicted=None,
    )


def _wall(found: Found) -> float | None:
    speed = found.figures.speed
    return 1.0 / speed.chains_per_second if speed and speed.chains_per_second else None


def _timed(found: Found, prices: Prices, asked: Asked) -> _Timed:
    speed = curve(pace(prices, found.circle, _limits(found), found.author))
    expected = course_of(found.in_order, found.config.limits.chains, speed).seconds
    as_predicted = found.figures.summary.wall_seconds / expected if expected > 0.0 else None
    return _Timed(found, speed, as_predicted, _room(found, prices, asked.prompt))


def _limits(found: Found) -> Limits:
    """Most requests in flight, where fewer than usual were asked for: else they grow with the
    chains.
    """
    ours, usual = found.config.limits, LimitsOptions()
    return Limits(
        math.inf if ours.draft_requests >= usual.draft_requests else ours.draft_requests,
        math.inf if ours.target_requests >= usual.target_requests else ours.target_requests,
    )


def _room(found: Found, prices: Prices, prompt: float) -> int | None:
    """How many chains the caches hold to their ends: more are not begun."""
    rooms: dict[Author, int | None] = {"draft": prices.draft_room, "target": prices.target_room}
    used: Sequence[Author] = ("draft", "target") if found.circle else (found.author,)
    known = [room for author in used if (room := rooms[author]) is not None]
    if not known:
        return None
    return max(1, int(min(known) / max(1.0, prompt + found.kept)))


def _drawn(timed: _Timed, in_flight: int, chains: int) -> tuple[list[float], list[float]]:
    """Seconds and tokens a second of sets of chains that are drawn from the pilot's."""
    held = min(in_flight, timed.room or in_flight)
    at_level = timed.pace(held)
    units = [[at_level.units(Work.of(one)) for one in some] for some in timed.found.chains]
    kept = [
        [float(one.kept("draft") + one.kept("target")) for one in some]
        for some in timed.found.chains
    ]
    seconds, speeds = [], []
    for seed in range(REPLICATES):
        works = resampled(units, chains, seed)
        took = course(works, held, lambda n: timed.pace(n).seconds, at_level.fixed).seconds
        seconds.append(max(took, 1e-9))
        speeds.append(sum(resampled(kept, chains, seed)) / seconds[-1])
    return seconds, speeds


def _prediction(
    timed: _Timed,
    in_flight: int,
    chains: int,
    seconds: list[float],
    tokens: list[float],
    rival: list[float],
) -> Prediction:
    if seconds is rival:  # the target alone
        speedup = Interval(estimate=1.0, low=1.0, high=1.0)
    else:
        speedup = _interval([theirs / ours for theirs, ours in zip(rival, seconds, strict=True)])
    full = timed.room is not None and timed.room < in_flight
    last = _interval(seconds)
    return Prediction(
        in_flight=in_flight,
        chains=chains,
        seconds=last.model_copy(update={"high": max(last.high, _at_its_limit(timed))}),
        tokens_per_second=_interval(tokens),
        speedup=speedup,
        limited_by="the cache" if full else timed.pace(in_flight).limited_by,
    )


def _at_its_limit(timed: _Timed) -> float:
    """Seconds of a chain that writes all it may, where none of the pilot did: of more chains some
    may, and the last one to end is one of them. Else 0: then it is among those that are drawn.
    """
    found, turns = timed.found, timed.found.config.turns
    if any(chain.end == "turns" for some in found.chains for chain in some):
        return 0.0
    alone = timed.pace(1)
    most = turns.max_turns * (1 if found.circle else turns.draft_tokens + turns.target_tokens)
    return most * alone.seconds + alone.fixed


def _interval(values: Sequence[float]) -> Interval:
    """Of drawn values, and as much wider as the model is off."""
    low, middle, high = map(float, np.quantile(values, [0.025, 0.5, 0.975]))
    if low <= 0.0:  # tokens of chains that have none
        return Interval(estimate=middle, low=low, high=high)
    off = 1.96 * OFF_BY
    below, above = (math.hypot(math.log(ratio), off) for ratio in (middle / low, high / middle))
    return Interval(estimate=middle, low=middle * math.exp(-below), high=middle * math.exp(above))


def _able(ways: Sequence[Advised], bound: float) -> list[Advised]:
    """The ways whose loss is within the bound."""
    return [way for way in ways[1:] if way.loss and way.loss.estimate >= -bound]


def _loses(bound: float) -> str:
    return f"every way that was tried loses more than {100 * bound:g} points of accuracy a chain."


def _choice(ways: Sequence[Advised], asked: Asked) -> tuple[Choice | None, str]:
    """The fastest way whose loss is within the bound, if it is worth it."""
    able = _able(ways, asked.bound)
    if not able:
        return None, f"Use the target alone: {_loses(asked.bound)}"
    way, at = min(
        ((way, one) for way in able for one in way.predictions),
        key=lambda pair: pair[1].seconds.estimate,
    )
    rival = min(ways[0].predictions, key=lambda one: one.seconds.estimate)
    ratio = rival.seconds.estimate / at.seconds.estimate / at.speedup.estimate
    speedup = Interval(
        estimate=ratio * at.speedup.estimate,
        low=ratio * at.speedup.low,
        high=ratio * at.speedup.high,
    )
    told = (
        f"{speedup.estimate:.2f} x as fast ({speedup.low:.2f}-{speedup.high:.2f}) with "
        f"{at.in_flight} in flight as the target alone with {rival.in_flight}; what limits it is "
        f"{at.limited_by}."
    )
    if speedup.estimate < WORTH_IT or speedup.low < 1.0:
        return None, f"Use the target alone: {way.name}, the fastest other way, is predicted {told}"
    chosen = Choice(name=way.name, settings=way.settings, in_flight=at.in_flight, speedup=speedup)
    draft = " It is the draft alone that does as well." if way.name == DRAFT else ""
    return chosen, f"Use {way.name}: predicted {told}{draft}"
