"""What an engine is: something that serves one model, in token ids.

Text never reaches an engine. It crosses only between the two models' tokenizers
(``atts.models.prompts``), so the ids of a chain's past are never computed twice and the server's
prefix cache always hits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from atts.types import FinishReason, Timings


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one request samples.

    ``seed`` fixes the text: the same token ids, sampling and model give the same tokens,
    whatever else the engine serves at the time.
    """

    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: tuple[str, ...] = ()
    """Texts after which to stop; they stay part of what was written."""

    def __post_init__(self) -> None:
        # Here, because a value that fails in the middle of a batch would fail the whole batch.
        if (
            self.max_tokens < 1
            or not 0.0 <= self.temperature < math.inf
            or not 0.0 < self.top_p <= 1.0
            or self.seed < 0
            or "" in self.stop
        ):
            raise ValueError(f"not a way to sample: {self}")


class Completion(NamedTuple):
    """What ``generate`` wrote. The end-of-sequence token is not part of ``token_ids``."""

    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    cached_tokens: int
    timings: Timings


class Scored(NamedTuple):
    """What ``score`` found: ``logprobs[i]`` belongs to ``token_ids[start + i]``, in nats."""

    logprobs: NDArray[np.float64]
    cached_tokens: int
    timings: Timings


class Load(NamedTuple):
    """How busy an engine is at a moment."""

    running: int
    """Requests that it works on."""
    waiting: int
    """Requests that it has, but does not work on yet."""
    cache_use: float
    """Share of the key-value cache that the running requests take up, in [0, 1]; what is merely
    kept for later does not count."""


@runtime_checkable
class Metered(Protocol):
    """An engine that may tell how busy it is."""

    async def meter(self) -> Load | None:
        """The load at this moment; None if it is not to be had.

        Raises:
            EngineError: the engine does not answer.
        """
        ...


class Engine(Protocol):
    """Serves one model.

    Cancelling the task that awaits a call aborts the request: the engine spends nothing more
    on it.

    Raises, from both calls:
        EmptyInputError: there is nothing to continue or to score.
        TokenIdError: an id lies outside the model's vocabulary.
        ContextLengthError: the input leaves no room in the model's context.
        EngineUnavailableError: a passing condition; the request may be sent again.
        EngineError: anything else that went wrong with this request.
    """

    async def generate(self, token_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Continue ``token_ids`` by at most ``sampling.max_tokens`` tokens."""
        ...

    async def score(self, token_ids: Sequence[int], start: int) -> Scored:
        """Log-probabilities of ``token_ids[start:]``, each given all tokens before it.

        ``start`` lies in ``[1, len(token_ids))``: the first token of all has no
        log-probability.
        """
        ...

    async def aclose(self) -> None:
        """Abort what is in flight and free the model."""
        ...
