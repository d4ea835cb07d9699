"""The figures of a stage at one moment, and how they are taken."""

import threading
import time
from collections import deque
from typing import Any, NamedTuple

from atts.runs.activity import Activity
from atts.types import Author, Chain

WINDOW_SECONDS = 15.0
"""Tokens per second are those of the last so many seconds."""


class Snapshot(NamedTuple):
    """What is shown of a stage."""

    name: str
    total: int
    resumed: int
    """Chains that were done before the stage began."""
    done: int
    failed: int
    not_needed: int
    in_flight: int
    at_work: dict[str, int]
    """Requests by kind; see ``Activity``."""
    waiting_for_others: int
    seconds: float
    seconds_left: float | None
    turns: int
    decisions: int
    take_over_nominal: float | None
    take_over_now: float | None
    """Of the last decisions; see ``Activity.recent_rate``."""
    take_over: float | None
    tokens_per_second: dict[Author, float]
    graded: tuple[int, int] | None
    """Answers compared, of how many; None before, and where none needs algebra."""
    waits_for: dict[str, float]
    """Models whose engines do not answer, and the seconds for which each is still waited for."""

    @property
    def waiting(self) -> int:
        """Chains that have not begun."""
        return max(0, self.total - self.done - self.in_flight)

    def states(self) -> dict[str, int]:
        """How many chains are in each state, in the order of a chain's life.

        A chain that is scored while it drafts ahead counts in both.
        """
        states: dict[str, int] = {"waiting": self.waiting, **self.at_work}
        if self.waiting_for_others:
            states["waiting for others"] = self.waiting_for_others
        return states | {"done": self.done}

    def waits(self) -> str:
        """For which engines it waits; empty if they answer."""
        return ", ".join(
            f"waiting for the {name}'s engine, {clock(left)} of patience left"
            for name, left in self.waits_for.items()
        )

    def first_line(self) -> str:
        """What there is to do."""
        again = f", {self.resumed} of them done before" if self.resumed else ""
        return f"{self.name}: {self.total} chains{again}"

    def line(self) -> str:
        """All that is known, in one line."""
        parts = [f"{self.name}: {self.done}/{self.total} in {clock(self.seconds)}"]
        if waits := self.waits():
            parts.append(waits)
        if self.graded:
            parts.append("grading {}/{}".format(*self.graded))
        if self.done > self.resumed and self.seconds > 0:
            parts.append(f"{(self.done - self.resumed) / self.seconds:.1f}/s")
        if self.seconds_left is not None and not waits:
            parts.append(f"{clock(self.seconds_left)} left")
        if self.done < self.total:
            parts += [
                f"{count} {state}"
                for state, count in self.states().items()
                if count and state != "done"
            ]
        if rates := self.rates():
            parts.append(f"take-over {rates}")
        if self.done < self.total and (speeds := self.speeds()):
            parts.append(f"tokens/s {speeds}")
        if self.not_needed:
            parts.append(f"{self.not_needed} not needed")
        if self.failed:
            parts.append(f"{self.failed} failed")
        return ", ".join(parts)

    def rates(self) -> str:
        """The take-over rate: now, so far, and what is aimed at; empty if nothing was decided."""
        if self.take_over is None or self.take_over_now is None:
            return ""
        nominal = "" if self.take_over_nominal is None else f", nominal {self.take_over_nominal:g}"
        return f"{self.take_over_now:.2f} now, {self.take_over:.2f} so far{nominal}"

    def speeds(self) -> str:
        """Tokens per second of each model that wrote any."""
        return " ".join(
            f"{author} {speed:,.0f}" for author, speed in self.tokens_per_second.items() if speed
        )

    def as_json(self) -> dict[str, Any]:
        """The figures as they stand in a line of JSON; counts of chains, seconds, and shares."""
        return {
            "seconds": round(self.seconds, 1),
            "seconds_left": None if self.seconds_left is None else round(self.seconds_left, 1),
            "chains": {
                "total": self.total,
                "failed": self.failed,
                "not_needed": self.not_needed,
                **{state.replace(" ", "_"): count for state, count in self.states().items()},
                "waiting_for_others": self.waiting_for_others,
            },
            "turns": self.turns,
            "take_over": {
                "nominal": self.take_over_nominal,
                "now": self.take_over_now,
                "so_far": self.take_over,
                "decisions": self.decisions,
            },
            "tokens_per_second": {
                author: round(speed, 1) for author, speed in self.tokens_per_second.items()
            },
            "graded": self.graded,
            "waits_for": {name: round(left, 1) for name, left in self.waits_for.items()},
        }


class Figures:
    """Takes snapshots of a stage; from any thread."""

    def __init__(self, name: str, activity: Activity) -> None:
        self._name = name
        self._activity = activity
        self._total = self._done = self._resumed = self._failed = self._not_needed = 0
        self._graded: tuple[int, int] | None = None
        self._began = time.monotonic()
        self._ended: float | None = None
        # Moments of the last seconds, and the tokens that each model had written by then.
        self._past: deque[tuple[float, dict[Author, int]]] = deque()
        self._taking = threading.Lock()

    @property
    def is_going_on(self) -> bool:
        """Whether chains, or grading, are left."""
        grading = self._graded is not None and self._graded[0] < self._graded[1]
        return self._done < self._total or grading

    def started(self, total: int, done: int) -> None:
        """See ``Observer``."""
        self._total, self._done, self._resumed = total, done, done
        self._began = time.monotonic()
        if not self.is_going_on:
            self._ended = self._began

    def chain_done(self, chain: Chain) -> None:
        """One more chain is finished."""
        self._done += 1
        self._failed += chain.end == "failed"
        self._not_needed += not chain.is_needed
        if self._done >= self._total:
            self._ended = time.monotonic()

    def grading(self, done: int, total: int) -> None:
        """See ``Observer``."""
        self._graded = (done, total)

    def take(self, now: float) -> Snapshot:
        """The figures at a moment of the monotonic clock."""
        now = now if self._ended is None else self._ended
        activity = self._activity
        seconds = max(0.0, now - self._began)
        finished, left = self._done - self._resumed, self._total - self._done
        return Snapshot(
            name=self._name,
            total=self._total,
            resumed=self._resumed,
            done=self._done,
            failed=self._failed,
            not_needed=self._not_needed,
            in_flight=activity.in_flight,
            at_work={str(work): count for work, count in activity.at_work.items()},
            waiting_for_others=activity.waiting_for_others,
            seconds=seconds,
            seconds_left=seconds * left / finished if finished and left > 0 else None,
            turns=activity.turns,
            decisions=activity.decisions,
            take_over_nominal=activity.nominal,
            take_over_now=activity.recent_rate,
            take_over=activity.rate,
            tokens_per_second=self._speeds(now),
            graded=self._graded,
            waits_for=activity.waits_for(now),
        )

    def _speeds(self, now: float) -> dict[Author, float]:
        written = dict(self._activity.written)
        with self._taking:
            past = self._past
            if not past or now > past[-1][0]:
                past.append((now, written))
            while len(past) > 2 and now - past[1][0] >= WINDOW_SECONDS:
                past.popleft()
            began, before = past[0]
        seconds = now - began
        return {
            author: (count - before[author]) / seconds if seconds > 0 else 0.0
            for author, count in written.items()
        }


def clock(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> clock(75), clock(3675)
    ('1:15', '1:01:15')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
