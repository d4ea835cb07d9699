"""What the engines over HTTP share: what a server is asked first, and the checks around a request.

Nothing that a server replies is believed before it is checked, here for all engines: which model
it is, the ids that it wrote, their number, log-probabilities and counts. What is wrong becomes an
``EngineReplyError``, so that the request is tried again.
"""

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from atts.config import ModelOptions
from atts.engines.base import (
    Completion,
    GenerateRequest,
    Load,
    Scored,
    ScoreRequest,
    check_start,
    checked_ids,
)
from atts.engines.http import HttpClient, Json, quoted
from atts.engines.replies import (
    UnusableError,
    check_written,
    checked_cached,
    checked_logprobs,
    field,
    numbers,
)
from atts.engines.served import ModelCard, chosen_card, model_cards, same_model, told
from atts.errors import (
    ConfigError,
    ContextLengthError,
    EngineConnectionError,
    EngineError,
    EngineReplyError,
    EngineUnavailableError,
    RequestRefusedError,
)
from atts.models.model_files import model_path
from atts.text import visible
from atts.types import FinishReason, Speculation, Timings

PROBE_SECONDS = 60.0
"""Within which a server answers what it is asked about itself."""

REPLY_BYTES = 2**20
REPLY_BYTES_PER_TOKEN = 1024
"""A reply is at most so long: that, and so much for each token that was sent or asked for. The
longest of honest rows take a few hundred bytes."""

_SHOWN = 300
"""Characters of what a server calls its version and its model."""

EMPTYING_WAITS = (0.0, 0.2, 1.0)
"""Seconds before a server is asked to forget, and asked again: requests that were aborted may still
be on their way out."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


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
    """What a server says that it wrote, without its end-of-sequence token; not checked yet."""

    token_ids: list[int]
    finish_reason: FinishReason
    cached_tokens: Json
    """None where it does not tell."""
    logprobs: Json = None
    """A list of one each, if they were asked for."""


class FoundLogprobs(NamedTuple):
    """What a server says that it found of given tokens, not checked yet; see ``Scored``."""

    logprobs: NDArray[np.float64]
    cached_tokens: Json
    top: NDArray[np.float64] | None = None


class _About:
    """Names in an error whose reply it was; as a generator it would cost each request 2 us."""

    __slots__ = ("_what", "_whose")

    def __init__(self, whose: str, what: str) -> None:
        self._whose, self._what = whose, what

    def __enter__(self) -> None:
        return

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, UnusableError):
            raise EngineReplyError(
                f"{self._whose}, {self._what}: an unusable reply: {error}; atts doctor tells "
                "whether the server can do what is asked of it"
            ) from error
        if isinstance(error, EngineReplyError):
            raise EngineReplyError(f"{error} ({self._what})") from error


class RemoteEngine(ABC):
    """Serves one model by one server. ``connect`` comes first, by itself if need be.

    A server is not asked when it began: of the moments of a request, ``started`` is when it was
    sent, and ``first_token`` when the whole reply was there.
    """

    serves_adapters = False
    """Whether a request can name one of a server's LoRA adapters."""

    def __init__(
        self, client: HttpClient, options: ModelOptions, vocab_size: int, end_ids: frozenset[int]
    ) -> None:
        self.client = client
        self.vocab_size = vocab_size
        self.end_ids = end_ids
        """The tokens that end a text of this model."""
        self.model_id = options.served_as or options.model
        """What the server calls the model, once it was asked."""
        self.cannot_score: str | None = None
        """Why its server gives no log-probabilities of a given text, once it was asked; None where
        it does."""
        self._options = options
        self._facts: ServerFacts | None = None
        self._card: ModelCard | None = None
        self._confirmed = 0  # of the client's connections, those before it was asked last
        self._connecting = asyncio.Lock()
        self._failed = 0
        self._error: EngineError | None = None

    async def connect(self) -> ServerFacts:
        """What the server is; it is asked at first, and again after the connection was lost.

        Raises:
            ConfigError: it serves another model.
            EngineError: it does not answer as a server of its kind does.
        """
        if self._facts is not None:
            return self._facts
        tries = self._failed
        async with self._connecting:
            if self._facts is None:
                if self._error is not None and self._failed != tries:
                    raise self._error  # of whoever asked while this one waited for its turn
                opened = self.client.connections
                try:
                    with self.about("asked what it serves"):
                        facts = await self._ask()
                except EngineError as error:
                    self._failed += 1
                    self._error = error
                    raise
                self._facts = facts._replace(
                    version=visible(facts.version[:_SHOWN]), model=visible(facts.model[:_SHOWN])
                )
                self._confirmed = opened
            return self._facts

    async def _from_the_model(self, reply: Awaitable[T]) -> tuple[T, Timings]:
        """A reply to be counted: whoever answers by a new connection was asked what it serves."""
        sent = time.monotonic()
        try:
            result = await reply
        except EngineConnectionError:
            self._facts = None  # another server may come back
            raise
        except (RequestRefusedError, ContextLengthError):
            with suppress(EngineUnavailableError):
                await self._confirm()  # because it may be another model that refuses
            raise
        timings = _since(sent)
        await self._confirm()
        return result, timings

    async def _confirm(self) -> None:
        if self.client.connections == self._confirmed:
            return
        async with self._connecting:
            opened = self.client.connections
            if opened != self._confirmed:
                before = self._card
                try:
                    changed = await self.identify() != before
                except ConfigError:
                    self._facts = None
                    raise
                self._confirmed = opened
                if changed:
                    self._facts = None

    async def identify(self) -> ModelCard:
        """Ask the server which model it serves, and find the configured one among them.

        Raises:
            ConfigError: it serves others.
            EngineError: it does not say.
        """
        cards = await self._cards()
        options = self._options
        card = chosen_card(
            cards, model_path(options.model), options.served_as, self.serves_adapters
        )
        if card is None:
            raise ConfigError(
                f"{self.client.url} serves {told(cards)}, and the configuration says "
                f"{options.model}"
                + (f", served as {options.served_as}" if options.served_as else "")
                + ": start a server of that model there, or correct the address; served_as is only "
                "for another name of the same model"
            )
        if self._card is not None and not same_model(self._card.root, card.root):
            raise ConfigError(
                f"{self.client.url} ({self._options.model}): the server has come back with another "
                f"model: {quoted(card.root)}, and {quoted(self._card.root)} before; start the one "
                "from before there, and go on"
            )
        self._card = card
        self.model_id = card.name
        return card

    async def _cards(self) -> list[ModelCard]:
        """All that the server says it serves."""
        return model_cards(await self.client.get("/v1/models", PROBE_SECONDS))

    async def generate(self, request: GenerateRequest) -> Completion:
        ids, sampling = checked_ids(request.token_ids, self.vocab_size), request.sampling
        facts = await self.connect()
        capacity = self._capacity(facts, len(ids))
        if capacity <= 0:
            raise ContextLengthError(
                f"{len(ids)} tokens leave nothing of a context of {facts.context_length}"
            )
        if sampling.max_tokens > capacity:
            request = request._replace(sampling=replace(sampling, max_tokens=capacity))
        most = request.sampling.max_tokens
        with self.about(f"asked to write {most:,} tokens after {len(ids):,}"):
            written, timings = await self._from_the_model(self._generate(ids, request))
            check_written(written.token_ids, written.finish_reason, most, self.vocab_size)
            logprobs = None
            if request.logprobs:
                found = checked_logprobs(numbers(written.logprobs), len(written.token_ids))
                logprobs = tuple(found.tolist())
            cached = checked_cached(written.cached_tokens, len(ids))
        return Completion(
            tuple(written.token_ids), written.finish_reason, cached, timings, logprobs
        )

    async def score(self, request: ScoreRequest) -> Scored:
        ids, start = checked_ids(request.token_ids, self.vocab_size), request.start
        check_start(start, len(ids))
        facts = await self.connect()
        if self._capacity(facts, len(ids)) <= 0:
            # A server scores a text on the way to the token that follows it.
            raise ContextLengthError(
                f"{len(ids)} tokens and one more do not fit a context of {facts.context_length}"
            )
        new = len(ids) - start
        with self.about(f"asked to score {new:,} tokens after {start:,}"):
            found, timings = await self._from_the_model(self._score(ids, request))
            logprobs, top = checked_logprobs(found.logprobs, new), None
            if found.top is not None:
                top = checked_logprobs(found.top.ravel(), new * request.top).reshape(new, -1)
            cached = checked_cached(found.cached_tokens, len(ids))
        return Scored(logprobs, cached, timings, top)

    def about(self, what: str) -> "_About":
        """Say in the error of a reply which server it came from, and what it was to."""
        return _About(f"{self.client.url} ({self._options.model})", what)

    async def aclose(self) -> None:
        await self.client.aclose()

    def check_speculation(self, found: str | None) -> tuple[str, ...]:
        """Compare what the server says of its speculative decoding with the configuration.

        Args:
            found: how it decodes speculatively, in its own words; None: not at all.

        Returns:
            A remark, if it does and the configuration does not say so.

        Raises:
            ConfigError: it does not, and the configuration says that it does.
        """
        wanted = self._options.server.speculative.method
        if wanted != "off" and found is None:
            raise ConfigError(
                f"{self.client.url} ({self._options.model}) does not decode speculatively, and the "
                f"configuration says server.speculative.method={wanted}: start it with atts "
                "servers up, or leave that out"
            )
        if wanted == "off" and found is not None:
            return (
                f"it decodes speculatively ({found}), which the configuration does not say: what "
                "is measured is not the model alone; set server.speculative to what it does",
            )
        return ()

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

    async def speculation(self) -> Speculation | None:
        """See ``Speculating``."""
        return None

    async def empty_cache(self) -> bool:
        """See ``Emptying``."""
        told = "it has requests"
        for wait in EMPTYING_WAITS:
            await asyncio.sleep(wait)
            try:
                if await self._forget():
                    return True
            except RequestRefusedError as error:
                told = str(error)
        _log.warning("%s: its cache was not emptied: %s", self.client.url, told)
        return False

    @abstractmethod
    async def _forget(self) -> bool:
        """Have the server forget what it cached; whether it did.

        Raises:
            RequestRefusedError: it does not let itself be told, or not now.
        """

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


def reply_bytes(tokens: int, top: int = 0) -> int:
    """The longest reply to be read where so many tokens were sent or asked for.

    ``top`` is how many log-probabilities more were asked for at each.
    """
    return REPLY_BYTES + REPLY_BYTES_PER_TOKEN * tokens * (1 + top)


def _since(sent: float) -> Timings:
    now = time.monotonic()
    return Timings(queued=sent, started=sent, first_token=now, done=now)
