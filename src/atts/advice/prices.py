"""What requests to a pair's engines take, by how many are in flight: measured, and between."""

import math

from atts.types import Record


class Line(Record):
    """Seconds of a request of k tokens: fixed + k token."""

    fixed: float
    token: float

    def seconds(self, tokens: float) -> float:
        """Of a request of so many tokens.

        >>> Line(fixed=0.5, token=0.25).seconds(2)
        1.0
        """
        return self.fixed + tokens * self.token

    @classmethod
    def through(cls, short: tuple[float, float], long: tuple[float, float]) -> "Line":
        """Of two measured requests, each (tokens, seconds); neither part is negative.

        >>> Line.through((10, 1.0), (50, 3.0))
        Line(fixed=0.5, token=0.05)
        """
        (few, quick), (many, slow) = short, long
        token = max(0.0, (slow - quick) / (many - few)) if many > few else slow / max(many, 1.0)
        token = min(token, slow / max(many, 1.0))
        return cls(fixed=max(0.0, slow - many * token), token=token)


class Level(Record):
    """What requests take while so many of their kind are in flight, each after the other."""

    in_flight: int
    draft: Line
    """That the draft writes."""
    target: Line
    """That the target writes."""
    score: Line
    """That the target scores, the prefix being cached."""
    draft_long: Line | None = None
    """A text that the draft writes in one request; None: as ``draft``. With many in flight short
    requests may wait for a server to take in the others, and a line through them tells nothing of
    long ones, which wait to be written."""
    target_long: Line | None = None
    """The same of the target."""
    draft_beside: float = 1.0
    """Times as long as that while the target works as well: 2 where they share one GPU evenly."""
    target_beside: float = 1.0
    """The same of the target, while the draft works."""


LINES = ("draft", "target", "score", "draft_long", "target_long")


class Prices(Record):
    """What was measured of a pair's servers."""

    levels: tuple[Level, ...]
    """In rising order."""
    client_seconds: float = 0.0
    """Of the client's one core for each request."""
    prefill_token: float = 0.0
    """Seconds for each token of a prompt that the target computes."""
    cached: float = 1.0
    """Share of a scored segment's prefix that was found in the cache."""
    draft_room: int | None = None
    """Tokens that the draft's cache holds; None where the engine does not tell."""
    target_room: int | None = None

    def at(self, in_flight: float) -> Level:
        """Between levels by the power of n that fits both; above the last all share its speed.

        >>> line = Line(fixed=0.0, token=1.0)
        >>> double = Line(fixed=0.0, token=2.0)
        >>> prices = Prices(levels=(Level(in_flight=1, draft=line, target=line, score=line),
        ...     Level(in_flight=16, draft=double, target=double, score=double)))
        >>> round(prices.at(4).target.token, 3), prices.at(32).target.token
        (1.414, 4.0)
        """
        levels = self.levels
        n = max(in_flight, float(levels[0].in_flight))
        last = levels[-1]
        if n >= last.in_flight:
            return _times(last, n / last.in_flight)
        above = next(index for index, level in enumerate(levels) if level.in_flight > n)
        low, high = levels[above - 1], levels[above]
        share = math.log(n / low.in_flight) / math.log(high.in_flight / low.in_flight)
        return _between(low, high, share)


def _times(level: Level, factor: float) -> Level:
    if factor == 1.0:
        return level
    lines = {
        name: Line(fixed=line.fixed * factor, token=line.token * factor)
        for name, line in _lines(level).items()
    }
    return level.model_copy(update={"in_flight": round(level.in_flight * factor), **lines})


def _between(low: Level, high: Level, share: float) -> Level:
    ours, theirs = _lines(low), _lines(high)
    lines = {}
    for name in ours.keys() | theirs.keys():
        plain = name.removesuffix("_long")  # of what was not measured by itself
        one, other = ours.get(name, ours[plain]), theirs.get(name, theirs[plain])
        lines[name] = Line(
            fixed=between(one.fixed, other.fixed, share),
            token=between(one.token, other.token, share),
        )
    return Level(
        in_flight=round(between(low.in_flight, high.in_flight, share)),
        **lines,
        draft_beside=between(low.draft_beside, high.draft_beside, share),
        target_beside=between(low.target_beside, high.target_beside, share),
    )


def _lines(level: Level) -> dict[str, Line]:
    return {name: line for name in LINES if isinstance(line := getattr(level, name), Line)}


def between(a: float, b: float, share: float) -> float:
    """So far from a to b, by powers; where one is 0, in a straight line.

    >>> round(between(1.0, 16.0, 0.5), 9), between(0.0, 16.0, 0.5)
    (4.0, 8.0)
    """
    if a <= 0.0 or b <= 0.0:
        return a + share * (b - a)
    return math.exp(math.log(a) + share * (math.log(b) - math.log(a)))
