"""A comparison as a table, as CSV, and its frontiers in words."""

from collections.abc import Callable
from typing import Any

from atts.analysis.comparison import (
    ACCURACY,
    WORK,
    WRITTEN,
    Against,
    ComparedRun,
    Comparison,
    Speed,
)
from atts.analysis.tokens import Tokens
from atts.config import flatten
from atts.grading.intervals import Interval
from atts.grading.paired import Difference
from atts.reports.summary_table import (
    count,
    heading,
    nominal,
    passed,
    percent,
    powers_of_two,
    share,
    tokens_a_pass,
)
from atts.reports.table_formats import csv_lines
from atts.reports.table_layout import ABSENT, Figure, Sheet
from atts.types import Author

Cell = Callable[[ComparedRun], str]


def table(comparison: Comparison) -> Sheet:
    """Runs by figures; a figure that no run has is left out."""
    runs = comparison.runs
    rows = [(label, [figure(run) for run in runs]) for label, figure in _rows(comparison)]
    return Sheet(
        things=[heading(run.name) for run in runs],
        figures=[Figure(*row) for row in rows if any(cell != ABSENT for cell in row[1])],
        caption=_caption(comparison),
    )


def frontier_lines(comparison: Comparison) -> list[str]:
    """The frontiers in words, and of each run that is not on one what beats it there."""
    lines = []
    for frontier in comparison.frontiers:
        lines.append(f"{frontier.value} against {frontier.cost}: {', '.join(frontier.runs)}")
        if frontier.beaten:
            beaten = (f"{run} (by {winner})" for run, winner in frontier.beaten.items())
            lines.append(f"  beaten: {', '.join(beaten)}")
    return lines


def to_csv(comparison: Comparison) -> str:
    """A line a run, with the figures that ``--json`` has, under dotted names.

    What has a part for each problem, turn or group is left to ``--json``.
    """
    rows = [_flat(run) for run in comparison.runs]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return csv_lines(columns, ([row.get(column, "") for column in columns] for row in rows))


def _flat(run: ComparedRun) -> dict[str, Any]:
    figures = flatten(run.model_dump(mode="json"))
    return {
        name: value
        for name, value in figures.items()
        if value is not None and not isinstance(value, list) and "_by_problem." not in name
    }


def _caption(comparison: Comparison) -> str:
    lines = [
        f"The reference is {comparison.reference}. Intervals are 95 %, clustered by "
        "problem; p is that of the exact sign-flip test over problems, in brackets adjusted for "
        "the number of runs (Holm).",
    ]
    if budget := comparison.budget:
        lines.append(
            f"Each run counts with as many chains as {budget.tokens:g} target-equivalent tokens a "
            f"problem pay for: written by the target 1, scored by it {budget.score_cost:g}, "
            f"written by the draft {budget.draft_cost:g}."
        )
    return "\n".join(lines)


def _requests(of: Callable[[Tokens], int]) -> Cell:
    def cell(run: ComparedRun) -> str:
        requests = of(run.summary.tokens)
        return f"{requests / run.summary.chains:,.1f}" if requests else ABSENT

    return cell


def _rows(comparison: Comparison) -> list[tuple[str, Cell]]:
    runs = comparison.runs
    ks = sorted({k for run in runs for k in powers_of_two(max(run.summary.pass_at_k, default=0))})
    return [
        ("problems x chains", lambda r: f"{r.summary.problems} x {r.summary.samples}"),
        ("tokens spent a problem", lambda r: ABSENT if r.spent is None else f"{r.spent:,.0f}"),
        ("accuracy per chain, %", lambda r: _percent(r.summary.accuracy)),
        ("  minus the reference's", _against(lambda a: _points(a.accuracy))),
        ("  p, paired", _against(lambda a: _p(a.accuracy.p_value, a.accuracy_p_adjusted))),
        ("majority vote, %", lambda r: _percent(r.summary.majority_vote)),
        ("selected answer, %", _selected),
        ("answer, minus the ref.'s", _against(lambda a: _points(a.answer))),
        ("  p, paired", _against(lambda a: _p(a.answer.p_value, a.answer_p_adjusted))),
        # pass@1 is the accuracy per chain
        *((f"pass@{k}, %", _pass_at(k)) for k in ks if k > 1),
        ("take-over, nominal, %", lambda r: nominal(r.summary)),
        ("take-over, realised, %", _realised),
        ("passed unscored, %", lambda r: passed(r.summary)),
        ("wall time, s", _speed(lambda s: f"{s.wall_seconds:,.1f}")),
        ("  x the reference's", _against(lambda a: _number(a.wall_seconds))),
        ("chains / s", _speed(lambda s: f"{s.chains_per_second:,.2f}")),
        ("accepted tokens / s", _speed(lambda s: f"{s.accepted_tokens_per_second:,.0f}")),
        ("tokens a pass of the target", lambda r: tokens_a_pass(r.summary)),
        ("peak tokens on the target", _speed(lambda s: f"{s.peak_target_tokens:,}")),
        ("draft tokens written", lambda r: f"{r.summary.tokens.draft_written:,}"),
        ("  thrown away", _thrown_away("draft")),
        ("  cut off", lambda r: count(r.summary.tokens.draft_cut)),
        ("  ahead and in vain, about", lambda r: count(r.summary.tokens.draft_discarded)),
        ("target tokens written", lambda r: f"{r.summary.tokens.target_written:,}"),
        ("  thrown away", _thrown_away("target")),
        ("  a chain, x reference's", _against(lambda a: _ratio(a.target_written))),
        ("target tokens scored", lambda r: f"{r.summary.tokens.target_scored:,}"),
        ("  and written, x ref.'s", _against(lambda a: _ratio(a.target_work))),
        ("requests a chain, draft", _requests(lambda t: t.draft_requests)),
        ("  score", _requests(lambda t: t.score_requests)),
        ("  target", _requests(lambda t: t.target_requests)),
        ("on the frontier: written", _on_frontier(comparison, WRITTEN)),
        ("  written and scored", _on_frontier(comparison, WORK)),
        ("chains without answer, %", lambda r: share(r.summary.invalid)),
        ("ungraded chains, %", lambda r: share(r.summary.ungraded)),
        ("failed chains", lambda r: count(r.summary.failed)),
        ("chains not needed", lambda r: count(r.summary.not_needed)),
    ]


def _percent(interval: Interval | None) -> str:
    return ABSENT if interval is None else percent(interval)


def _points(difference: Difference) -> str:
    estimate, low, high = (
        100 * share for share in (difference.estimate, difference.low, difference.high)
    )
    return f"{estimate:+.1f} ({low:.1f}..{high:.1f})"


def _p(p_value: float, adjusted: float) -> str:
    plain, corrected = (f"{p:.3f}" if p >= 0.001 else "<0.001" for p in (p_value, adjusted))
    return f"{plain} ({corrected})"


def _number(ratio: float | None) -> str:
    return ABSENT if ratio is None else f"{ratio:.2f}"


def _ratio(ratio: Interval | None) -> str:
    if ratio is None:
        return ABSENT
    return f"{ratio.estimate:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"


def _against(figure: Callable[[Against], str]) -> Cell:
    return lambda run: figure(run.against) if run.against else ABSENT


def _speed(figure: Callable[[Speed], str]) -> Cell:
    return lambda run: figure(run.speed) if run.speed else ABSENT


def _pass_at(k: int) -> Cell:
    return lambda run: _percent(run.summary.pass_at_k[k]) if k in run.summary.pass_at_k else ABSENT


def _realised(run: ComparedRun) -> str:
    take_over = run.summary.take_over
    return _percent(take_over.realised) if take_over else ABSENT


def _selected(run: ComparedRun) -> str:
    return _percent(run.summary.selected) if run.summary.selected else ABSENT


def _thrown_away(author: Author) -> Cell:
    return lambda run: count(run.thrown_away[author])


def _on_frontier(comparison: Comparison, cost: str) -> Cell:
    """Of the accuracy per chain."""
    names = next(f.runs for f in comparison.frontiers if (f.value, f.cost) == (ACCURACY, cost))
    return lambda run: "yes" if run.name in names else "no"
