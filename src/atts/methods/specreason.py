"""SpecReason (arXiv 2504.07891): the target rates each step of the draft's, and mends bad ones.

A step ends at a blank line.
"""

from atts.methods.chain import OpenChain
from atts.types import ChainEnd

STEP_ENDS = ("\n\n",)
THOUGHT_ENDS = "</think>"


async def specreason(chain: OpenChain) -> ChainEnd:
    """Draft a step, have it rated, perhaps have the target write it instead; until the answer."""
    options = chain.config.specreason
    steps: list[str] = []
    while (left := options.token_budget - chain.tokens) > 0:
        most = min(options.step_tokens, left)
        target_writes = len(steps) < options.first_target_steps
        if not target_writes:
            written = await chain.generate("draft", most, stop=STEP_ENDS)
            if written.is_empty:
                return chain.stopped()
            target_writes = await chain.rate_step(written) < options.threshold
            if target_writes:
                chain.discard(written)
        if target_writes:
            written = await chain.generate("target", most, stop=STEP_ENDS)
        if THOUGHT_ENDS in written.segment.text and not chain.would_conclude(written):
            written = chain.without(written, THOUGHT_ENDS)  # or the model would stop reasoning
        chain.append(written)
        chain.end_turn()
        if chain.has_concluded:
            return "answer"
        steps.append(written.segment.text)
        repeats = len(steps) > 2 and steps[-1] == steps[-2]
        if repeats or written.is_last:
            return chain.stopped()
    return "turns"
