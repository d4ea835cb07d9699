"""Sampling the next token of every row of a batch, each row from its own uniform number."""

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from atts.engines.base import Sampling


def sample(logits: Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> list[int]:
    """Draw one token a row by inverting the cumulative distribution at ``uniforms``.

    One number a row, rather than one a token of the vocabulary, is what makes a request's
    text independent of the other rows at next to no cost.

    Args:
        logits: shape (rows, vocabulary).
        samplings: temperature 0 takes the likeliest token.
        uniforms: each in [0, 1).

    Returns:
        One token id a row; -1 where the logits are not numbers to sample from.
    """
    temperatures = torch.tensor([s.temperature for s in samplings], device=logits.device)
    greedy = temperatures == 0.0
    logits = logits.float()
    # The largest becomes 0 before the division, so that no temperature is too small for it.
    shifted = logits - logits.amax(dim=-1, keepdim=True)
    scaled = shifted / torch.where(greedy, 1.0, temperatures)[:, None]
    probabilities = scaled.softmax(dim=-1)
    if any(s.top_p < 1.0 for s in samplings):
        top_p = torch.tensor([s.top_p for s in samplings], device=logits.device)
        probabilities = _keep_nucleus(probabilities, top_p)
    cumulative = probabilities.cumsum(dim=-1)
    u = torch.tensor(uniforms, device=logits.device, dtype=torch.float32)
    total = cumulative[:, -1]
    # Below the sum even after rounding: a draw past it would be a token of no probability.
    threshold = torch.minimum(u * total, torch.nextafter(total, torch.zeros_like(total)))
    drawn = (cumulative <= threshold[:, None]).sum(dim=-1)
    chosen = torch.where(greedy, logits.argmax(dim=-1), drawn)
    tokens: list[int] = torch.where(total.isfinite(), chosen, -1).tolist()
    return tokens


def _keep_nucleus(probabilities: Tensor, top_p: Tensor) -> Tensor:
    """Zero all but the likeliest tokens that together reach ``top_p`` (arXiv 1904.09751)."""
    ordered, order = probabilities.sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered
    # A row that keeps everything is left as it is, so that it does not depend on other rows.
    outside = (before >= top_p[:, None]) & (top_p < 1.0)[:, None]
    kept = ordered.masked_fill(outside, 0.0)
    return torch.zeros_like(probabilities).scatter(-1, order, kept)


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
