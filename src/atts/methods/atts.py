"""Asynchronous test-time scaling (arXiv 2509.15148): a chain waits for no other chain.

In each turn the draft writes a segment y_1..y_n and the target scores it. A conformal p-value
of the score, small where the target finds the segment unusual, decides whether the target takes
over: it does iff p is at most the take-over rate.
"""

import asyncio

from atts.conformal.control import Verdict
from atts.conformal.scores import all_scores
from atts.engines.base import GenerateRequest, Scored
from atts.engines.prefetch import Prefetch
from atts.methods.chain import OpenChain, Written
from atts.methods.decider import ControlDecider, Decider, Siblings
from atts.methods.method import Method
from atts.methods.repetition import repeats
from atts.seeds import seed_at, tie_breaker
from atts.types import ChainEnd, Decision


async def take_turns(chain: OpenChain) -> ChainEnd:
    """Draft, score, decide, perhaps take over; until there is an answer.

    Raises:
        EngineError: a model could not serve a request.
    """
    if chain.decider is None:
        raise ValueError(
            "this chain has nothing to decide by: no control, and no others to be ranked with"
        )
    ahead = Prefetch()
    try:
        return await _take_turns(chain, chain.decider, ahead)
    finally:
        chain.discarded = await ahead.drop() or chain.discarded
        chain.decider.leave(chain.sample)


async def _take_turns(chain: OpenChain, decider: Decider, ahead: Prefetch) -> ChainEnd:
    turns, mode = chain.config.turns, chain.config.take_over.mode
    for _ in range(turns.max_turns):
        written = await chain.generate("draft", turns.draft_tokens, ahead=ahead)
        if written.is_empty:
            return chain.stopped()
        if not decider.has_barrier:
            _write_ahead(chain, written, ahead)
        verdict = await _decide(chain, written, decider)
        if verdict.take_over:
            try:
                chain.discarded = await ahead.drop()
                if mode == "replace":
                    chain.discard(written)
                else:
                    chain.append(written)
                chain.doubt_answer()
                written = await chain.generate("target", turns.target_tokens, purpose="take-over")
            finally:
                decider.take_over_done()
        chain.append(written)
        chain.end_turn()
        if chain.has_concluded:
            return "answer"
        if written.finish_reason == "stop":
            return chain.stopped()
        if chain.config.stop.repeating and repeats(chain.text):
            return "repeats"
    return "turns"


async def _decide(chain: OpenChain, written: Written, decider: Decider) -> Verdict:
    """Have the target score a segment, and decide by the score.

    The score is by default s = -(1/n) sum_i log q(y_i | x, y_<i), in nats per target token
    (arXiv 2509.15148, section 3); ``atts.conformal.scores`` has the others.
    """
    prefix = chain.token_ids["target"]
    scored = await chain.score(prefix + written.token_ids["target"], len(prefix))
    options = chain.config.take_over.score
    scores = all_scores(scored.logprobs, options)
    clock = asyncio.get_running_loop().time
    began = clock() if decider.has_barrier else 0.0
    try:
        verdict = await decider.decide(
            chain.sample,
            chain.turn,
            scores[options.kind],
            tie_breaker(*chain.seed_path, chain.turn),
        )
    finally:
        if decider.has_barrier:
            chain.waited_seconds = clock() - began
    if chain.watcher:
        chain.watcher.decided(verdict.take_over)
    chain.decision = _recorded(verdict, scored, scores[options.kind], scores, decider.next_order())
    return verdict


def _recorded(
    verdict: Verdict, scored: Scored, score: float, scores: dict[str, float], order: int | None
) -> Decision:
    return Decision(
        score=score,
        p_value=verdict.p_value,
        take_over=verdict.take_over,
        threshold=verdict.threshold,
        order=order,
        scores=scores,
        scored_tokens=len(scored.logprobs),
        cached_tokens=scored.cached_tokens,
        timings=scored.timings,
    )


def _write_ahead(chain: OpenChain, written: Written, ahead: Prefetch) -> None:
    """Let the draft begin with the segment that comes next if ``written`` stays.

    What it writes is what ``generate`` would have had it write later. Where the target takes over
    it is thrown away. Nothing is begun if the chain ends with ``written``, or by the configuration.
    """
    turns, number = chain.config.turns, chain.turn + 1
    if (
        not chain.config.overlaps
        or number >= turns.max_turns
        or written.finish_reason == "stop"
        or chain.would_conclude(written)
        or (chain.config.stop.repeating and repeats(chain.text + written.segment.text))
    ):
        return
    ids = chain.token_ids["draft"] + written.token_ids["draft"]
    seed = seed_at(*chain.seed_path, number, "draft")
    request = GenerateRequest(ids, chain.sampling(turns.draft_tokens, seed), chain.mark, number)
    ahead.start(chain.models["draft"].engine, request)


def _decider(siblings: Siblings) -> Decider:
    if siblings.control is None:
        raise ValueError("there is no control to decide by")
    return ControlDecider(siblings.control, siblings.problem_id)


METHOD = Method(
    name="atts",
    solve=take_turns,
    decider=_decider,
    needs_calibration=True,
    aims_at_rate=True,
    takes_over=True,
    can_follow=True,
)
