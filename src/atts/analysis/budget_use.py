"""How accurately a run kept what it was allowed: the take-over rate over time, and the caps."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from atts.analysis.spans import most_at_a_time
from atts.grading.intervals import Interval, clustered_interval
from atts.store.run_directory import RecordedRun
from atts.types import ChainKey, Decision, Record, Segment

PARTS = 10
"""Stretches of time, of equally many decisions."""


class PartRate(Record):
    """The take-over rate of some decisions in a row."""

    first: int
    """Number of its first decision, from 0, in the order in which scores arrived."""
    decisions: int
    until: float | None
    """When its last score had arrived, in seconds of the run; None where times are unknown."""
    realised: Interval
    """Clustered by problem."""
    so_far: float
    """The rate of all decisions up to its end."""


class Cap(Record):
    """A hard cap, and what came of it."""

    allowed: int | None
    """None: no cap was set."""
    most: int
    """The largest number that occurred."""


class BudgetUse(Record):
    """The take-over rate over time, and the caps of ``take_over.budget``."""

    nominal: float
    realised: Interval
    over_time: tuple[PartRate, ...]
    largest_deviation: float
    """The largest |rate - nominal| of a part."""
    refused: int
    """Take-overs that the p-value asked for and a cap did not let happen."""
    per_turn: Cap
    """Take-overs of one problem's chains in one turn."""
    in_flight: Cap | None
    """Take-overs that the target worked on at a time; None where times are unknown."""


class MadeDecision(NamedTuple):
    """A decision, where it belongs, and what the target wrote after it."""

    key: ChainKey
    turn: int
    decision: Decision
    written: Sequence[Segment]
    until: float | None


def budget(run: RecordedRun, zeros: Mapping[ChainKey, float]) -> BudgetUse | None:
    """Sum up the decisions; ``zeros`` are the clock offsets of the timed chains."""
    arrivals = _in_order(run, zeros)
    if not arrivals:
        return None
    nominal = run.config.take_over.rate
    caps = run.config.take_over.budget
    parts = _parts(arrivals)
    by_turn = Counter(
        (each.key.problem_id, each.turn) for each in arrivals if each.decision.take_over
    )
    return BudgetUse(
        nominal=nominal,
        realised=_rate(arrivals),
        over_time=parts,
        largest_deviation=max(abs(part.realised.estimate - nominal) for part in parts),
        refused=sum(_refused(each.decision) for each in arrivals),
        per_turn=Cap(allowed=caps.per_turn, most=max(by_turn.values(), default=0)),
        in_flight=Cap(allowed=caps.in_flight, most=_most_in_flight(arrivals))
        if all(each.until is not None for each in arrivals)
        else None,
    )


def _in_order(run: RecordedRun, zeros: Mapping[ChainKey, float]) -> list[MadeDecision]:
    """All decisions in the order in which they were made, as far as that was recorded."""
    arrivals = [
        MadeDecision(
            chain.key,
            number,
            decision,
            [each for each in chain.turns[number].segments if each.author == "target"],
            decision.timings.done - zeros[chain.key] if chain.key in zeros else None,
        )
        for chain in run.chains
        for number, decision in chain.decisions
    ]
    if all(each.decision.order is not None for each in arrivals):
        return sorted(arrivals, key=lambda each: each.decision.order or 0)
    if all(each.until is not None for each in arrivals):
        return sorted(arrivals, key=lambda each: each.until or 0.0)
    return arrivals


def _parts(arrivals: Sequence[MadeDecision]) -> tuple[PartRate, ...]:
    count = min(PARTS, len(arrivals))
    borders = [len(arrivals) * part // count for part in range(count + 1)]
    parts = []
    taken = 0
    for first, end in pairwise(borders):
        part = arrivals[first:end]
        taken += sum(each.decision.take_over for each in part)
        parts.append(
            PartRate(
                first=first,
                decisions=len(part),
                until=part[-1].until,
                realised=_rate(part),
                so_far=taken / end,
            )
        )
    return tuple(parts)


def _rate(arrivals: Sequence[MadeDecision]) -> Interval:
    by_problem: dict[str, list[bool]] = defaultdict(list)
    for each in arrivals:
        by_problem[each.key.problem_id].append(each.decision.take_over)
    groups = [by_problem[name] for name in sorted(by_problem)]
    return clustered_interval([sum(group) for group in groups], [len(group) for group in groups])


def _refused(decision: Decision) -> bool:
    return (
        not decision.take_over
        and decision.threshold is not None
        and decision.p_value <= decision.threshold
    )


def _most_in_flight(arrivals: Sequence[MadeDecision]) -> int:
    """From the decision to the last token that the target wrote on it."""
    return most_at_a_time(
        (each.decision.timings.done, max(segment.timings.done for segment in each.written))
        for each in arrivals
        if each.decision.take_over and each.written
    )
