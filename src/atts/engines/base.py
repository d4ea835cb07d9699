"""What an engine is: something that serves one model, in token ids.

Text never reaches an engine. It crosses only between the two models' tokenizers
(``atts.models.prompts``), so the ids of a chain's past are never computed twice and the server's
prefix cache always hits.
"""

import asyncio
import logging
import math
import secrets
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from atts.errors import AttsError, EmptyInputError, EngineError, TokenIdError
from atts.types import Discarded, FinishReason, Speculation, Timings

_log = logging.getLogger(__name__)


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


class ChainMark:
    """Stands for one chain; the replicas of its models are forgotten when it is gone."""

    __slots__ = ("__weakref__", "name")

    def __init__(self) -> None:
        self.name = secrets.token_hex(16)


class Need:
    """Whether the result of a request is needed for certain, where it was made ahead of that."""

    def __init__(self) -> None:
        self._certain = asyncio.Event()
        self.was_put_off = False
        """Whether somebody put the request off meanwhile, so that nothing of it is under way."""

    def is_certain(self) -> None:
        """The result is asked for."""
        self._certain.set()

    async def put_off(self) -> None:
        """Wait until the result is needed for certain.

        For whoever has no capacity for the request: so it takes none from others, and is not begun
        if it is dropped.
        """
        if not self._certain.is_set():
            self.was_put_off = True
            await self._certain.wait()


Purpose = Literal["write", "take-over", "score", "rate"]
"""What a request is for: to write on, to write where the draft has written, to judge that by its
log-probabilities, or to rate it otherwise."""


class GenerateRequest(NamedTuple):
    """What ``generate`` is asked for, and what that belongs to."""

    token_ids: Sequence[int]
    """To be continued."""
    sampling: Sampling
    chain: ChainMark | None = None
    """The chain that it belongs to; None: to none."""
    turn: int = 0
    """Of the chain, from 0."""
    purpose: Purpose = "write"
    need: Need | None = None
    """None: its result is needed for certain."""
    logprobs: bool = False
    """Whether the log-probabilities of what is written are asked for."""


class ScoreRequest(NamedTuple):
    """What ``score`` is asked for, and what that belongs to."""

    token_ids: Sequence[int]
    start: int
    """From here on; in ``[1, len(token_ids))``, as the first token of all has no
    log-probability."""
    chain: ChainMark | None = None
    turn: int = 0
    purpose: Purpose = "score"
    need: Need | None = None
    top: int = 0
    """How many of the largest log-probabilities at each position are asked for, too. Not every
    engine gives them."""


class Completion(NamedTuple):
    """What ``generate`` wrote. The end-of-sequence token is not part of ``token_ids``."""

    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    cached_tokens: int
    timings: Timings
    logprobs: tuple[float, ...] | None = None
    """Of each of ``token_ids`` under the model at temperature 1, in nats; None where they were not
    asked for. A server of SGLang that was not started by atts may tell those after the temperature:
    set SGLANG_RETURN_ORIGINAL_LOGPROB=1 for it."""


class Scored(NamedTuple):
    """What ``score`` found: ``logprobs[i]`` belongs to ``token_ids[start + i]``, in nats."""

    logprobs: NDArray[np.float64]
    cached_tokens: int
    timings: Timings
    top: NDArray[np.float64] | None = None
    """The largest at each position, in falling order: shape (tokens, ``request.top``). None where
    none were asked for, or the engine does not give them."""


class Load(NamedTuple):
    """How busy an engine is at a moment."""

    running: int
    """Requests that it works on."""
    waiting: int
    """Requests that it has, but does not work on yet."""
    cache_use: float
    """Share of the key-value cache that the running requests take up, in [0, 1]; what is merely
    kept for later does not count."""
    room: int | None = None
    """Tokens whose keys and values fit, over all copies of the model; None if it does not tell."""


def room_of(loads: Sequence[Load]) -> int | None:
    """The room of several copies together; None if one does not tell its own."""
    rooms = [load.room for load in loads if load.room is not None]
    return sum(rooms) if rooms and len(rooms) == len(loads) else None


@runtime_checkable
class Metered(Protocol):
    """An engine that may tell how busy it is."""

    async def meter(self) -> Load | None:
        """The load at this moment; None if it is not to be had.

        Raises:
            EngineError: the engine does not answer.
        """
        ...


@runtime_checkable
class Speculating(Protocol):
    """An engine that may decode speculatively."""

    async def speculation(self) -> Speculation | None:
        """How that went so far, since a moment of its own; None where it does not, or is not told.

        Raises:
            EngineError: the engine does not answer.
        """
        ...


async def speculation_of(engine: "Engine") -> Speculation | None:
    """How an engine's speculative decoding went so far; None where there is none, or no answer."""
    if not isinstance(engine, Speculating):
        return None
    try:
        return await engine.speculation()
    except EngineError as error:
        _log.warning("cannot tell how speculative decoding went: %s", error)
        return None


def checked_ids(token_ids: Sequence[int], vocab_size: int) -> list[int]:
    """Token ids that a model can be given.

    Raises:
        EmptyInputError: there are none.
        TokenIdError: one lies outside the vocabulary.
    """
    ids = list(token_ids)
    if not ids:
        raise EmptyInputError("no tokens to continue or to score")
    # An id past the vocabulary does not fail alone: it can take a whole server down.
    try:  # for thousands of ids, in a third of the time of min and max
        largest = np.maximum.reduce(np.frombuffer(array("I", ids), dtype=np.uint32))
    except OverflowError:  # a negative one
        largest = vocab_size
    if largest >= vocab_size:
        wrong = next(i for i in ids if not 0 <= i < vocab_size)
        raise TokenIdError(
            f"token id {wrong} is outside the vocabulary of {vocab_size}; do the tokenizer and the "
            "model belong together?"
        )
    return ids


def all_finite(numbers: NDArray[np.float64]) -> bool:
    """Whether all are finite, of hundreds in a quarter of the time of ``np.isfinite``.

    >>> all_finite(np.array([-1.0, -2.0])), all_finite(np.array([-1.0, np.nan]))
    (True, False)
    """
    # A sum is finite only where all are; that of huge ones may not be.
    return math.isfinite(np.add.reduce(numbers)) or bool(np.isfinite(numbers).all())


def check_start(start: int, length: int) -> None:
    """Refuse to score nothing, or a token that follows none.

    Raises:
        EmptyInputError: ``start`` is no such place in ``length`` tokens.
    """
    if not 1 <= start < length:
        raise EmptyInputError(
            f"cannot score from token {start} of {length}: start must be at least 1, as the first "
            "token has no log-probability, and less than the number of tokens"
        )


class Engine(Protocol):
    """Serves one model.

    Cancelling the task that awaits a call aborts the request: the engine spends nothing more
    on it.

    Raises, from both calls:
        EmptyInputError: there is nothing to continue or to score.
        TokenIdError: an id lies outside the model's vocabulary.
        ContextLengthError: the input leaves nothing of the model's context.
        EngineUnavailableError: a passing condition; the request may be sent again.
        EngineError: anything else that went wrong with this request.
    """

    async def generate(self, request: GenerateRequest) -> Completion:
        """Continue the tokens by at most ``sampling.max_tokens``."""
        ...

    async def score(self, request: ScoreRequest) -> Scored:
        """Log-probabilities of ``token_ids[start:]``, each given all tokens before it."""
        ...

    async def aclose(self) -> None:
        """Abort what is in flight and free the model."""
        ...


@runtime_checkable
class Emptying(Protocol):
    """An engine that may forget what it keeps of earlier requests."""

    async def empty_cache(self) -> bool:
        """Forget it; whether that was done, which needs an engine without requests.

        Raises:
            EngineError: the engine does not answer.
        """
        ...


async def emptied(engine: "Engine") -> bool:
    """Have an engine forget what it cached; whether it did."""
    if not isinstance(engine, Emptying):
        return False
    try:
        return await engine.empty_cache()
    except EngineError as error:
        _log.warning("a cache was not emptied: %s", error)
        return False


class _Made(NamedTuple):
    request: GenerateRequest
    need: Need
    task: asyncio.Task[Completion]
    began: float


class Prefetch:
    """At most one request that runs ahead of its need."""

    def __init__(self) -> None:
        self._made: _Made | None = None

    def start(self, engine: Engine, request: GenerateRequest) -> None:
        """Begin to write; ``take`` or ``drop`` must follow before the next ``start``."""
        need = Need()
        task = asyncio.create_task(self._write(engine, request._replace(need=need)))
        self._made = _Made(request, need, task, asyncio.get_running_loop().time())

    @staticmethod
    async def _write(engine: Engine, request: GenerateRequest) -> Completion:
        return await engine.generate(request)

    async def take(self, request: GenerateRequest) -> Completion | None:
        """The result, if this very request is the one that was made.

        Raises:
            EngineError: the request failed, as it would have without running ahead.
        """
        if self._made is None or self._made.request != request:
            return None
        made, self._made = self._made, None
        made.need.is_certain()
        return await made.task  # cancelling the caller cancels the request with it

    async def drop(self) -> Discarded | None:
        """Abort the request, if there is one, and wait until nothing of it is left running.

        Returns:
            What was thrown away; None if nothing had begun.
        """
        if self._made is None:
            return None
        made, self._made = self._made, None
        now = asyncio.get_running_loop().time()
        made.task.cancel()
        await asyncio.wait([made.task])
        # Looked at, so that asyncio does not report an error that nobody needs to know of.
        error = None if made.task.cancelled() else made.task.exception()
        if error and not isinstance(error, AttsError):
            _log.warning("writing ahead failed: %s: %s", type(error).__name__, error)
        lost = made.task.cancelled() or error is not None
        if made.need.was_put_off:
            return None
        return Discarded(
            tokens=None if lost else len(made.task.result().token_ids), seconds=now - made.began
        )
