"""A run's profile: phases, asynchronous arithmetic intensity, stragglers, and budget."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Self

from atts.analysis.budget_use import BudgetUse, budget
from atts.analysis.spans import (
    KINDS,
    PHASES,
    Kind,
    Phase,
    most_at_a_time,
    offsets,
    phase_seconds,
)
from atts.config import MethodName
from atts.errors import GradingError
from atts.store.run_directory import RecordedRun
from atts.types import Chain, ChainEnd, ChainKey, Record

NEARLY_ALL = 0.95
"""Share of the chains after which what is left is the tail."""

STARTED_LATER = "started later"

Excess = dict[str, float]
"""Part of a chain's life -> seconds by which it was longer than that of the mean chain."""


class PhaseTime(Record):
    """What all chains together spent in a phase."""

    phase: Phase
    kind: Kind
    seconds: float
    """Chain-seconds: two chains for one second are two."""
    share: float
    """Of the chain-seconds of the timed chains."""


class Intensity(Record):
    """The asynchronous arithmetic intensity (arXiv 2509.15148): r = T_c / (T_m + T_s).

    All three are chain-seconds, on each chain's critical path. T_c: prefill, decode and
    scoring inside an engine, of both models. T_m: requests that an engine, or the run's own limit
    on requests, held back, which is for want of space in a batch or in memory. T_s: chains that
    waited for other chains. Overhead is in none of them.
    """

    compute: float
    memory: float
    synchronisation: float
    r: float | None
    """None where no chain was ever held back, or there was nothing to compute."""
    r_sync: float | None
    """T_c / T_s alone, to which r comes close where memory is no bottleneck."""

    @classmethod
    def of(cls, phases: Mapping[Phase, float]) -> Self:
        """Sum up the seconds of phases.

        >>> Intensity.of({"draft decode": 6.0, "score queue": 1.0, "waiting": 2.0}).r
        2.0
        """
        sums: dict[Kind, float] = dict.fromkeys(KINDS.values(), 0.0)
        for phase, seconds in phases.items():
            sums[KINDS[phase]] += seconds
        compute, memory, waiting = sums["compute"], sums["memory"], sums["synchronisation"]
        return cls(
            compute=compute,
            memory=memory,
            synchronisation=waiting,
            r=compute / (memory + waiting) if compute > 0 and memory + waiting > 0 else None,
            r_sync=compute / waiting if compute > 0 and waiting > 0 else None,
        )


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


class RunProfile(Record):
    """Where the time of a run went."""

    method: MethodName
    problems: int
    samples: int
    chains: int
    untimed: int
    """Chains without times of their requests, e.g. imported ones: in no phase."""
    wall_seconds: float
    chain_seconds: float
    """Sum over the timed chains."""
    mean_chains: float
    """Timed chains in flight, on average over the run."""
    most_chains: int
    undivided: bool
    """Whether some engine told of its requests only when they ended: queues are then part of the
    computing time, and r is higher than it should be."""
    phases: tuple[PhaseTime, ...]
    """Those that took any time, in the order of a turn."""
    intensity: Intensity
    tail: Tail
    late_chains: tuple[LateChain, ...]
    late_problems: tuple[LateProblem, ...]
    budget: BudgetUse | None
    """None where nothing was decided."""


def profile(run: RecordedRun, stragglers: int = 5) -> RunProfile:
    """Account for every second of the chains of a run.

    Raises:
        GradingError: the run has no chains yet.
    """
    if not run.chains:
        raise GradingError("the run has no finished chain yet; start it, or let it go on")
    zeros = offsets(run.chains)
    timed = [chain for chain in run.chains if chain.key in zeros]
    seconds = {chain.key: phase_seconds(chain, zeros[chain.key]) for chain in timed}
    sums = {phase: sum(of_chain[phase] for of_chain in seconds.values()) for phase in PHASES}
    total = sum(sums.values())
    wall = max(chain.done for chain in run.chains)
    return RunProfile(
        method=run.config.method,
        problems=len(run.problems),
        samples=run.config.samples,
        chains=len(run.chains),
        untimed=len(run.chains) - len(timed),
        wall_seconds=wall,
        chain_seconds=total,
        mean_chains=total / wall if wall > 0 else 0.0,
        most_chains=most_at_a_time((chain.started, chain.done) for chain in timed),
        undivided=sums["draft, undivided"] + sums["target, undivided"] > 0,
        phases=tuple(
            PhaseTime(phase=phase, kind=KINDS[phase], seconds=spent, share=spent / total)
            for phase, spent in sums.items()
            if spent > 0
        ),
        intensity=Intensity.of(sums),
        tail=tail(run.chains),
        late_chains=late_chains(timed, seconds, stragglers),
        late_problems=late_problems(timed, seconds, stragglers),
        budget=budget(run, zeros),
    )


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
