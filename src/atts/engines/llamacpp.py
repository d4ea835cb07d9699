"""The engine inside this process over llama.cpp, by llama-cpp-python: models in GGUF files.

Requests are computed one at a time, in the order in which they come, so that a text depends on
nothing that is asked for beside it. Keys and values of chains are kept as llama.cpp's sequences in
one cache; a request computes what follows the longest beginning that one of them holds.
"""

import asyncio
import ctypes
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from atts.config import ModelOptions
from atts.engines.base import (
    Completion,
    GenerateRequest,
    Load,
    Sampling,
    Scored,
    ScoreRequest,
    check_start,
    checked_ids,
)
from atts.errors import (
    ConfigError,
    ContextLengthError,
    EngineError,
)
from atts.models.model_files import end_of_sequence_ids
from atts.models.prompts import Tokenizer
from atts.types import FinishReason, Timings

SEQUENCES = 64
"""Beginnings of chains that are kept at a time."""

MOST_CELLS = 32_768
"""llama.cpp reserves the memory of its whole cache at the start."""

BATCH = 512
"""Tokens that are computed at a time where no log-probabilities are asked for."""

SCORED_BATCH = 64
"""And where they are: each has a row of the whole vocabulary."""

_PROBE = "Let x = 3.5; then \\boxed{x^2 + 1} is 13.25.\n\nSo: yes."

T = TypeVar("T")
Logits = NDArray[np.float32]


class _StoppedError(Exception):
    """Nobody waits for the request any more, or the engine closes."""


class _Held(NamedTuple):
    """A sequence of the cache."""

    ids: list[int]
    chain: str | None
    """The chain that used it last."""


class LlamaCppEngine:
    """Serves one model; see ``Engine``."""

    def __init__(
        self,
        path: Path,
        end_ids: frozenset[int],
        decode: Callable[[list[int]], str],
        *,
        cells: int = MOST_CELLS,
        context_length: int | None = None,
        threads: int | None = None,
        on_gpu: bool = True,
        exact: bool = False,
    ) -> None:
        """Load a model.

        Args:
            path: of the GGUF file.
            end_ids: the tokens that end a text; empty takes those of the file, which may be more.
            decode: the text of token ids, for stop strings.
            cells: tokens whose keys and values are kept.
            context_length: of the longest chain; None takes the model's, as far as it fits.
            threads: to compute with; None takes llama.cpp's own number.
            on_gpu: whether all layers go to a GPU, where llama.cpp was built for one.
            exact: whether keys and values are kept in float32; otherwise in half of that.

        Raises:
            ConfigError: it cannot be loaded.
            ModuleNotFoundError: llama-cpp-python is not installed.
        """
        api: Any = import_module("llama_cpp")  # compiled, and not there for most users
        self._api = api
        api.llama_backend_init()
        # It writes a page to standard error at each start otherwise.
        self._silent = api.llama_log_callback(lambda *_: None)
        api.llama_log_set(self._silent, ctypes.c_void_p())
        weights = api.llama_model_default_params()
        weights.n_gpu_layers = 999 if on_gpu else 0
        model = api.llama_model_load_from_file(os.fsencode(path), weights)
        if not model:
            raise ConfigError(f"llama.cpp cannot load {path}; is it a whole GGUF file?")
        self._model = model
        self._vocabulary = api.llama_model_get_vocab(model)
        self.vocab_size = int(api.llama_vocab_n_tokens(self._vocabulary))
        trained = int(api.llama_model_n_ctx_train(model))
        self.context_length = min(context_length or trained, trained, cells)
        options = api.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = cells, BATCH, BATCH
        options.n_seq_max, options.kv_unified = SEQUENCES, True
        options.n_outputs_max = options.n_outputs_max_per_seq = SCORED_BATCH
        if exact:
            options.type_k = options.type_v = api.GGML_TYPE_F32
            options.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if threads:
            options.n_threads = options.n_threads_batch = threads
        context = api.llama_init_from_model(model, options)
        if not context:
            api.llama_model_free(model)
            raise ConfigError(f"llama.cpp has no room for {cells:,} tokens of {path}")
        self._context = context
        self._memory = api.llama_get_memory(context)
        self._cells = cells
        self._batch = api.llama_batch_init(BATCH, 0, 1)
        self._held = {number: _Held([], None) for number in range(SEQUENCES)}
        """By number of sequence, the one that was used longest ago first."""
        self._end_ids, self._decode = end_ids or self._own_ends(), decode
        self._thread = ThreadPoolExecutor(1, "atts-llamacpp")
        self._stops: set[threading.Event] = set()
        self._closed = False

    @classmethod
    def load(cls, options: ModelOptions, neighbours: int = 0) -> "LlamaCppEngine":
        """Load ``gguf`` with the tokenizer of ``model``.

        Raises:
            ConfigError: one of them cannot be loaded, or they do not belong together.
        """
        if options.gguf is None:
            raise ConfigError(
                f"{options.model}: engine: llamacpp needs gguf, the file with the weights; model "
                "names the folder or hub id that the tokenizer and the chat template come from"
            )
        path = Path(options.gguf).expanduser()
        if not path.is_file():
            raise ConfigError(f"there is no file {path}; correct gguf")
        tokenizer = Tokenizer.load(options)
        engine = cls(
            path,
            end_of_sequence_ids(options.model),
            tokenizer.decode,
            cells=min(MOST_CELLS, max(1, options.cache_tokens)),
            context_length=options.server.context_length,
            threads=max(1, len(os.sched_getaffinity(0)) // (1 + neighbours))
            if hasattr(os, "sched_getaffinity")
            else None,
            on_gpu=options.device != "cpu",
            exact=options.dtype == "float32",
        )
        if engine.tokenize(_PROBE) != tokenizer.encode(_PROBE):
            engine.free()
            raise ConfigError(
                f"{path} encodes text otherwise than the tokenizer of {options.model}: model must "
                "name what the file was made from"
            )
        return engine

    def _own_ends(self) -> frozenset[int]:
        is_end = self._api.llama_vocab_is_eog
        return frozenset(i for i in range(self.vocab_size) if is_end(self._vocabulary, i))

    def tokenize(self, text: str) -> list[int]:
        """The ids that the file's own tokenizer makes of a text."""
        data = text.encode()
        ids = (self._api.llama_token * (len(data) + 8))()
        count = self._api.llama_tokenize(
            self._vocabulary, data, len(data), ids, len(ids), False, False
        )
        return list(ids[: max(0, count)])

    async def generate(self, request: GenerateRequest) -> Completion:
        ids = checked_ids(request.token_ids, self.vocab_size)
        if len(ids) >= self.context_length:
            raise ContextLengthError(
                f"{len(ids)} tokens fill a context of {self.context_length}: none can be written"
            )
        queued = time.monotonic()
        return await self._run(lambda stop: self._write(ids, request, stop, queued))

    async def score(self, request: ScoreRequest) -> Scored:
        ids, start = checked_ids(request.token_ids, self.vocab_size), request.start
        check_start(start, len(ids))
        if len(ids) > self.context_length:
            raise ContextLengthError(
                f"{len(ids)} tokens do not fit a context of {self.context_length}"
            )
        queued = time.monotonic()
        return await self._run(lambda stop: self._read(ids, request, stop, queued))

    async def meter(self) -> Load | None:
        asked = len(self._stops)
        return Load(running=min(1, asked), waiting=max(0, asked - 1), cache_use=0.0)

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        for stop in self._stops:
            stop.set()
        await asyncio.to_thread(self._thread.shutdown)
        self.free()

    def free(self) -> None:
        """Free the model; nothing may be in flight."""
        self._closed = True
        self._api.llama_batch_free(self._batch)
        self._api.llama_free(self._context)
        self._api.llama_model_free(self._model)

    async def _run(self, work: Callable[[threading.Event], T]) -> T:
        if self._closed:
            raise EngineError("the engine is closed")
        stop = threading.Event()
        self._stops.add(stop)
        try:
            return await asyncio.wrap_future(self._thread.submit(work, stop))
        except _StoppedError:
            raise EngineError("the engine is closed") from None
        finally:
            stop.set()  # where the caller was cancelled, the work ends at its next token
            self._stops.discard(stop)

    # All below runs in the one thread.

    def _write(
        self, ids: list[int], request: GenerateRequest, stop: threading.Event, queued: float
    ) -> Completion:
        sampling, started = request.sampling, time.monotonic()
        number, cached = self._place(ids, len(ids) - 1, request)
        draw = np.random.Generator(np.random.Philox(key=sampling.seed))
        logits = self._compute(number, ids[cached:], 1, stop)[-1]
        first = time.monotonic()
        written: list[int] = []
        logprobs: list[float] = []
        reason: FinishReason = "length"
        for _ in range(min(sampling.max_tokens, self.context_length - len(ids))):
            if written:
                logits = self._compute(number, written[-1:], 1, stop)[-1]
            token = drawn(logits, sampling, draw.random())
            if token in self._end_ids:
                reason = "stop"
                break
            written.append(token)
            if request.logprobs:
                logprobs.append(float(log_softmax(logits)[token]))
            if self._holds_stop(written, sampling.stop):
                reason = "stop"
                break
        timings = Timings(queued=queued, started=started, first_token=first, done=time.monotonic())
        found = tuple(logprobs) if request.logprobs else None
        return Completion(tuple(written), reason, cached, timings, found)

    def _holds_stop(self, written: list[int], stop: tuple[str, ...]) -> bool:
        if not stop:
            return False
        # A token may be less than a character, but not less than a byte.
        tail = written[-4 * (max(map(len, stop)) + 1) :]
        return any(text in self._decode(tail) for text in stop)

    def _read(
        self, ids: list[int], request: ScoreRequest, stop: threading.Event, queued: float
    ) -> Scored:
        started, start = time.monotonic(), request.start
        number, cached = self._place(ids, start - 1, request)
        logprobs, top = [], []
        # The row of a token comes from the token before it; that of the last one is not needed.
        self._compute(number, ids[cached : start - 1], 0, stop)
        for begin in range(start - 1, len(ids) - 1, SCORED_BATCH):
            end = min(begin + SCORED_BATCH, len(ids) - 1)
            rows = self._compute(number, ids[begin:end], end - begin, stop)
            for row, token in zip(rows, ids[begin + 1 : end + 1], strict=True):
                all_logprobs = log_softmax(row)
                logprobs.append(all_logprobs[token])
                if request.top:
                    top.append(np.sort(all_logprobs)[: -request.top - 1 : -1])
        now = time.monotonic()
        timings = Timings(queued=queued, started=started, first_token=now, done=now)
        return Scored(np.array(logprobs), cached, timings, np.array(top) if request.top else None)

    def _place(
        self, ids: list[int], most: int, request: GenerateRequest | ScoreRequest
    ) -> tuple[int, int]:
        """The sequence to compute in, which holds a beginning of ``ids``; and of what length.

        What holds more than that belongs to another chain, or is what was cut off of this one.
        """
        chain = request.chain.name if request.chain else None
        number, common = 0, -1
        for each, held in self._held.items():  # of equal ones, what was used last
            length = _common(held.ids, ids, most)
            if length >= common:
                number, common = each, length
        held = self._held[number]
        if len(held.ids) > common and held.chain != chain:
            other = next(each for each in self._held if each != number)
            self._forget(other)
            if common:
                self._api.llama_memory_seq_cp(self._memory, number, other, 0, common)
            number, held = other, _Held(held.ids[:common], chain)
        else:
            self._api.llama_memory_seq_rm(self._memory, number, common, -1)
            held = _Held(held.ids[:common], chain)
        self._held.pop(number)
        self._held[number] = held
        return number, common

    def _forget(self, number: int) -> None:
        self._api.llama_memory_seq_rm(self._memory, number, -1, -1)
        self._held[number] = _Held([], None)

    def _make_room(self, number: int, more: int) -> None:
        """Forget what was used longest ago, until so many tokens fit."""
        used = sum(len(held.ids) for held in self._held.values())
        for each in list(self._held):
            if used + more <= self._cells:
                return
            if each != number:
                used -= len(self._held[each].ids)
                self._forget(each)

    def _compute(
        self, number: int, ids: Sequence[int], rows: int, stop: threading.Event
    ) -> list[Logits]:
        """Go on with a sequence; the logits of its last ``rows`` tokens, one array each."""
        held, batch = self._held[number], self._batch
        found: list[Logits] = []
        self._make_room(number, len(ids))
        for begin in range(0, len(ids), BATCH):
            if stop.is_set():
                raise _StoppedError
            part = ids[begin : begin + BATCH]
            batch.n_tokens = len(part)
            wanted = []
            for index, token in enumerate(part):
                batch.token[index] = token
                batch.pos[index] = len(held.ids) + index
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = number
                is_wanted = begin + index >= len(ids) - rows
                batch.logits[index] = is_wanted
                if is_wanted:
                    wanted.append(index)
            code = self._api.llama_decode(self._context, batch)
            if code:
                self._forget(number)
                raise EngineError(f"llama.cpp cannot compute {len(part)} tokens: code {code}")
            held.ids.extend(part)
            for index in wanted:
                row = self._api.llama_get_logits_ith(self._context, index)
                found.append(np.ctypeslib.as_array(row, (self.vocab_size,)).copy())
        return found


def _common(one: list[int], other: list[int], most: int) -> int:
    """How many ids two lists have in common at their beginning, up to ``most``."""
    length = min(len(one), len(other), most)
    if one[:length] == other[:length]:
        return length
    return next(index for index in range(length) if one[index] != other[index])


def log_softmax(logits: Logits) -> NDArray[np.float64]:
    """Log-probabilities, in nats, shape of ``logits``.

    >>> log_softmax(np.zeros(2, dtype=np.float32)).round(4).tolist()
    [-0.6931, -0.6931]
    """
    shifted = logits.astype(np.float64) - logits.max()
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return normalised


def drawn(logits: Logits, sampling: Sampling, uniform: float) -> int:
    """A token, by one uniform number in [0, 1).

    >>> logits = np.log(np.array([0.1, 0.6, 0.3], dtype=np.float32))
    >>> [drawn(logits, Sampling(1, 1.0, 1.0, 0), u) for u in (0.05, 0.5, 0.95)]
    [0, 1, 2]
    >>> drawn(logits, Sampling(1, 1.0, 0.5, 0), 0.95), drawn(logits, Sampling(1, 0.0, 1.0, 0), 0.95)
    (1, 1)
    """
    if not sampling.temperature:
        return int(logits.argmax())
    weights = np.exp((logits.astype(np.float64) - logits.max()) / sampling.temperature)
    if sampling.top_p < 1.0:
        order = np.argsort(-weights, kind="stable")
        before = np.cumsum(weights[order]) - weights[order]
        weights[order[before >= sampling.top_p * weights.sum()]] = 0.0
    sums = np.cumsum(weights)
    return int(min(np.searchsorted(sums, uniform * sums[-1], side="right"), len(sums) - 1))
