"""Chains and problems that end last, and why."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from atts.analysis.spans import Phase
from atts.types import Chain, ChainEnd, ChainKey, Record

NEARLY_ALL = 0.95
"""Share of the chains after which what is left is the tail."""

STARTED_LATER = "started later"

Excess = dict[str, float]
"""Part of a chain's life -> seconds by which it was longer than that of the mean chain."""


class Tail(Record):
    """What a run waited for after nearly all of its chains had ended."""

    chains: int
    """The last twentieth."""
    seconds: float
    share: float
    """Of the wall time."""


class LateChain(Record):
    """A chain that ended late, beside the mean of all chains."""

    problem_id: str
    sample: int
    end: ChainEnd
    done: float
    """Seconds of the run."""
    seconds: float
    """From its start to its end."""
    turns: int
    tokens: int
    """Written by both models."""
    take_overs: int
    excess: Excess
    """By how much later it ended than the mean chain, in parts that add up exactly: by how much
    later it started, and by how much longer it was in each phase."""
    why: str
    """The largest parts, in words."""


class LateProblem(Record):
    """A problem whose last chain ended late."""

    problem_id: str
    done: float
    """When its last chain ended; seconds of the run."""
    median_done: float
    """When half of its chains had ended."""
    last: LateChain


def tail(chains: Sequence[Chain]) -> Tail:
    """How long the last twentieth of the chains kept the run waiting."""
    ends = sorted(chain.done for chain in chains)
    nearly = ends[max(0, int(NEARLY_ALL * len(ends)) - 1)]
    seconds = ends[-1] - nearly
    return Tail(
        chains=sum(end > nearly for end in ends),
        seconds=seconds,
        share=seconds / ends[-1] if ends[-1] > 0 else 0.0,
    )


def late_chains(
    chains: Sequence[Chain], seconds: Mapping[ChainKey, Mapping[Phase, float]], most: int
) -> tuple[LateChain, ...]:
    """The chains that ended last, the last first."""
    mean = _mean(chains, seconds)
    last = sorted(chains, key=lambda chain: chain.done, reverse=True)[:most]
    return tuple(_late(chain, seconds[chain.key], mean) for chain in last)


def late_problems(
    chains: Sequence[Chain], seconds: Mapping[ChainKey, Mapping[Phase, float]], most: int
) -> tuple[LateProblem, ...]:
    """The problems whose last chain ended last."""
    mean = _mean(chains, seconds)
    by_problem: dict[str, list[Chain]] = defaultdict(list)
    for chain in sorted(chains, key=lambda chain: chain.done):
        by_problem[chain.problem_id].append(chain)
    late = sorted(by_problem.values(), key=lambda ended: ended[-1].done, reverse=True)[:most]
    return tuple(
        LateProblem(
            problem_id=ended[-1].problem_id,
            done=ended[-1].done,
            median_done=ended[(len(ended) - 1) // 2].done,
            last=_late(ended[-1], seconds[ended[-1].key], mean),
        )
        for ended in late
    )


def _mean(
    chains: Sequence[Chain], seconds: Mapping[ChainKey, Mapping[Phase, float]]
) -> dict[str, float]:
    """When the mean chain started, and how long it was in each phase."""
    sums: dict[str, float] = defaultdict(float)
    for chain in chains:
        sums[STARTED_LATER] += chain.started
        for phase, spent in seconds[chain.key].items():
            sums[phase] += spent
    return {part: total / len(chains) for part, total in sums.items()}


def _late(chain: Chain, seconds: Mapping[Phase, float], mean: Mapping[str, float]) -> LateChain:
    excess = {STARTED_LATER: chain.started - mean[STARTED_LATER]}
    excess |= {phase: spent - mean[phase] for phase, spent in seconds.items() if mean[phase] > 0}
    return LateChain(
        problem_id=chain.problem_id,
        sample=chain.sample,
        end=chain.end,
        done=chain.done,
        seconds=chain.seconds,
        turns=len(chain.turns),
        tokens=chain.written("draft") + chain.written("target"),
        take_overs=chain.take_overs,
        excess=excess,
        why=_why(excess),
    )


def _why(excess: Mapping[str, float]) -> str:
    """The parts that explain most, largest first, up to three quarters of all that is late.

    >>> _why({"started later": 0.1, "draft decode": 5.0, "waiting": 2.0, "scoring": -1.0})
    'draft decode +5.0 s, waiting +2.0 s'
    """
    late = sorted(((much, part) for part, much in excess.items() if much > 0), reverse=True)
    parts: list[str] = []
    explained = 0.0
    for much, part in late:
        if parts and explained >= 0.75 * sum(each for each, _ in late):
            break
        parts.append(f"{part} +{much:.1f} s")
        explained += much
    return ", ".join(parts) or "no later than the mean"
