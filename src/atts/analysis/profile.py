"""A run's profile: phases, asynchronous arithmetic intensity, stragglers, and budget."""

from collections.abc import Mapping
from typing import Self

from atts.analysis.budget_use import Budget, budget
from atts.analysis.spans import (
    KINDS,
    PHASES,
    Kind,
    Phase,
    most_at_a_time,
    offsets,
    phase_seconds,
)
from atts.analysis.stragglers import LateChain, LateProblem, Tail, late_chains, late_problems, tail
from atts.config import MethodName
from atts.errors import GradingError
from atts.store.run_directory import RecordedRun
from atts.types import Record


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
    on requests, held back, which is for want of room in a batch or in memory. T_s: chains that
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


class Profile(Record):
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
    budget: Budget | None
    """None where nothing was decided."""


def profile(run: RecordedRun, stragglers: int = 5) -> Profile:
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
    return Profile(
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
