"""What runs came to, in a sentence each: no more than the intervals show."""

from collections.abc import Sequence

from atts.analysis.report import RunReport
from atts.grading.paired import Difference, holm, paired_difference
from atts.methods import METHODS

LEVEL = 0.05
FEWEST = 6
"""Problems below which the exact test cannot reach that level: 2 of the 2^5 signs are 0.06."""


def verdicts(runs: Sequence[RunReport]) -> dict[str, str]:
    """A sentence for each run, by name.

    Of the runs over the same problems each is compared with the target alone, if a whole run of it
    is there, else with the first whole one; that one is told by itself. A difference is claimed
    only where its interval leaves out 0 and the exact paired test, corrected for the number of
    comparisons (Holm), rejects at 5 %.
    """
    over: dict[str, list[RunReport]] = {}
    for run in runs:
        over.setdefault(run.summary.problems_digest, []).append(run)
    references = {digest: _reference(some) for digest, some in over.items()}
    against = {run.name: references[run.summary.problems_digest] for run in runs}
    apart = {run.name: why for run in runs if (why := _not_comparable(run, against[run.name]))}
    found = {
        run.name: paired_difference(
            run.summary.accuracy_by_problem, against[run.name].summary.accuracy_by_problem
        )
        for run in runs
        if run is not against[run.name] and run.name not in apart
    }
    adjusted = dict(
        zip(found, holm([difference.p_value for difference in found.values()]), strict=True)
    )
    said = {}
    for run in runs:
        name, reference = run.name, against[run.name]
        if run is reference:
            others = (
                " Other runs have other problems: atts compare takes those that they share."
                if len(over) > 1
                else ""
            )
            said[name] = _alone(run) + others
        elif name in apart:
            said[name] = f"{name} is not compared with {reference.name}: {apart[name]}."
        else:
            accuracy = _accuracy(name, reference, found[name], adjusted[name], len(found))
            said[name] = f"{accuracy}{_costs(run, reference)}."
    return said


def _reference(runs: Sequence[RunReport]) -> RunReport:
    whole = [run for run in runs if run.summary.is_whole]
    alone = [run for run in whole if METHODS[run.summary.method].is_reference]
    return (alone or whole or list(runs))[0]


def _not_comparable(run: RunReport, reference: RunReport) -> str | None:
    if run is reference:
        return None
    ours, theirs = run.summary, reference.summary
    if ours.accuracy is None or theirs.accuracy is None:
        return "no problem has a gold answer"
    for summary, name in ((ours, "its"), (theirs, f"{reference.name}'s")):
        if not summary.is_whole:
            return f"{summary.expected_chains - summary.chains:,} of {name} chains are not done yet"
    return None


def _alone(run: RunReport) -> str:
    summary = run.summary
    chains = f"{summary.problems:,} problems x {summary.samples} chains"
    if not summary.is_whole:
        chains += f", {summary.chains:,} chains of them done"
    if summary.accuracy is None:
        return f"{run.name}: {chains}, without gold answers."
    accuracy = summary.accuracy
    return (
        f"{run.name}: {100 * accuracy.estimate:.1f} % of chains are right "
        f"({100 * accuracy.low:.1f}-{100 * accuracy.high:.1f}; {chains})."
    )


def _accuracy(
    name: str, reference: RunReport, found: Difference, adjusted: float, compared: int
) -> str:
    points = f"{100 * found.low:+.1f}..{100 * found.high:+.1f}"
    p_value = f"p {_p(found.p_value)}"
    if compared > 1:
        p_value += f", adjusted {_p(adjusted).removeprefix('= ')}"
    if adjusted < LEVEL and not found.low <= 0.0 <= found.high:
        which = "less" if found.estimate < 0.0 else "more"
        return (
            f"{name} is {100 * abs(found.estimate):.1f} points {which} accurate than "
            f"{reference.name} (95 % {points}; {p_value})"
        )
    few = reference.summary.problems
    unable = f", which so few problems ({few}) could not show" if few < FEWEST else ""
    return (
        f"{name}: no difference in accuracy from {reference.name} is seen{unable} "
        f"({100 * found.estimate:+.1f} points, 95 % {points}; {p_value})"
    )


def _p(p_value: float) -> str:
    return f"= {p_value:.2g}" if p_value >= 0.001 else "< 0.001"


def _costs(run: RunReport, reference: RunReport) -> str:
    ours, theirs = run.summary, reference.summary
    parts = []
    if theirs.tokens.target_written:
        each = ours.tokens.target_written / ours.chains
        share = each / (theirs.tokens.target_written / theirs.chains)
        parts.append(f"{100 * share:.0f} % of its target tokens")
    time = _time(run, reference)
    if time is not None:
        parts.append(f"{time:.2f} x its time")
    told = f", with {' and '.join(parts)}" if parts else ""
    if time is None and ours.wall_seconds and theirs.wall_seconds:
        told += "; their times do not compare"
    return told


def _time(run: RunReport, reference: RunReport) -> float | None:
    """Of whole runs with as many chains, each made in one go and on the same machine."""
    ours, theirs = run.summary, reference.summary
    machines = {
        (each.processor, each.cpus, each.gpus)
        for one in (run, reference)
        for each in one.environments
    }
    once = all(len(one.environments) <= 1 for one in (run, reference))
    if not once or len(machines) > 1 or ours.chains != theirs.chains or not theirs.wall_seconds:
        return None
    return ours.wall_seconds / theirs.wall_seconds
