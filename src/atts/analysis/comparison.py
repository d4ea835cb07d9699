"""What several runs over the same problems come to, side by side and against one of them.

Everything is computed from the recorded chains. Only the problems count that all runs have, with
all their chains done; what was measured of a whole run (its time, its peak) is left out where only
a part of it counts.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from atts.analysis.graded_run import grade_run
from atts.analysis.summary import Summary, summarise
from atts.analysis.tokens import (
    TokenBudget,
    Tokens,
    accepted_tokens,
    count_tokens,
    peak_target_tokens,
)
from atts.config import Config, differing_keys
from atts.errors import GradingError
from atts.grading.chains import mean_over_problems
from atts.grading.grader import Grader
from atts.grading.intervals import Interval
from atts.grading.paired import Difference, holm, paired_difference, paired_ratio
from atts.methods import METHODS
from atts.store.run_directory import RecordedRun
from atts.types import Author, Chain, Problem, Record

ACCURACY, ANSWER = "accuracy per chain", "accuracy of the answer"
WRITTEN, WORK = "target tokens written", "target tokens written and scored"


class NamedRun(NamedTuple):
    """A run to compare."""

    name: str
    directory: str
    run: RecordedRun


class Speed(Record):
    """What was measured of a whole run."""

    wall_seconds: float
    chains_per_second: float
    """Finished chains; those that failed or were not needed are left out."""
    accepted_tokens_per_second: float
    """Tokens that are part of finished chains, by either model."""
    peak_target_tokens: int
    """See ``atts.analysis.tokens``."""


class Against(Record):
    """A run against the reference, paired by problem."""

    accuracy: Difference
    accuracy_p_adjusted: float
    """By Holm's procedure over all runs that are compared with the reference."""
    answer: Difference
    answer_p_adjusted: float
    target_written: Interval | None
    """Ratio of the target tokens written a chain; None if the reference wrote none."""
    target_work: Interval | None
    """The same of the target tokens written and scored."""
    wall_seconds: float | None
    """Ratio of the times of whole runs over the same problems with as many chains."""


class ComparedRun(Record):
    """One run, as far as it counts in the comparison."""

    name: str
    directory: str
    summary: Summary
    answer: Interval
    """The share of problems whose answer is right: the one that the method selects, else the
    majority vote."""
    thrown_away: dict[Author, int]
    """Tokens written that are part of no finished chain: replaced, or of a chain that failed or was
    not needed. What the draft wrote ahead and in vain is in ``summary.tokens``."""
    target_written: float
    """Target tokens written a chain."""
    target_work: float
    """Target tokens written and scored a chain."""
    speed: Speed | None
    """None where only a part of the run counts."""
    spent: float | None
    """Target-equivalent tokens a problem, if there is a budget."""
    against: Against | None
    """None for the reference."""

    @property
    def accuracy(self) -> Interval:
        """Per chain: only problems with a gold answer count in a comparison."""
        if self.summary.accuracy is None:
            raise GradingError(f"{self.name}: no problem has a gold answer")
        return self.summary.accuracy


class Frontier(Record):
    """Which runs no other one beats: is at least as good for no more."""

    value: str
    cost: str
    runs: tuple[str, ...]
    """On the frontier, from the cheapest."""
    beaten: dict[str, str]
    """Run -> one that beats it."""


class ParetoPoint(NamedTuple):
    """What a run gives, and what it costs."""

    value: float
    """Higher is better."""
    cost: float
    """Lower is better."""


class Comparison(Record):
    """Several runs over the same problems. Intervals are 95 %, clustered by problem."""

    problems: int
    """How many count."""
    left_out: int
    """Problems of the runs that do not count."""
    reference: str
    budget: TokenBudget | None
    differing: tuple[str, ...]
    """Keys, besides those of the method and the take-over, in which the runs' configurations
    differ."""
    runs: tuple[ComparedRun, ...]
    frontiers: tuple[Frontier, ...]


def compare(
    runs: Sequence[NamedRun], reference: str, grader: Grader, budget: TokenBudget | None = None
) -> Comparison:
    """Compare runs with ``reference``, which names one of them.

    With a budget, each run counts with as many chains of every problem as it can pay: the first n,
    where n is the same for all problems, so that no problem's chains are chosen by their length.

    Raises:
        GradingError: the runs have no problem in common all of whose chains are done, or a run
            cannot pay for one chain, or cannot be cut as it has ended chains early.
    """
    shared = shared_problems([named.run.problems for named in runs])
    done = set.intersection(*({p.id for p in _done(named.run)} for named in runs))
    counted = [problem for problem in shared if problem.id in done and problem.is_graded]
    if shared and not any(problem.is_graded for problem in shared):
        raise GradingError(
            "the runs' problems have no gold answers, so no accuracy to compare: see atts report"
        )
    if not counted:
        raise GradingError(
            "the runs have no problem in common"
            + (" all of whose chains are done; let the runs go on" if shared else "")
        )
    parts = [_part(named.run, counted, budget, named.name) for named in runs]
    compared = [
        _figures(named, part, grader, budget) for named, part in zip(runs, parts, strict=True)
    ]
    first = next(index for index, run in enumerate(compared) if run.name == reference)
    every = {problem.id for named in runs for problem in named.run.problems}
    return Comparison(
        problems=len(counted),
        left_out=len(every) - len(counted),
        reference=reference,
        budget=budget,
        differing=tuple(_differing([named.run.config for named in runs])),
        runs=tuple(_against(compared, parts, first)),
        frontiers=tuple(_frontiers(compared)),
    )


def answers(summary: Summary) -> dict[str, float]:
    """Whether each problem's answer is right: the selected one, else that of the majority vote."""
    if summary.selected_by_problem is None:
        return summary.majority_by_problem
    return summary.selected_by_problem


def shared_problems(of_runs: Sequence[Sequence[Problem]]) -> list[Problem]:
    """The problems that all runs have, question, answer and choices alike; in the first's order."""
    others = [{problem.id: problem for problem in problems} for problems in of_runs[1:]]
    return [
        problem
        for problem in of_runs[0]
        if all(other.get(problem.id) == problem for other in others)
    ]


def _done(run: RecordedRun) -> list[Problem]:
    """The problems all of whose chains are recorded."""
    chains = _by_problem(run.chains)
    return [p for p in run.problems if len(chains.get(p.id, ())) == run.config.samples]


def _by_problem(chains: Sequence[Chain]) -> dict[str, list[Chain]]:
    found: dict[str, list[Chain]] = defaultdict(list)
    for chain in sorted(chains, key=lambda chain: chain.key):
        found[chain.problem_id].append(chain)
    return found


def _part(
    run: RecordedRun, problems: Sequence[Problem], budget: TokenBudget | None, name: str
) -> RecordedRun:
    """What counts of a run."""
    chains = _by_problem(run.chains)
    samples = run.config.samples
    if budget:
        if any(not chain.is_needed for chain in run.chains):
            raise GradingError(
                f"{name} has ended chains that were not needed, so that it cannot count with some "
                "of its chains: compare it without a budget"
            )
        # What the first, second, ... chain of a problem costs, on average over problems.
        costs = [
            budget.of(
                count_tokens(run.config, (chains[problem.id][sample] for problem in problems))
            )
            / len(problems)
            for sample in range(samples)
        ]
        while samples and sum(costs[:samples]) > budget.tokens:
            samples -= 1
        if not samples:
            raise GradingError(
                f"a budget of {budget.tokens:g} does not pay for one chain a problem of {name}: "
                f"that takes {costs[0]:,.1f} target-equivalent tokens"
            )
    return run._replace(
        config=run.config.model_copy(update={"samples": samples}),
        problems=tuple(problems),
        chains=tuple(chain for problem in problems for chain in chains[problem.id][:samples]),
    )


def _figures(
    named: NamedRun, part: RecordedRun, grader: Grader, budget: TokenBudget | None
) -> ComparedRun:
    summary = summarise(grade_run(part, grader))
    # The digest names the run as it was made.
    summary = summary.model_copy(update={"digest": named.run.config.digest()})
    accepted = accepted_tokens(part.chains)
    written, scored = summary.tokens.target_written, summary.tokens.target_scored
    whole = len(part.chains) == len(named.run.chains)
    return ComparedRun(
        name=named.name,
        directory=named.directory,
        summary=summary,
        answer=mean_over_problems(answers(summary)),
        thrown_away={
            "draft": summary.tokens.draft_written - accepted["draft"],
            "target": written - accepted["target"],
        },
        target_written=written / summary.chains,
        target_work=(written + scored) / summary.chains,
        speed=_speed(part.chains, summary, sum(accepted.values())) if whole else None,
        spent=budget.of(summary.tokens) / summary.problems if budget else None,
        against=None,
    )


def _speed(chains: Sequence[Chain], summary: Summary, accepted: int) -> Speed | None:
    seconds = summary.wall_seconds
    if seconds <= 0.0:
        return None
    return Speed(
        wall_seconds=seconds,
        chains_per_second=(summary.chains - summary.failed - summary.not_needed) / seconds,
        accepted_tokens_per_second=accepted / seconds,
        peak_target_tokens=peak_target_tokens(chains),
    )


def _against(
    compared: Sequence[ComparedRun], parts: Sequence[RecordedRun], first: int
) -> list[ComparedRun]:
    """The runs, each against the one at ``first``."""
    reference = compared[first]
    others = [index for index in range(len(compared)) if index != first]

    def differences(of: Callable[[Summary], dict[str, float]]) -> dict[int, Difference]:
        return {
            index: paired_difference(of(compared[index].summary), of(reference.summary))
            for index in others
        }

    def adjusted(found: Mapping[int, Difference]) -> dict[int, float]:
        p_values = holm([difference.p_value for difference in found.values()])
        return dict(zip(found, p_values, strict=True))

    accuracy = differences(lambda summary: summary.accuracy_by_problem)
    answer = differences(answers)
    accuracy_p, answer_p = adjusted(accuracy), adjusted(answer)
    written = [_by_chain(part, lambda tokens: tokens.target_written) for part in parts]
    work = [
        _by_chain(part, lambda tokens: tokens.target_written + tokens.target_scored)
        for part in parts
    ]
    against = {
        index: Against(
            accuracy=accuracy[index],
            accuracy_p_adjusted=accuracy_p[index],
            answer=answer[index],
            answer_p_adjusted=answer_p[index],
            target_written=paired_ratio(written[index], written[first]),
            target_work=paired_ratio(work[index], work[first]),
            wall_seconds=_time_ratio(compared[index], reference),
        )
        for index in others
    }
    return [
        run.model_copy(update={"against": against.get(index)}) for index, run in enumerate(compared)
    ]


def _by_chain(part: RecordedRun, count: Callable[[Tokens], int]) -> dict[str, float]:
    """Tokens of a kind a chain, by problem."""
    return {
        name: count(count_tokens(part.config, chains)) / len(chains)
        for name, chains in _by_problem(part.chains).items()
    }


def _time_ratio(run: ComparedRun, reference: ComparedRun) -> float | None:
    if not run.speed or not reference.speed or run.summary.chains != reference.summary.chains:
        return None
    return run.speed.wall_seconds / reference.speed.wall_seconds


def _frontiers(runs: Sequence[ComparedRun]) -> list[Frontier]:
    """Per chain, and of the answer to a problem, for which all its chains are paid."""
    return [
        _frontier(runs, value, cost, [point(run, value, cost) for run in runs])
        for value in (ACCURACY, ANSWER)
        for cost in (WRITTEN, WORK)
    ]


def point(run: ComparedRun, value: str, cost: str) -> ParetoPoint:
    """Where a run stands: per chain for ``ACCURACY``, per problem for ``ANSWER``."""
    tokens = run.target_written if cost == WRITTEN else run.target_work
    if value == ACCURACY:
        return ParetoPoint(run.accuracy.estimate, tokens)
    return ParetoPoint(run.answer.estimate, tokens * run.summary.chains / run.summary.problems)


def _frontier(
    runs: Sequence[ComparedRun], value: str, cost: str, points: Sequence[ParetoPoint]
) -> Frontier:
    winners = beaten_by(points)
    order = sorted(range(len(runs)), key=lambda index: points[index].cost)
    return Frontier(
        value=value,
        cost=cost,
        runs=tuple(runs[index].name for index in order if winners[index] is None),
        beaten={
            runs[index].name: runs[winner].name
            for index in order
            if (winner := winners[index]) is not None
        },
    )


def beaten_by(points: Sequence[ParetoPoint]) -> list[int | None]:
    """For each point the most valuable one that beats it; None if it is on the frontier.

    A point beats another if it is worth at least as much for no more, and better in one of the two
    (Pareto dominance). Points that are the same do not beat each other.

    >>> beaten_by([ParetoPoint(*p) for p in ((0.6, 0), (0.9, 50), (0.8, 70), (0.9, 90))])
    [None, None, 1, 1]
    """
    winners: list[int | None] = []
    for point in points:
        better = [
            index
            for index, other in enumerate(points)
            if other != point and other.value >= point.value and other.cost <= point.cost
        ]
        # Of equally valuable ones the cheapest: a point that is itself on the frontier.
        winners.append(
            min(better, key=lambda index: (-points[index].value, points[index].cost))
            if better
            else None
        )
    return winners


def _differing(configs: Sequence[Config]) -> list[str]:
    found = differing_keys(*(config.what_results_depend_on() for config in configs))
    of_methods = {"take_over", *(name.replace("-", "_") for name in METHODS)}
    return [key for key in found if key != "method" and key.split(".")[0] not in of_methods]
