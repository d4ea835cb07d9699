"""Asynchronous test-time scaling (arXiv 2509.15148): a chain waits for no other chain.

In each turn the draft writes a segment y_1..y_n and the target scores it. A conformal p-value
of the score, small where the target finds the segment unusual, decides whether the target takes
over: it does iff p is at most the take-over rate.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from atts import registry
from atts.config import TurnsOptions
from atts.conformal.gate import LEAST
from atts.conformal.scores import TOP, Score, SegmentLogprobs, all_scores
from atts.engines.base import GenerateRequest, Prefetch
from atts.errors import ConfigError
from atts.methods.chain import OpenChain, Written
from atts.methods.decider import ControlDecider, Decider, Ruling, Scores, Siblings
from atts.methods.method import Method
from atts.methods.stretch import Stretch, divided, followed_by
from atts.models.prompts import Tokenizer
from atts.seeds import seed_at, tie_breaker
from atts.types import ChainEnd, Decision, Gate, Timings


async def take_turns(chain: OpenChain) -> ChainEnd:
    """Draft, score, decide, perhaps take over; until there is an answer.

    Raises:
        EngineError: a model could not serve a request.
    """
    return await turns_while(chain, lambda: True) or "turns"


async def turns_while(chain: OpenChain, goes_on: Callable[[], bool]) -> ChainEnd | None:
    """The same, as long as ``goes_on`` says so before a request of the draft; None where it ended.

    Raises:
        EngineError: a model could not serve a request.
    """
    if chain.decider is None:
        raise ValueError(
            "this chain has nothing to decide by: no control, and no others to be ranked with"
        )
    ahead = Prefetch()
    try:
        return await _take_turns(chain, chain.decider, ahead, goes_on)
    finally:
        chain.discarded = await ahead.drop() or chain.discarded
        chain.decider.leave(chain.sample)


async def _take_turns(
    chain: OpenChain, decider: Decider, ahead: Prefetch, goes_on: Callable[[], bool]
) -> ChainEnd | None:
    turns = chain.config.turns
    if turns.opening == "target" and not chain.turn and (end := await _target_begins(chain)):
        return end
    longest, stretch = turns.draft_tokens, Stretch()
    for _ in range(turns.max_turns - chain.turn):
        if not stretch:
            if not goes_on():
                return None
            stretch = await _draft(chain, longest, ahead, decider)
        written = stretch.take()
        if written.is_empty:
            return chain.stopped()
        ruling, cut = await _decide(chain, written, stretch, decider)
        if ruling.verdict.take_over:
            chain.discarded = await ahead.drop()
            try:
                written = await _take_over(chain, written, cut, stretch.drop())
            finally:
                decider.take_over_done()
        else:
            chain.append(written)
        chain.end_turn()
        if chain.has_concluded:
            return "answer"
        if written.finish_reason == "stop":
            return chain.stopped()
        if chain.config.stop.repeating and repeats(chain.text):
            return "repeats"
        longest = longest_after(longest, turns, ruling.verdict.take_over)
    return "turns"


async def _draft(chain: OpenChain, longest: int, ahead: Prefetch, decider: Decider) -> Stretch:
    """Have the draft write the next segments, and begin with those after them."""
    lengths = lengths_from(longest, chain.config.turns, chain.turn)
    written = await chain.generate("draft", sum(lengths), ahead=ahead, logprobs=_needs_draft(chain))
    if written.is_empty:
        return Stretch([written])
    segments = divided(chain, written, lengths, partial(_is_at_its_end, chain))
    if not decider.has_barrier:
        for _ in segments:
            longest = longest_after(longest, chain.config.turns, take_over=False)
        _write_ahead(chain, written, ahead, longest, chain.turn + len(segments))
    return Stretch(segments)


def _is_at_its_end(chain: OpenChain, text: str) -> bool:
    """Whether the chain ends where all its text is this."""
    return chain.would_conclude(text) or (chain.config.stop.repeating and repeats(text))


def _kind(chain: OpenChain) -> Score:
    """The kind of score that decides.

    Raises:
        ConfigError: it needs models of one vocabulary, and these are not.
    """
    kind: Score = registry.SCORES.found[chain.config.take_over.score.kind]
    if kind.needs_draft and not chain.one_vocabulary:
        raise ConfigError(
            f"take_over.score.kind={kind.name} compares what both models think of the same "
            "tokens, and their vocabularies differ: take another kind, such as largest-surprise"
        )
    return kind


def _needs_draft(chain: OpenChain) -> bool:
    """Whether something is decided by the log-probabilities of what the draft writes."""
    gate = chain.config.take_over.gate
    return _kind(chain).needs_draft or (gate.share > 0.0 and gate.by == "draft-surprise")


async def _target_begins(chain: OpenChain) -> ChainEnd | None:
    """Have the target write the opening, as part of the first turn; how the chain ends, if so."""
    written = await chain.generate("target", chain.config.turns.target_tokens)
    chain.append(written)
    if chain.has_concluded:
        return "answer"
    return chain.stopped() if written.finish_reason == "stop" else None


async def _decide(
    chain: OpenChain, written: Written, stretch: Stretch, decider: Decider
) -> tuple[Ruling, int]:
    """Have the target score a segment, unless it passes without; and decide by the score.

    The score is by default the largest of -log q(y_i | x, y_<i), in nats; the paper's is their mean
    (arXiv 2509.15148, section 3). ``atts.conformal.scores`` has the others.

    Returns:
        The decision, and before which token to cut the segment if the mode is ``rewind``.
    """
    u = tie_breaker(*chain.seed_path, chain.turn)
    gate: Gate | None = None
    if not stretch.is_scored:
        surprise = None if written.logprobs is None else -min(written.logprobs)
        asked = await decider.gate(chain.sample, chain.turn, surprise, u)
        gate, passed = asked or (None, None)
        if passed:
            return _pass(chain, gate, passed), 0
    options = chain.config.take_over
    kind = _kind(chain)
    scored, with_former = await stretch.score(chain, written, TOP if kind.needs_top else 0)
    draft = None
    if written.logprobs is not None and chain.one_vocabulary:
        draft = np.array(written.logprobs)
    segment = SegmentLogprobs(scored.logprobs, draft, scored.top)
    scores = all_scores(segment, options.score)
    rewinds = options.mode == "rewind"
    running: list[float] = []
    if rewinds and kind.tokens:
        running = np.maximum.accumulate(kind.tokens(segment, options.score)).tolist()
    clock = asyncio.get_running_loop().time
    began = clock() if decider.has_barrier else 0.0
    try:
        ruling = await decider.decide(
            chain.sample, chain.turn, Scores(scores[kind.name], running), u
        )
    finally:
        if decider.has_barrier:
            chain.waited_seconds = clock() - began
    verdict = ruling.verdict
    if chain.watcher:
        chain.watcher.decided(verdict.take_over)
    surprises: list[float] = []
    if options.records_surprises:
        surprises = (np.round(-scored.logprobs, 2) + 0.0).tolist()  # and never -0.0
    of_no_use = stretch.tokens_scored_ahead() if verdict.take_over else 0
    chain.decision = Decision(
        score=scores[kind.name],
        p_value=verdict.p_value,
        take_over=verdict.take_over,
        threshold=verdict.threshold,
        order=ruling.order,
        scores=scores,
        surprises=tuple(surprises),
        scored_tokens=len(scored.logprobs) + of_no_use,
        cached_tokens=scored.cached_tokens,
        timings=scored.timings,
        with_former=with_former,
        gate=gate,
    )
    cut = 0
    if rewinds and verdict.take_over:
        cut = kind.cut(segment, options.score) if ruling.first is None else ruling.first
    return ruling, cut


def _pass(chain: OpenChain, gate: Gate | None, ruling: Ruling) -> Ruling:
    """Record a segment that stays without having been scored."""
    if chain.watcher:
        chain.watcher.decided(False)
    now = asyncio.get_running_loop().time()
    chain.decision = Decision(
        score=LEAST,
        p_value=ruling.verdict.p_value,
        take_over=False,
        threshold=ruling.verdict.threshold,
        order=ruling.order,
        scored_tokens=0,
        cached_tokens=0,
        timings=Timings(queued=now, started=now, first_token=now, done=now),
        gate=gate,
        passed=True,
    )
    return ruling


async def _take_over(
    chain: OpenChain, written: Written, cut: int, dropped: Sequence[Written]
) -> Written:
    """Keep of the draft's segment what the mode keeps, and have the target write.

    ``dropped`` are the segments that had come with it, and now follow nothing.

    Returns:
        What the chain now ends with.
    """
    mode = chain.config.take_over.mode
    kept = written if mode == "continue" else None
    if mode == "rewind":
        kept = kept_part(chain, written, cut)
    if kept:
        chain.append(followed_by(kept, dropped))
    else:
        chain.discard(followed_by(written, dropped))
    if mode == "rewind" and chain.has_concluded:  # all up to the answer was as it should be
        return written
    chain.doubt_answer()
    written = await chain.generate("target", chain.config.turns.target_tokens, purpose="take-over")
    chain.append(written)
    return written


def longest_after(longest: int, turns: TurnsOptions, take_over: bool) -> int:
    """The longest draft segment after one of at most ``longest`` tokens.

    >>> turns = TurnsOptions(draft_tokens=64, draft_tokens_min=48, draft_tokens_max=100)
    >>> longest_after(64, turns, take_over=False), longest_after(64, turns, take_over=True)
    (100, 48)
    """
    least, most = turns.draft_bounds
    return max(longest // 2, least) if take_over else min(longest * 2, most)


def lengths_from(longest: int, turns: TurnsOptions, turn: int) -> list[int]:
    """The longest that each segment of a request of the draft may be, from a turn on.

    >>> lengths_from(16, TurnsOptions(draft_tokens=16, draft_segments=3), turn=0)
    [16, 16, 16]
    """
    lengths = [longest]
    while len(lengths) < min(turns.draft_segments, turns.max_turns - turn):
        lengths.append(longest_after(lengths[-1], turns, take_over=False))
    return lengths


def _write_ahead(
    chain: OpenChain, written: Written, ahead: Prefetch, longest: int, number: int
) -> None:
    """Let the draft begin with what comes in turn ``number`` if all of ``written`` stays.

    What it writes is what ``generate`` would have had it write later. Where the target takes over
    it is thrown away. Nothing is begun if the chain ends with ``written``, or by the configuration.
    """
    turns = chain.config.turns
    if not chain.config.overlaps or number >= turns.max_turns or written.finish_reason == "stop":
        return
    most = sum(lengths_from(longest, turns, number))
    most = chain.within_limit(most, after=written.segment.tokens)
    if not most or _is_at_its_end(chain, chain.text + written.segment.text):
        return
    ids = chain.token_ids["draft"] + written.token_ids["draft"]
    sampling = chain.sampling("draft", most, seed_at(*chain.seed_path, number, "draft"))
    request = GenerateRequest(ids, sampling, chain.mark, number, logprobs=_needs_draft(chain))
    ahead.start(chain.models["draft"].engine, request)


def _decider(siblings: Siblings) -> Decider:
    if siblings.elsewhere:
        return siblings.elsewhere(siblings.problem_id)
    if siblings.control is None:
        raise ValueError("there is no control to decide by")
    return ControlDecider(siblings.control, siblings.problem_id)


def kept_part(chain: OpenChain, written: Written, tokens: int) -> Written | None:
    """The beginning of a draft segment, up to a token of the target's; None if nothing is left.

    Only whole characters are kept, and nothing before the segment is encoded anew: the target keeps
    the tokens that it scored, the draft those that it wrote, as far as they reach.
    """
    text = written.segment.text
    target, draft = chain.models["target"].tokenizer, chain.models["draft"].tokenizer
    ids, kept = target.decode_whole_characters(written.token_ids["target"][:tokens])
    while ids and not text.startswith(kept):  # a tokenizer may look back while it decodes
        ids, kept = target.decode_whole_characters(ids[:-1])
    if not kept:
        return None
    ours = _beginning(draft, written.token_ids["draft"], kept)
    segment = written.segment.model_copy(
        update={
            "text": kept,
            "cut": text[len(kept) :] + written.segment.cut,
            "cut_tokens": max(0, written.segment.tokens - len(ours)),
        }
    )
    return written._replace(segment=segment, token_ids={"draft": ours, "target": ids})


def _beginning(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> list[int]:
    """Ids of a text that the text of ``ids`` begins with: the same ids, up to its last token."""
    low, high = 0, len(ids)  # the most of them whose text is not longer is between these
    while low < high:
        middle = (low + high + 1) // 2
        if len(tokenizer.decode_whole_characters(list(ids[:middle]))[1]) <= len(text):
            low = middle
        else:
            high = middle - 1
    same, begins = tokenizer.decode_whole_characters(list(ids[:low]))
    if not text.startswith(begins):
        return tokenizer.encode(text)
    rest = text[len(begins) :]
    return same + tokenizer.encode(rest) if rest else same


PROBE = 1500
"""Characters at the end that must stand earlier too: about a segment of 500 tokens."""

TIMES = 4
"""A passage that stands so often in a row is a loop; three times may be a proof by cases."""


def repeats(text: str) -> bool:
    """Whether the text ends in one passage over and over again, verbatim.

    The passage of p characters stands at least ``TIMES`` times in a row, and the end of the text
    has the period p for at least ``PROBE`` + p characters. Passages of up to ``PROBE`` characters
    are found for certain: were the probe found earlier, and nearer than the period, the end
    would have a smaller period (Fine and Wilf 1965). Takes one search of the text from its end.

    >>> repeats("So x = 2. " + "Wait, let me check again. " * 70)
    True
    >>> repeats("So x = 2. " + "Wait, let me check again. " * 7)
    False
    """
    length = len(text)
    earlier = text.rfind(text[-PROBE:], 0, length - 1) if length > PROBE else -1
    if earlier < 0:
        return False
    period = length - PROBE - earlier
    end = text[-TIMES * period :]
    return len(end) == TIMES * period and end[period:] == end[:-period]


METHOD = Method(
    name="atts",
    solve=take_turns,
    scores=True,
    decider=_decider,
    needs_calibration=True,
    aims_at_rate=True,
    takes_over=True,
    can_follow=True,
)
