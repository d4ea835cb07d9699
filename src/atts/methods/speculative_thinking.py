"""Speculative Thinking (arXiv 2504.12329): the target guides the thought of the draft.

The draft stops at blank lines. Where it is about to affirm, to reflect or to verify, the target
writes a few tokens; after a verification, or many reflections, it writes more.
"""

import asyncio
from collections.abc import Iterable

from atts.config import SpeculativeThinkingOptions
from atts.methods.chain import OpenChain, Written
from atts.types import ChainEnd


async def speculative_thinking(chain: OpenChain) -> ChainEnd:
    """The draft writes; at triggers the target may take over for a bounded number of tokens."""
    options = chain.config.speculative_thinking
    clock = asyncio.get_running_loop().time
    began = clock()
    target_begins = options.begin
    reflections, recap_after, recap_tokens = 0, options.recap_after, options.recap_tokens
    while chain.tokens_left:
        if options.time_out_seconds and clock() - began > options.time_out_seconds:
            return "time-out"
        if target_begins:
            written = await _target_writes(chain, options.begin_tokens)
            target_begins = False
        else:
            written = await chain.generate(
                "draft", min(options.draft_tokens, chain.tokens_left), stop=options.triggers
            )
            chain.append(written)
            if written.at_stop_string and chain.tokens_left and not chain.has_concluded:
                if reflections >= recap_after:
                    written = await _target_writes(chain, recap_tokens, options.recap_words)
                    reflections = 0
                    recap_tokens = min(
                        recap_tokens + options.recap_tokens_step, options.recap_tokens_most
                    )
                    recap_after = min(
                        recap_after + options.recap_after_step, options.recap_after_most
                    )
                else:
                    written, reflects = await _consult(chain, written)
                    reflections += reflects
        chain.end_turn()
        if chain.has_concluded:
            return "answer"
        if written.is_last:
            return chain.stopped()
    return "turns"


async def _consult(chain: OpenChain, written: Written) -> tuple[Written, bool]:
    """Look at what the draft would write next, and perhaps let the target write that.

    Returns:
        What the chain now ends with (``written``, if nothing was added), and whether what was
        added reflects.
    """
    options = chain.config.speculative_thinking

    def mood_of(text: str) -> int:
        return mood(text.removeprefix(options.think_words), options)

    most = min(options.target_tokens, chain.tokens_left)
    drafted = await chain.generate("draft", most, begin_with=options.think_words)
    kept_mood = mood_of(drafted.segment.text)
    if not (kept_mood or options.always_ask):
        chain.discard(drafted)  # the draft goes on to the next trigger by itself
        return written, False
    guided = await chain.generate("target", most, begin_with=options.think_words)
    targets_mood = mood_of(guided.segment.text)
    disagree = (kept_mood < 0 <= targets_mood) or (targets_mood < 0 < kept_mood)
    if options.choose_target or disagree:
        chain.discard(drafted)
        kept, kept_mood = guided, targets_mood
    else:
        chain.discard(guided)
        kept = drafted
    chain.append(kept)
    verifies = count(kept.segment.text.removeprefix(options.think_words), options.verify) > 0
    if verifies and chain.tokens_left and not kept.is_last:
        kept = await _target_writes(chain, options.verify_tokens)
    return kept, kept_mood < 0


async def _target_writes(chain: OpenChain, max_tokens: int, begin_with: str = "") -> Written:
    most = min(max_tokens, chain.tokens_left)
    written = await chain.generate("target", most, begin_with=begin_with)
    chain.append(written)
    return written


def mood(text: str, options: SpeculativeThinkingOptions) -> int:
    """1 for a text that mostly affirms, -1 for one that reflects or verifies, 0 for neither.

    What occurs more often counts, a word within a word too; of equally many, the latter.

    >>> options = SpeculativeThinkingOptions()
    >>> [mood(text, options) for text in ("Yes, so", "Wait, yes", "Two plus two")]
    [1, -1, 0]
    """
    affirming = count(text, options.affirm)
    doubting = count(text, options.reflect + options.verify)
    if affirming > doubting:
        return 1
    return -1 if doubting else 0


def count(text: str, words: Iterable[str]) -> int:
    """How often the words occur, in whatever case."""
    text = text.lower()
    return sum(text.count(word.lower()) for word in words)
