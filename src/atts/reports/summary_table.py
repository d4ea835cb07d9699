"""The table that compares runs."""

import re
from collections.abc import Callable, Sequence

from atts.analysis.summary import Summary, TurnRate
from atts.grading.intervals import Interval
from atts.grading.paired import paired_difference
from atts.methods import METHODS
from atts.reports.table_layout import ABSENT, Figure, Sheet

DRIFT = "drift alarm"

Cell = Callable[[Summary], str]
"""One figure of a run as it stands in the table; ``ABSENT`` where the run has none."""


def comparison(runs: Sequence[tuple[str, Summary]]) -> Sheet:
    """A table of runs, (name, summary), by metrics; a metric that no run has is left out."""
    return Sheet(
        things=[heading(name) for name, _ in runs],
        figures=[
            Figure(label, cells, is_words=label == DRIFT)
            for label, cells in comparison_rows([summary for _, summary in runs])
        ],
        caption="Intervals are 95 %, clustered by problem.",
    )


def heading(name: str) -> str:
    r"""The name of a run, a line for the method and one for each setting, without its group.

    >>> heading("atts:take_over.rate=0.2,seed=1"), heading("atts, replace, 0.2")
    ('atts\nrate=0.2\nseed=1', 'atts\nreplace\n0.2')
    """
    method, colon, settings = name.partition(":")
    if not colon:
        return name.replace(", ", "\n")
    settings = re.sub(r"[\w.]+\.(?=\w+=)", "", settings)
    return f"{method}\n" + re.sub(r",(?=\w+=)", "\n", settings)


def comparison_rows(
    summaries: Sequence[Summary], by_turn: bool = True
) -> list[tuple[str, list[str]]]:
    """The metrics that any run has: a label, and a cell for each run.

    Without ``by_turn`` the rates of single turns, which may be very many, are left out.
    """
    all_rows = _rows(summaries, by_turn)
    rows = [(label, [of(summary) for summary in summaries]) for label, of in all_rows]
    return [(label, cells) for label, cells in rows if any(cell != ABSENT for cell in cells)]


def _rows(summaries: Sequence[Summary], by_turn: bool) -> list[tuple[str, Cell]]:
    ks = sorted(
        {k for summary in summaries for k in powers_of_two(max(summary.pass_at_k, default=0))}
    )
    turns = max((t.turn + 1 for s in summaries if by_turn for t in _turns(s)), default=0)
    return [
        ("problems x chains", lambda s: f"{s.problems} x {s.samples}"),
        ("chains not done yet", lambda s: count(s.expected_chains - s.chains)),
        ("accuracy per chain, %", lambda s: _graded(s.accuracy)),
        ("  minus the first run's", _difference(summaries)),
        ("  p of that, paired", _p_value(summaries)),
        ("majority vote, %", lambda s: _graded(s.majority_vote)),
        ("  problems not graded", lambda s: count(s.not_graded if s.accuracy else 0)),
        ("selected answer, %", lambda s: percent(s.selected) if s.selected else ABSENT),
        # pass@1 is the accuracy per chain
        *((f"pass@{k}, %", _pass_at(k)) for k in ks if k > 1),
        ("take-over, nominal, %", nominal),
        ("take-over, realised, %", _realised),
        ("  promised by calibration, %", _promised),
        ("  off by at most, %", _bound),
        ("passed unscored, %", passed),
        *((f"  turn {turn}, % of decisions", _in_turn(turn)) for turn in range(turns)),
        (DRIFT, _drift),
        ("draft tokens written", lambda s: f"{s.tokens.draft_written:,}"),
        ("  cut off", lambda s: count(s.tokens.draft_cut)),
        ("  ahead and in vain, about", lambda s: count(s.tokens.draft_discarded)),
        ("target tokens written", lambda s: f"{s.tokens.target_written:,}"),
        ("target tokens scored", lambda s: f"{s.tokens.target_scored:,}"),
        ("tokens a pass of the target", tokens_a_pass),
        ("wall time, s", lambda s: f"{s.wall_seconds:,.1f}"),
        ("  x that of target-only", _wall_ratio(summaries)),
        ("chains without answer, %", lambda s: share(s.invalid)),
        ("ungraded chains, %", lambda s: share(s.ungraded)),
        ("failed chains", lambda s: count(s.failed)),
        ("chains not needed", lambda s: count(s.not_needed)),
        ("  tokens saved, at least about", lambda s: count(s.tokens_saved)),
    ]


def powers_of_two(largest: int) -> list[int]:
    """Powers of two up to a number, and the number.

    >>> powers_of_two(12)
    [1, 2, 4, 8, 12]
    """
    return sorted({1 << power for power in range(largest.bit_length())} | {largest})


def percent(interval: Interval) -> str:
    """An estimate and its interval, in percent.

    >>> percent(Interval(estimate=0.5, low=0.25, high=1.0))
    '50.0 (25.0-100)'
    """
    estimate, low, high = (
        f"{100 * share:.1f}".replace("100.0", "100")
        for share in (interval.estimate, interval.low, interval.high)
    )
    return f"{estimate} ({low}-{high})"


def _graded(interval: Interval | None) -> str:
    return "not graded" if interval is None else percent(interval)


def passed(summary: Summary) -> str:
    """With a gate: the share of the decisions that were made unscored."""
    if summary.take_over is None:
        return ABSENT
    return share(summary.take_over.passed / summary.take_over.decisions)


def tokens_a_pass(summary: Summary) -> str:
    """With speculative decoding: what each pass brought, and the share of proposals accepted."""
    told = summary.speculation.get("target")
    if told is None or not told.proposed:
        return ABSENT
    accepted = 100 * told.accepted / told.proposed
    return f"{told.tokens_a_pass:.2f} ({accepted:.0f} % accepted)"


def count(number: int) -> str:
    return f"{number:,}" if number else ABSENT


def share(share: float) -> str:
    return f"{100 * share:.1f}" if share else ABSENT


def _difference(summaries: Sequence[Summary]) -> Cell:
    """By how much the accuracy is above that of the first run, over the same problems."""

    def difference(summary: Summary) -> str:
        if not _comparable(summaries[0], summary):
            return ABSENT
        found = paired_difference(summary.accuracy_by_problem, summaries[0].accuracy_by_problem)
        return f"{100 * found.estimate:+.1f} ({100 * found.low:.1f}..{100 * found.high:.1f})"

    return difference


def _p_value(summaries: Sequence[Summary]) -> Cell:
    def p_value(summary: Summary) -> str:
        if not _comparable(summaries[0], summary):
            return ABSENT
        found = paired_difference(summary.accuracy_by_problem, summaries[0].accuracy_by_problem)
        return f"{found.p_value:.3f}" if found.p_value >= 0.001 else "<0.001"

    return p_value


def _comparable(first: Summary, summary: Summary) -> bool:
    same = summary.problems_digest == first.problems_digest and summary.accuracy is not None
    return summary is not first and same and first.is_whole and summary.is_whole


def _pass_at(k: int) -> Cell:
    return lambda s: percent(s.pass_at_k[k]) if k in s.pass_at_k else ABSENT


def nominal(summary: Summary) -> str:
    if summary.take_over is None or summary.take_over.nominal is None:
        return ABSENT
    return f"{100 * summary.take_over.nominal:.1f}"


def _realised(summary: Summary) -> str:
    return percent(summary.take_over.realised) if summary.take_over else ABSENT


def _promised(summary: Summary) -> str:
    """What split control may realise, by the size of its calibration."""
    if summary.promised_rate is None:
        return ABSENT
    low, high = summary.promised_rate.low, summary.promised_rate.high
    return f"{100 * low:.1f}-{100 * high:.1f}"


def _drift(summary: Summary) -> str:
    if summary.drift is None:
        return ABSENT
    return f"at {summary.drift.since or ''}" if summary.drift.alarm else "none"


def _bound(summary: Summary) -> str:
    """What adaptive control guarantees of the rate of all decisions."""
    if summary.take_over is None or not summary.take_over.tracked:
        return ABSENT
    return f"{100 * min(summary.take_over.tracked[0].bound, 1.0):.1f}"


def _turns(summary: Summary) -> Sequence[TurnRate]:
    """By turn, where the method aims at a rate; the steps of others may be very many."""
    if summary.take_over is None or summary.take_over.nominal is None:
        return ()
    return summary.take_over.by_turn


def _in_turn(turn: int) -> Cell:
    """The realised take-over rate of one turn, and of how many decisions."""

    def rate(summary: Summary) -> str:
        found = next((each for each in _turns(summary) if each.turn == turn), None)
        return f"{100 * found.rate:.1f} of {found.decisions:,}" if found else ABSENT

    return rate


def _wall_ratio(summaries: Sequence[Summary]) -> Cell:
    """Wall time as a multiple of that of target-only over the same problems and samples."""

    def work(summary: Summary) -> tuple[str, int]:
        return summary.problems_digest, summary.samples

    # Of several, the first: a table has one reference. Half a run's time compares with nothing.
    references: dict[tuple[str, int], float] = {}
    for summary in summaries:
        reference = METHODS[summary.method].is_reference
        if reference and summary.is_whole and summary.wall_seconds > 0:
            references.setdefault(work(summary), summary.wall_seconds)

    def ratio(summary: Summary) -> str:
        reference = references.get(work(summary))
        if reference is None or not summary.is_whole:
            return ABSENT
        return f"{summary.wall_seconds / reference:.2f}"

    return ratio
