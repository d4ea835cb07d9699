"""Which chains go by ATTS and which by the target alone, from how fast either goes: arithmetic.

Speed is tokens a second of all chains together, at the share of them that go by ATTS at the time: a
chain that takes longer may leave the target free for others, or hold it up by its scores, and both
show in that sum alone. A share is raised while the sum is above that of the target alone with as
many in flight, and falls to nothing as soon as it is not. A try may take a small part of the time
that has passed, because on a GPU that both models share even a few chains slow all others.
"""

import math
from collections.abc import Mapping
from typing import Literal

Arm = Literal["target", "atts"]
Begun = Literal["target", "atts", "scout"]
"""What a new chain goes by; a scout writes by the target, in pieces, so that its speed is known
soon, and its chain may go another way after each."""
Move = Literal["atts", "piece", "rest"]
"""What an open chain does next: a turn of ATTS, a piece by the target, or all the rest by it."""

SHARES = (1 / 16, 1 / 4, 1.0)
"""Of the chains in flight, one after the other."""
PART = 1 / 16
"""Of the time that has passed, which a try may take."""
CERTAIN, WORTH_IT = 1.15, 1.05
"""Advised speedups: from the first on all chains begin by ATTS, below one over the second none."""
LOWER, HIGHER = 0.98, 1.02
"""Of the target's own speed: below, ATTS ends, and above, its share is raised."""
REPORTS = 4
"""That a speed is taken from, at least."""
FORGETTING = 0.1
PATIENCE = 4
"""Times as much time as before a try that failed passes before the next."""


class Mean:
    """Seconds of a token, of late."""

    def __init__(self) -> None:
        self.reports = 0
        self._seconds = self._tokens = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """Count one more report."""
        keep = 1.0 - FORGETTING if self.reports >= REPORTS else 1.0
        self._seconds = keep * self._seconds + seconds
        self._tokens = keep * self._tokens + tokens
        self.reports += 1

    @property
    def token(self) -> float | None:
        """None as long as it is not known."""
        return self._seconds / self._tokens if self._tokens and self._seconds else None


class Balance:
    """The chains of one pair of engines."""

    def __init__(
        self,
        advised: Mapping[int, float],
        alone: Mapping[int, float],
        expected: int,
        turn_tokens: int,
        keeps: bool = False,
    ) -> None:
        """Begin as advised.

        Args:
            advised: speedup over the target alone, by chains in flight; may be empty.
            alone: what is advised of its tokens a second; holds until it is measured.
            expected: chains in flight to begin with.
            turn_tokens: most of a turn.
            keeps: a chain goes to its end by what it has begun with.
        """
        self._advised, self._foretold = advised, alone
        self._turn_tokens = turn_tokens
        self._keeps = keeps
        self._open: dict[Arm, int] = {"target": 0, "atts": 0}
        self._scouts = self._peak = 0
        self._alone: dict[int, Mean] = {}  # by power of two in flight: nothing by ATTS
        self._now: dict[Arm, Mean] = {"target": Mean(), "atts": Mean()}
        self._few: dict[int, Mean] = {}  # pieces of the last chains, by power of two in flight
        self._scouting = False
        self._ended: dict[Arm, list[int]] = {"target": [0, 0], "atts": [0, 0]}  # chains, tokens
        self._first: float | None = None  # when the first chain began
        self._next_try = 0.0
        self._until = math.inf
        speed = self._advice(expected)
        self.share = 1.0 if speed is not None and speed >= CERTAIN else 0.0
        self._changed = -math.inf  # when the share was changed

    @property
    def in_flight(self) -> int:
        """Chains that are open."""
        return sum(self._open.values())

    def begin(self, now: float, given: Arm | None = None) -> Begun:
        """What a new chain goes by; times are seconds of any clock. ``given``: that is settled."""
        self._first = now if self._first is None else self._first
        n = self.in_flight + 1
        self._peak = max(self._peak, n)
        if given:
            self._open[given] += 1
            return given
        if not self.share and self._may_try(n, now):
            self._set(SHARES[0], now)
        if self._open["atts"] < self.share * n:
            self._open["atts"] += 1
            return "atts"
        self._open["target"] += 1
        if 0.0 < self.share < 1.0 and self._scouts < REPORTS and not self._keeps:
            self._scouts += 1
            return "scout"
        return "target"

    def goes(self, before: Arm, after: Arm) -> None:
        """An open chain changes."""
        self._open[before] -= 1
        self._open[after] += 1

    def leave(self, arm: Arm, begun: Begun) -> None:
        """A chain is over, or has failed."""
        self._open[arm] -= 1
        self._scouts -= begun == "scout"

    def end(self, arm: Arm, tokens: int) -> None:
        """A chain that went by one arm alone has come to its end."""
        self._ended[arm][0] += 1
        self._ended[arm][1] += tokens

    def told(self, arm: Arm, tokens: int, began: float, now: float) -> None:
        """A turn, a piece, or what the target wrote alone, has ended."""
        if arm == "target" and not self._open["atts"] and not self.share and began >= self._changed:
            self._alone.setdefault(_power(self.in_flight), Mean()).add(tokens, now - began)
        if arm == "target" and self._is_draining:
            self._scouting = False
            self._few.setdefault(_power(self.in_flight), Mean()).add(tokens, now - began)
        if began >= self._changed:
            self._now[arm].add(tokens, now - began)
        self._look(now)

    def move(self, begun: Begun) -> Move:
        """What an open chain of ATTS, or a scout, does next."""
        if self._keeps:
            return "atts"
        if not self.share:
            return "rest"
        if not self._is_draining:
            return "piece" if begun == "scout" and self.share < 1.0 else "atts"
        # The last chains: what is fast among many need not be so among few.
        n = self.in_flight
        speed = self._advice(n)
        if speed is not None:
            return "atts" if speed >= 1.0 else "rest"
        found = self._few.get(_power(n))
        if found is None or found.token is None:
            if self._scouting:
                return "atts"
            self._scouting = True
            return "piece"
        ours = self._now["atts"].token
        return "atts" if ours is None or ours <= found.token else "rest"

    @property
    def _is_draining(self) -> bool:
        return 2 * self.in_flight <= self._peak

    def _may_try(self, n: int, now: float) -> bool:
        speed, alone = self._advice(n), self._baseline(n)
        if alone is None or self._first is None or now < self._next_try:
            return False
        if speed is not None and speed < 1.0 / WORTH_IT:
            return False
        return PART * (now - self._first) >= self._turn_tokens * alone

    def _set(self, share: float, now: float) -> None:
        passed = now - (self._first or 0.0)
        if share == 0.0:
            self._next_try = now + (PATIENCE - 1) * passed
        # What is raised was found to be faster, and is ended as soon as it no longer is.
        self._until = now + 1.5 * PART * passed if share == SHARES[0] else math.inf
        self.share, self._changed = share, now
        self._now = {"target": Mean(), "atts": Mean()}

    def _look(self, now: float) -> None:
        """Raise the share, or end it, where enough is known, or the time is up."""
        if not self.share:
            return
        ratio = self._ratio()
        full = self._open["atts"] >= 0.8 * self.share * self.in_flight
        if ratio is not None and ratio < LOWER:
            self._set(0.0, now)
        elif ratio is not None and ratio > HIGHER:
            self._until = math.inf
            if full and self.share < 1.0:
                self._set(next(share for share in SHARES if share > self.share), now)
        elif now > self._until:
            self._set(0.0, now)

    def _ratio(self) -> float | None:
        """The speed of all chains, over that of the target alone with as many."""
        n, ours, theirs = self.in_flight, self._now["atts"], self._now["target"]
        alone = self._baseline(n)
        if alone is None or ours.reports < REPORTS or ours.token is None:
            return None
        speed = self._open["atts"] / (ours.token * self._longer)
        if self._open["target"]:
            if theirs.reports < REPORTS or theirs.token is None:
                return None
            speed += self._open["target"] / theirs.token
        return speed * alone / max(1, n)

    @property
    def _longer(self) -> float:
        """Tokens of a chain by ATTS, over those of one by the target alone."""
        (ours, our_tokens), (theirs, their_tokens) = self._ended["atts"], self._ended["target"]
        if min(ours, theirs) < max(REPORTS, self._open["atts"]) or not their_tokens:
            return 1.0  # the first to end are the short ones
        return min(2.0, max(0.5, our_tokens / ours * theirs / their_tokens))

    def _baseline(self, n: int) -> float | None:
        """Seconds of a token of the target alone with about as many in flight."""
        for power in (_power(n), _power(n) + 1, _power(n) - 1):
            found = self._alone.get(power)
            if found and found.reports >= REPORTS:
                return found.token
        n = max(n, min(self._foretold, default=n))  # with fewer none is slower
        speed = _between(self._foretold, n)
        return n / speed if speed else None

    def _advice(self, n: int) -> float | None:
        """The speedup that is advised for so many in flight."""
        return _between(self._advised, n)


def _between(known: Mapping[int, float], n: int) -> float | None:
    """What is known of some numbers in flight, between them by powers; None of nothing.

    >>> _between({4: 2.0, 16: 8.0}, 8), _between({4: 2.0}, 100), _between({}, 1)
    (4.0, 2.0, None)
    """
    if not known:
        return None
    below = max((each for each in known if each <= n), default=min(known))
    above = min((each for each in known if each >= n), default=max(known))
    if below == above:
        return known[below]
    share = math.log(n / below) / math.log(above / below)
    return known[below] * math.exp(share * math.log(known[above] / known[below]))


def _power(n: int) -> int:
    return max(1, n).bit_length()
