"""Stop strings for an engine that writes token by token."""

from collections.abc import Callable, Sequence
from functools import lru_cache

Decode = Callable[[list[int]], str]
"""Text of token ids."""


class StopStrings:
    r"""Whether a text that grows by tokens holds one of ``stop`` since its last token.

    >>> stops = StopStrings(lambda ids: bytes(ids).decode(), ("\n\n",))
    >>> [stops.reached(list(text)) for text in (b"1\n", b"1\n\n", b"1\n\n2")]
    [False, True, False]
    """

    def __init__(self, decode: Decode, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._ends = frozenset(text[-1] for text in stop)
        # Each token is at least a byte, so a stop string lies within as many tokens as bytes.
        self._most_tokens = max(len(text.encode()) for text in stop)
        self._decode = decode
        self._may_end = lru_cache(maxsize=None)(self._may_end_with)

    def reached(self, written: list[int]) -> bool:
        """Whether the last of these tokens completes a stop string."""
        if not self._may_end(written[-1]):  # nearly always; decoding the rest would cost more
            return False
        tail = self._decode(written[-self._most_tokens :])
        return any(text in tail for text in self._stop)

    def _may_end_with(self, token_id: int) -> bool:
        text = self._decode([token_id])
        # A character that is spread over tokens shows as a replacement character in each.
        return "\ufffd" in text or not self._ends.isdisjoint(text)
