"""Asynchronous test-time scaling (arXiv 2509.15148): a chain waits for no other chain."""

from collections.abc import Awaitable, Callable

from atts.methods.chain import OpenChain, Written
from atts.types import ChainEnd


async def atts(chain: OpenChain) -> ChainEnd:
    """Each chain decides by itself, at once."""
    return await take_turns(chain, chain.decide)


async def take_turns(chain: OpenChain, decide: Callable[[Written], Awaitable[bool]]) -> ChainEnd:
    """Draft, score, decide, perhaps take over; until there is an answer."""
    turns, mode = chain.config.turns, chain.config.take_over.mode
    for _ in range(turns.max_turns):
        written = await chain.generate("draft", turns.draft_tokens)
        if written.is_empty:
            return chain.stopped()
        take_over = await decide(written)
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
