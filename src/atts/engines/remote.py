"""What the engines over HTTP share: checks before a request, and what a server is asked first."""

import asyncio
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from atts.config import ModelOptions
from atts.engines.base import (
    Completion,
    GenerateRequest,
    Load,
    Scored,
    ScoreRequest,
)
from atts.engines.http import HttpClient, Json
from atts.errors import (
    ConfigError,
    ContextLengthError,
    EmptyInputError,
    EngineReplyError,
    RequestRefusedError,
    TokenIdError,
)
from atts.models.model_files import model_path
from atts.types import FinishReason, Timings

PROBE_SECONDS = 60.0
"""Within which a server answers what it is asked about itself."""


class ServerFacts(NamedTuple):
    """What a server says of itself."""

    version: str
    model: str
    """The model that it serves, as it names it."""
    context_length: int
    """Longest input and output together, in tokens."""
    scoring: str
    """How log-probabilities of a given text are asked for, for people."""
    remarks: tuple[str, ...] = ()
    """What keeps the server from doing all that it could, with the mend."""


class WrittenTokens(NamedTuple):
    """What a server wrote, without its end-of-sequence token."""

    token_ids: list[int]
    finish_reason: FinishReason
    cached_tokens: int
    logprobs: list[float] | None = None
    """One each, if they were asked for."""


class FoundLogprobs(NamedTuple):
    """What a server found of given tokens; see ``Scored``."""

    logprobs: NDArray[np.float64]
    cached_tokens: int
    top: NDArray[np.float64] | None = None


class RemoteEngine(ABC):
    """Serves one model by one server. ``connect`` comes first, by itself if need be.

    A server is not asked when it began: of the moments of a request, ``started`` is when it was
    sent, and ``first_token`` when the whole reply was there.
    """

    def __init__(
        self, client: HttpClient, options: ModelOptions, vocab_size: int, end_ids: frozenset[int]
    ) -> None:
        self.client = client
        self.vocab_size = vocab_size
        self.end_ids = end_ids
        """The tokens that end a text of this model."""
        self.model_id = options.served_as or options.model
        """What the server calls the model, once it was asked."""
        self._options = options
        self._facts: ServerFacts | None = None
        self._connecting = asyncio.Lock()

    async def connect(self) -> ServerFacts:
        """Ask the server, once, what it is.

        Raises:
            ConfigError: it serves another model.
            EngineError: it does not answer as a server of its kind does.
        """
        async with self._connecting:
            if self._facts is None:
                facts = await self._ask()
                expected = self._options.served_as or model_path(self._options.model)
                if not same_model(expected, facts.model):
                    raise ConfigError(
                        f"{self.client.url} serves {facts.model}, and the configuration says "
                        f"{self._options.model}; if that is the same model, set served_as to "
                        f"{facts.model}"
                    )
                self._facts = facts
        return self._facts

    async def generate(self, request: GenerateRequest) -> Completion:
        ids, sampling = self._checked(request.token_ids), request.sampling
        facts = await self.connect()
        capacity = self._capacity(facts, len(ids))
        if capacity <= 0:
            raise ContextLengthError(
                f"{len(ids)} tokens leave nothing of a context of {facts.context_length}"
            )
        sent = time.monotonic()
        if sampling.max_tokens > capacity:
            request = request._replace(sampling=replace(sampling, max_tokens=capacity))
        written = await self._generate(ids, request)
        timings = _since(sent)
        logprobs = None
        if request.logprobs:
            self._check_logprobs(np.array(written.logprobs or []), len(written.token_ids))
            logprobs = tuple(written.logprobs or ())
        return Completion(
            tuple(written.token_ids),
            written.finish_reason,
            written.cached_tokens,
            timings,
            logprobs,
        )

    async def score(self, request: ScoreRequest) -> Scored:
        ids, start = self._checked(request.token_ids), request.start
        if not 1 <= start < len(ids):
            raise EmptyInputError(
                f"cannot score from token {start} of {len(ids)}: start must be at least 1, as the "
                "first token has no log-probability, and less than the number of tokens"
            )
        facts = await self.connect()
        if self._capacity(facts, len(ids)) <= 0:
            # A server scores a text on the way to the token that follows it.
            raise ContextLengthError(
                f"{len(ids)} tokens and one more do not fit a context of {facts.context_length}"
            )
        sent = time.monotonic()
        found = await self._score(ids, request)
        timings = _since(sent)
        self._check_logprobs(found.logprobs, len(ids) - start)
        if found.top is not None:
            self._check_logprobs(found.top.ravel(), (len(ids) - start) * request.top)
        return Scored(found.logprobs, found.cached_tokens, timings, found.top)

    def _check_logprobs(self, logprobs: NDArray[np.float64], tokens: int) -> None:
        if len(logprobs) != tokens or not np.isfinite(logprobs).all():
            raise self.unusable(
                f"{len(logprobs)} log-probabilities for {tokens} tokens, "
                f"{np.isfinite(logprobs).sum()} of them finite"
            )
        if (logprobs > 1e-3).any():  # rounding may lift a certain token a little above zero
            raise self.unusable(f"a log-probability of {logprobs.max():.3f}, above zero")

    async def aclose(self) -> None:
        await self.client.aclose()

    async def tokenize(self, text: str) -> list[int] | None:
        """The server's own ids of a text; None if it has no route for that."""
        body = {"model": self.model_id, "prompt": text, "add_special_tokens": False}
        try:
            ids = field(await self.client.post("/tokenize", body, PROBE_SECONDS), "tokens")
        except RequestRefusedError:
            return None
        return ids if isinstance(ids, list) else None

    async def in_flight(self) -> int | None:
        """How many requests the server has, waiting or running; None if it does not tell."""
        load = await self.meter()
        return None if load is None else load.running + load.waiting

    @abstractmethod
    async def meter(self) -> Load | None:
        """See ``Metered``; None if the server has no route for that, or a router hides it."""

    @abstractmethod
    async def _ask(self) -> ServerFacts:
        """Find out what the server is and how it can be used."""

    @abstractmethod
    async def _generate(self, ids: list[int], request: GenerateRequest) -> WrittenTokens:
        """Continue ``ids``, which are checked; ``max_tokens`` fits the context."""

    @abstractmethod
    async def _score(self, ids: list[int], request: ScoreRequest) -> FoundLogprobs:
        """Log-probabilities of ``ids[start:]``, which are checked, and the cached tokens."""

    def _capacity(self, facts: ServerFacts, length: int) -> int:
        """Tokens that may still be written after ``length``."""
        return facts.context_length - length

    def numbers(self, logprobs: list[Json]) -> list[float]:
        """Log-probabilities that a server gave, all of which must be numbers."""
        if any(not isinstance(logprob, int | float) for logprob in logprobs):
            raise self.unusable("a log-probability is null")
        return logprobs

    def unusable(self, what: str) -> EngineReplyError:
        """The error of a reply that lacks what was asked for."""
        return EngineReplyError(
            f"{self.client.url} ({self._options.model}): an unusable reply: {what}; atts doctor "
            "tells whether the server can do what is asked of it"
        )

    def _checked(self, token_ids: Sequence[int]) -> list[int]:
        ids = list(token_ids)
        if not ids:
            raise EmptyInputError("no tokens to continue or to score")
        # An id past the vocabulary does not fail alone: it can take the whole server down.
        try:  # for thousands of ids, in a third of the time of min and max
            largest = np.frombuffer(array("I", ids), dtype=np.uint32).max()
        except OverflowError:  # a negative one
            largest = self.vocab_size
        if largest >= self.vocab_size:
            wrong = next(i for i in ids if not 0 <= i < self.vocab_size)
            raise TokenIdError(
                f"token id {wrong} is outside the vocabulary of {self.vocab_size}; do the "
                "tokenizer and the model belong together?"
            )
        return ids


def field(tree: Json, *path: str | int) -> Json:
    """A value deep in parsed JSON; None where any step of the path is missing.

    >>> field({"choices": [{"token_ids": [1]}]}, "choices", 0, "token_ids")
    [1]
    >>> field({"choices": []}, "choices", 0, "token_ids") is None
    True
    """
    for step in path:
        try:
            tree = tree[step]
        except (KeyError, IndexError, TypeError):
            return None
    return tree


def same_model(expected: str, served: str) -> bool:
    """Whether two names mean one model: ids, folders, and folders of the Hugging Face cache.

    >>> same_model("Qwen/QwQ-32B", "/models/QwQ-32B")
    True
    >>> same_model("Qwen/QwQ-32B", "/hub/models--Qwen--QwQ-32B/snapshots/976055f")
    True
    >>> same_model("Qwen/QwQ-32B", "Qwen/Qwen2.5-7B-Instruct")
    False
    """
    return _last_name(expected) == _last_name(served)


def _last_name(model: str) -> str:
    parts = PurePosixPath(model).parts
    for part in parts:
        if part.startswith("models--"):
            return part.rpartition("--")[2].lower()
    return (parts or ("",))[-1].lower()


def _since(sent: float) -> Timings:
    now = time.monotonic()
    return Timings(queued=sent, started=sent, first_token=now, done=now)
