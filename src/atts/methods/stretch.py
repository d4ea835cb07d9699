"""Segments that the draft wrote in one request, which are scored in one and decided one by one.

What a chain comes to is distributed as if each had been written and scored by itself: the draft's
next token depends on the text before it alone, and what follows a take-over is cut off.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from atts.engines.base import Scored
from atts.methods.chain import OpenChain, Written


class ScoredPart(NamedTuple):
    """What the target found of one segment."""

    scored: Scored
    with_former: bool
    """Whether an earlier segment's request had brought it."""


class Stretch:
    """The segments of a request that are not decided yet, with what the target found of them."""

    def __init__(self, segments: Iterable[Written] = ()) -> None:
        self._segments = deque(segments)
        self._scored: deque[ScoredPart] = deque()

    def __len__(self) -> int:
        return len(self._segments)

    @property
    def is_scored(self) -> bool:
        """Whether the score of the segment taken last is there, since others were scored."""
        return bool(self._scored)

    def take(self) -> Written:
        """The next segment; the chain decides about it before it takes another."""
        return self._segments.popleft()

    async def score(self, chain: OpenChain, written: Written, top: int) -> ScoredPart:
        """What the target finds of the segment taken last; asked for with all that follow it.

        Raises:
            EngineError: the target gave no usable log-probabilities.
        """
        if not self._scored:
            prefix, ids = chain.token_ids["target"], []
            lengths = []
            for each in (written, *self._segments):
                ids += each.token_ids["target"]
                lengths.append(len(each.token_ids["target"]))
            scored = await chain.score(prefix + ids, len(prefix), top=top)
            self._scored.extend(_parts(scored, lengths))
        return self._scored.popleft()

    def tokens_scored_ahead(self) -> int:
        """How many tokens were scored of segments that are not decided yet."""
        return sum(len(part.scored.logprobs) for part in self._scored)

    def drop(self) -> list[Written]:
        """The segments that are not decided yet, and never will be."""
        dropped = list(self._segments)
        self._segments.clear()
        self._scored.clear()
        return dropped


def _parts(scored: Scored, lengths: Sequence[int]) -> Iterable[ScoredPart]:
    start = 0
    for length in lengths:
        end = start + length
        top = None if scored.top is None else scored.top[start:end]
        part = scored._replace(logprobs=scored.logprobs[start:end], top=top)
        if start:
            part = part._replace(cached_tokens=0)  # told of the request, once
        yield ScoredPart(part, start > 0)
        start = end


def divided(
    chain: OpenChain, written: Written, lengths: Sequence[int], ends: Callable[[str], bool]
) -> list[Written]:
    """What the draft wrote as segments of at most so many tokens, each of whole characters.

    Args:
        chain: it is not part of it yet.
        written: by one request, of at most ``sum(lengths)`` tokens.
        lengths: the longest that each segment may be.
        ends: whether a chain with this text is at its end; what comes after is cut off.
    """
    if len(lengths) == 1:
        return [written]
    draft, target = (chain.models[author].tokenizer for author in ("draft", "target"))
    one_for_all = written.logprobs is not None and chain.one_vocabulary
    ids, segments, start, end = written.token_ids["draft"], [], 0, 0
    for length in lengths:
        end += length
        own, text = draft.decode_whole_characters(ids[start:end])
        if not own and end < len(ids):
            continue  # within a character, which goes to the next one
        end_of_own = start + len(own)
        update: dict[str, object] = {
            "text": text,
            "tokens": len(own),
            "finish_reason": "length",
            "with_former": start > 0,
        }
        if start:
            update["cached_tokens"] = 0  # told of the request, once
        segments.append(
            Written(
                written.segment.model_copy(update=update),
                {"draft": own, "target": own if one_for_all else target.encode(text)},
                written.stop,
                written.logprobs and written.logprobs[start:end_of_own],
            )
        )
        start = end_of_own
        if start >= len(ids):
            break
    told = sum(each.segment.tokens for each in segments[:-1])
    last = {"finish_reason": written.finish_reason, "tokens": written.segment.tokens - told}
    segments[-1] = segments[-1]._replace(segment=segments[-1].segment.model_copy(update=last))
    return _up_to_the_end(chain, segments, ends)


def _up_to_the_end(
    chain: OpenChain, segments: list[Written], ends: Callable[[str], bool]
) -> list[Written]:
    text = chain.text
    for number, written in enumerate(segments[:-1], 1):
        text += written.segment.text
        if ends(text):
            return [*segments[: number - 1], followed_by(written, segments[number:])]
    return segments


def followed_by(written: Written, dropped: Iterable[Written]) -> Written:
    """A segment, with those that had come with it recorded as cut off from it."""
    segment, segments = written.segment, [each.segment for each in dropped]
    if not segments:
        return written
    tokens = sum(each.tokens for each in segments)
    update = {
        "cut": segment.cut + "".join(each.text + each.cut for each in segments),
        "cut_tokens": segment.cut_tokens + tokens,
        "tokens": segment.tokens + tokens,
    }
    return written._replace(segment=segment.model_copy(update=update))
