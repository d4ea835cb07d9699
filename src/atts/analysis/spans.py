"""What a chain was doing at each moment of its life, in the seconds of its run.

Requests are timed on the clock of the process, chains on that of the run, which goes on where an
interrupted run stopped. A run so has one offset between the two for each time that it was started.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple, get_args

from atts.types import Author, Chain, ChainKey, Timings, Turn

Phase = Literal[
    "draft queue",
    "draft prefill",
    "draft decode",
    "draft, undivided",
    "score queue",
    "scoring",
    "target queue",
    "target prefill",
    "target decode",
    "target, undivided",
    "waiting",
    "overhead",
]
"""``queue``: from when the request was made to when the engine began with it. ``prefill``: up to
the first token. ``decode``: up to the last one. ``undivided``: a request of which the engine told
only when it ended. ``waiting``: for other chains. ``overhead``: everything else."""

PHASES: tuple[Phase, ...] = get_args(Phase)

Kind = Literal["compute", "memory", "synchronisation", "overhead"]
"""What a phase is for the asynchronous arithmetic intensity."""

KINDS: Mapping[Phase, Kind] = {
    "draft queue": "memory",
    "draft prefill": "compute",
    "draft decode": "compute",
    "draft, undivided": "compute",
    "score queue": "memory",
    "scoring": "compute",
    "target queue": "memory",
    "target prefill": "compute",
    "target decode": "compute",
    "target, undivided": "compute",
    "waiting": "synchronisation",
    "overhead": "overhead",
}


class Span(NamedTuple):
    """A stretch of a chain's life; seconds of the run."""

    phase: Phase
    turn: int
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin


class TimedRequest(NamedTuple):
    """A request of a turn."""

    what: Author | Literal["score"]
    timings: Timings
    tokens: int = 0
    """That were written."""

    def phases(self) -> list[tuple[Phase, float]]:
        """Each phase and when it ended, on the clock of the process."""
        moments = self.timings
        if self.what == "score":
            return [("score queue", moments.started), ("scoring", moments.done)]
        queue, prefill, decode, undivided = _WRITING[self.what]
        if moments.first_token == moments.done and self.tokens > 1:
            return [(queue, moments.started), (undivided, moments.done)]
        return [
            (queue, moments.started),
            (prefill, moments.first_token),
            (decode, moments.done),
        ]


_WRITING: Mapping[Author, tuple[Phase, Phase, Phase, Phase]] = {
    "draft": ("draft queue", "draft prefill", "draft decode", "draft, undivided"),
    "target": ("target queue", "target prefill", "target decode", "target, undivided"),
}


def requests(turn: Turn) -> list[TimedRequest]:
    """The requests of a turn, in the order in which they ended."""
    found = [
        TimedRequest(segment.author, segment.timings, segment.tokens)
        for segment in turn.segments
        if not segment.with_former
    ]
    if turn.decision and turn.decision.is_request:
        found.append(TimedRequest("score", turn.decision.timings))
    return sorted(found, key=lambda request: request.timings.done)


def is_timed(chain: Chain) -> bool:
    """Whether the chain's requests have times; those of imported runs have none."""
    timed = [request.timings.done > 0 for turn in chain.turns for request in requests(turn)]
    return bool(timed) and all(timed)


def offsets(chains: Iterable[Chain]) -> dict[ChainKey, float]:
    """Time on the process's clock when the run's clock stood at 0, for each timed chain.

    A chain starts before its first request and ends after its last, so each bounds the offset of
    its process from both sides. The chains of one process share an offset; where the bounds of
    two chains exclude each other, the run was started again between them.
    """
    bounds = []
    for chain in filter(is_timed, chains):
        moments = [request.timings for turn in chain.turns for request in requests(turn)]
        latest = min(moment.queued for moment in moments) - chain.started
        earliest = max(moment.done for moment in moments) - chain.done
        bounds.append((latest, earliest, chain.key))
    found: dict[ChainKey, float] = {}
    offset = None
    for latest, earliest, key in sorted(bounds):
        if offset is None or earliest > offset:
            offset = latest
        found[key] = offset
    return found


def spans(chain: Chain, offset: float) -> Iterator[Span]:
    """The chain's life from its start to its end, without a gap and in order.

    A moment belongs to one phase. Where two requests of a chain overlap, as with a draft that
    writes ahead while the target scores, it belongs to the one that ended first: the chain went
    on with that one.

    What a turn waited for other chains lies behind its decision, or behind its begin if it has
    none: the first time there in which no request of the chain was under way.
    """
    now, owed, behind = chain.started, 0.0, 0
    for number, turn in enumerate(chain.turns):
        if turn.decision is None:
            owed += turn.waited_seconds
        for request in requests(turn):
            queued = request.timings.queued - offset
            for span in _without_request(behind, now, queued, owed):
                yield span
                now = span.end
                owed -= span.seconds if span.phase == "waiting" else 0.0
            for phase, moment in request.phases():
                if (end := moment - offset) > now:
                    yield Span(phase, number, now, end)
                    now = end
            behind = number
            if request.what == "score":
                owed += turn.waited_seconds
    yield from _without_request(behind, now, chain.done, owed)


def phase_seconds(chain: Chain, offset: float) -> dict[Phase, float]:
    """How long the chain was in each phase; the sum is how long it took."""
    seconds = dict.fromkeys(PHASES, 0.0)
    for span in spans(chain, offset):
        seconds[span.phase] += span.seconds
    return seconds


def most_at_a_time(stretches: Iterable[tuple[float, float]]) -> int:
    """The largest number of stretches (begin, end) that have a moment in common.

    >>> most_at_a_time([(0.0, 2.0), (1.0, 3.0), (2.0, 4.0)])
    2
    """
    most = now = 0
    # At the same moment, ends come before begins.
    for _, change in sorted(
        (moment, change) for begin, end in stretches for moment, change in ((begin, 1), (end, -1))
    ):
        now += change
        most = max(most, now)
    return most


def _without_request(turn: int, begin: float, end: float, owed: float) -> Iterator[Span]:
    """A time without a request: up to ``owed`` seconds of it was a wait for other chains."""
    middle = min(end, begin + owed)
    if middle > begin:
        yield Span("waiting", turn, begin, middle)
    if end > max(begin, middle):
        yield Span("overhead", turn, max(begin, middle), end)
