"""Synchronous ranking, the counterpart of ATTS (arXiv 2509.15148, section 3) with a barrier.

Every turn waits for all open chains of the problem, and the worst of them are taken over.
"""

from atts.methods.chain import OpenChain
from atts.types import ChainEnd


async def sync_ranking(chain: OpenChain) -> ChainEnd:
    """Draft, score, wait for the others, perhaps take over; until there is an answer."""
    with chain.waited_for():
        return await _solve(chain)


async def _solve(chain: OpenChain) -> ChainEnd:
    turns, mode = chain.config.turns, chain.config.take_over.mode
    for _ in range(turns.max_turns):
        written = await chain.generate("draft", turns.draft_tokens)
        if written.is_empty:
            return chain.stopped()
        take_over = await chain.rank(written)
        if take_over and mode == "replace":
            chain.discard(written)
        else:
            chain.append(written)
        if take_over:
            chain.doubt_answer()
            written = await chain.generate("target", turns.target_tokens)
            chain.append(written)
        chain.end_turn()
        if chain.has_concluded:
            return "answer"
        if written.finish_reason == "stop":
            return chain.stopped()
        if chain.repeats_itself:
            return "repeats"
    return "turns"
