"""Advice as tables: what the pilot showed, what is predicted, and what requests take."""

from collections.abc import Iterator, Mapping, Sequence

from atts.advice.advice import Advice, Advised, Prediction
from atts.advice.prices import Level, Line, Prices
from atts.grading.intervals import Interval
from atts.reports.replay_table import letters
from atts.reports.summary_table import percent
from atts.reports.table_layout import ABSENT, Figure, Sheet

SEGMENT = 48
"""Tokens of the requests that are shown."""


def tables(advice: Advice) -> Iterator[Sheet]:
    """All that there is something to show in."""
    if advice.prices:
        yield prices_table(advice.prices)
    yield ways_table(advice)
    if any(way.predictions for way in advice.ways):
        yield predictions_table(advice)


def prices_table(prices: Prices) -> Sheet:
    """What a token takes of the servers' time, by how many are in flight."""
    levels = prices.levels
    draft, target, score = (
        [_us(getattr(level, name), level) for level in levels]
        for name in ("draft", "target", "score")
    )
    room = [
        f"the {name}'s cache holds {tokens:,} tokens"
        for name, tokens in (("draft", prices.draft_room), ("target", prices.target_room))
        if tokens is not None
    ]
    told = [
        f"{100 * prices.cached:.0f} % of a scored segment's prefix was cached",
        f"a prompt's token takes {1e6 * prices.prefill_token:.0f} us",
        f"a request {1e3 * prices.client_seconds:.1f} ms of the client",
        *room,
    ]
    return Sheet(
        things=[f"{level.in_flight:,}" for level in levels],
        figures=[
            Figure("draft, us", [f"{one:,.0f}" for one in draft]),
            Figure("target, us", [f"{one:,.0f}" for one in target]),
            Figure("score, us", [f"{one:,.0f}" for one in score]),
            Figure("d", _ratios(draft, target)),
            Figure("s", _ratios(score, target)),
            Figure("draft beside target, x", [f"{one.draft_beside:.2f}" for one in levels]),
            Figure("target beside draft, x", [f"{one.target_beside:.2f}" for one in levels]),
        ],
        caption="What a token takes, all chains together: written by the draft, by the target, and "
        f"scored, in segments of {SEGMENT} tokens; d and s are the first and the last over the "
        "second. "
        f"Beside: times as long while the other writes too. {'; '.join(told)}.",
        corner="in flight",
        as_rows=True,
    )


def _us(line: Line, level: Level) -> float:
    """Microseconds of a token, all chains together."""
    return 1e6 * line.seconds(SEGMENT) / SEGMENT / level.in_flight


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[str]:
    return [f"{a / b:.2f}" if b else ABSENT for a, b in zip(ours, theirs, strict=True)]


def ways_table(advice: Advice) -> Sheet:
    """What chains of each way are like."""
    ways = advice.ways
    figures = [
        Figure("way", [way.name for way in ways], is_words=True),
        Figure("accuracy a chain, %", [percent(way.accuracy) for way in ways]),
        Figure("minus target-only", [_loss(way) for way in ways]),
        Figure("tokens a chain", [f"{way.chain_tokens:,.0f}" for way in ways]),
        Figure("target writes", [f"{way.target_written:,.0f}" for way in ways]),
        Figure("target scores", [f"{way.target_scored:,.0f}" for way in ways]),
        Figure("draft writes", [f"{way.draft_written:,.0f}" for way in ways]),
    ]
    if any(way.relative for way in ways):
        told = [ABSENT if way.relative is None else f"{way.relative:.2f}" for way in ways]
        figures.append(Figure("time a chain, x", told))
    return Sheet(
        things=letters(ways),
        figures=figures,
        caption=f"{advice.problems} problems x {advice.samples} chains. Intervals are 95 %, "
        "clustered by problem; of few problems they are wide, and atts tune certifies a loss."
        + ("" if advice.prices else f" Times are by {advice.by}."),
        as_rows=True,
    )


def _loss(way: Advised) -> str:
    if way.loss is None:
        return ABSENT
    low, high = 100 * way.loss.low, 100 * way.loss.high
    return f"{100 * way.loss.estimate:+.1f} ({low:+.1f}..{high:+.1f})"


def predictions_table(advice: Advice) -> Sheet:
    """A line for each way with each number in flight."""
    named = dict(zip(letters(advice.ways), advice.ways, strict=True))
    rows = [(letter, one) for letter, way in named.items() for one in way.predictions]
    chains = rows[0][1].chains
    return Sheet(
        things=[letter for letter, _ in rows],
        figures=[
            Figure("in flight", [f"{one.in_flight:,}" for _, one in rows]),
            Figure("tokens/s", _told(rows, "tokens_per_second", 0)),
            Figure("last chain, s", _told(rows, "seconds", 1)),
            Figure("x target-only", _told(rows, "speedup", 2)),
            Figure("limited by", [one.limited_by for _, one in rows], is_words=True),
        ],
        caption=f"Predicted of the ways above, {chains:,} chains each: to the end of the last one. "
        "Intervals are those of other chains like the pilot's, and of what the model is off by on "
        f"real servers.{_pilots(named)}",
        as_rows=True,
    )


def _pilots(named: Mapping[str, Advised]) -> str:
    """How far the pilot's own time was from what the model says of it."""
    told = [f"{name} {way.as_predicted:.2f}" for name, way in named.items() if way.as_predicted]
    return f" The pilot took, over what the model says of it: {', '.join(told)}." if told else ""


def _told(rows: Sequence[tuple[str, Prediction]], name: str, digits: int) -> list[str]:
    found: list[Interval] = [getattr(one, name) for _, one in rows]
    return [
        f"{each.estimate:,.{digits}f} ({each.low:,.{digits}f}-{each.high:,.{digits}f})"
        for each in found
    ]
