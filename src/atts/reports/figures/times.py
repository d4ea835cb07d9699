"""Where the time went."""

from collections.abc import Mapping, Sequence

import numpy as np

from atts.analysis.report import RunReport
from atts.analysis.spans import Phase, offsets, spans
from atts.reports.figures.base import (
    Area,
    Axis,
    Bars,
    Cell,
    Figure,
    Line,
    Look,
    label,
    rows_from_the_top,
)

BINS = 120

GROUPS: Mapping[str, Look] = {
    "draft": Look("draft"),
    "scoring": Look("score", hatch="\\"),
    "target": Look("target", hatch="/"),
    "held back": Look("held", hatch="-"),
    "waiting": Look("waiting", hatch="x"),
    "overhead": Look("overhead", hatch="+"),
}


def group_of(phase: Phase) -> str:
    """Of a phase, what is drawn as one.

    >>> group_of("draft decode"), group_of("score queue"), group_of("scoring")
    ('draft', 'held back', 'scoring')
    """
    if phase.endswith("queue"):
        return "held back"
    return phase if phase in GROUPS else phase.split(",")[0].split()[0]


def phases(runs: Sequence[RunReport]) -> Figure | None:
    """The share of each phase in the chain-seconds."""
    timed = [run for run in runs if run.profile.phases]
    if not timed:
        return None
    rows: list[tuple[Cell, ...]] = [
        (run.name, time.phase, time.kind, time.seconds, time.share)
        for run in timed
        for time in run.profile.phases
    ]
    sums = [dict.fromkeys(GROUPS, 0.0) for _ in timed]
    for run, of_run in zip(timed, sums, strict=True):
        for time in run.profile.phases:
            of_run[group_of(time.phase)] += time.share

    marks = []
    begin = [0.0] * len(timed)
    for group, look in GROUPS.items():
        shares = [100 * of_run[group] for of_run in sums]
        if any(shares):
            places = [*map(float, range(len(timed)))]
            marks.append(Bars(group, look, places, begin, shares, thickness=0.6))
        begin = [start + share for start, share in zip(begin, shares, strict=True)]

    seen = "; ".join(
        f"{run.name}: "
        + ", ".join(
            f"{100 * share:.1f} % {group}" for group, share in of_run.items() if share >= 0.0005
        )
        for run, of_run in zip(timed, sums, strict=True)
    )
    return Figure(
        "phases",
        "Where the chain-seconds went",
        f"{seen}.",
        ("run", "phase", "counts as", "chain-seconds", "share"),
        rows,
        Axis("% of the chain-seconds", 0, 100),
        rows_from_the_top([label(run.name) for run in timed]),
        marks,
        height=1.7 + 0.4 * len(timed),
    )


def timeline(run: RunReport, number: int) -> Figure | None:
    """How many chains were in each phase, over the run."""
    zeros = offsets(run.run.chains)
    wall = run.summary.wall_seconds
    if not zeros or wall <= 0:
        return None
    width = wall / BINS
    seconds = {group: np.zeros(BINS) for group in GROUPS}
    for chain in run.run.chains:
        if chain.key in zeros:
            for span in spans(chain, zeros[chain.key]):
                _spread(seconds[group_of(span.phase)], span.begin / width, span.end / width)
    seconds = {group: spent for group, spent in seconds.items() if spent.any()}
    middles = (np.arange(BINS) + 0.5) * width
    rows: list[tuple[Cell, ...]] = [
        (float(middles[index]), *(float(spent[index]) for spent in seconds.values()))
        for index in range(BINS)
    ]

    marks = [
        Area(group, GROUPS[group], [*map(float, middles)], [*map(float, spent)])
        for group, spent in seconds.items()
    ]
    return Figure(
        f"timeline-{number}",
        f"What chains were doing, {run.name}",
        f"{run.profile.mean_chains:.1f} chains in flight on average, {run.profile.most_chains} at "
        f"most, over {wall:,.1f} seconds; the last twentieth of the chains took the last "
        f"{run.profile.tail.seconds:,.1f} seconds.",
        ("second", *(f"chains, {group}" for group in seconds)),
        rows,
        Axis("seconds of the run", 0, wall),
        Axis("chains", low=0),
        marks,
    )


def intensity(runs: Sequence[RunReport]) -> Figure | None:
    """The asynchronous arithmetic intensity against the chains per problem, by method."""
    known = [run for run in runs if run.profile.intensity.r is not None]
    if len({run.summary.samples for run in known}) < 2:
        return None
    rows: list[tuple[Cell, ...]] = sorted(
        (
            run.summary.method,
            run.summary.samples,
            run.profile.intensity.r,
            run.profile.intensity.r_sync,
            run.name,
        )
        for run in known
    )
    methods = list(dict.fromkeys(str(row[0]) for row in rows))

    marks = []
    for number, method in enumerate(methods):
        mine = [row for row in rows if row[0] == method]
        counts, ratios = ([float(row[index] or 0) for row in mine] for index in (1, 2))
        marks.append(Line(method, Look.of_run(number), counts, ratios))
    numbers = sorted({int(row[1] or 0) for row in rows})

    seen = "; ".join(
        f"{method}: " + ", ".join(f"{row[2]:.2f} at {row[1]}" for row in rows if row[0] == method)
        for method in methods
    )
    return Figure(
        "intensity",
        "Asynchronous arithmetic intensity",
        f"{seen}.",
        ("method", "chains per problem", "r", "T_c / T_s", "run"),
        rows,
        Axis("chains per problem", ticks=[(n, str(n)) for n in numbers], doubling=True),
        Axis("r = compute / (held back + waiting)", low=0),
        marks,
    )


def _spread(bins: "np.ndarray[tuple[int], np.dtype[np.float64]]", begin: float, end: float) -> None:
    """Add a stretch, in units of bins, to the bins that it touches: a chain for all of it is 1."""
    first, last = int(begin), min(int(end), len(bins) - 1)
    if first >= last:
        bins[min(first, len(bins) - 1)] += end - begin
        return
    bins[first] += first + 1 - begin
    bins[first + 1 : last] += 1.0
    bins[last] += end - last
