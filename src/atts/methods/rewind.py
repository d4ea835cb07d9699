"""Taking back the end of a draft segment, so that the target goes on from before its mistake."""

from collections.abc import Sequence

from atts.methods.chain import OpenChain, Written
from atts.models.prompts import Tokenizer


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
            "cut": text[len(kept) :],
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
