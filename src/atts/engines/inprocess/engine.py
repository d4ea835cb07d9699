"""The in-process engine: any causal language model of transformers, for many callers at once.

Requests of many chains run as one batch (``batching.py``) in a thread of its own, so that the event
loop stays free.
"""

import asyncio
import inspect
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import numpy as np
import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.utils.logging import disable_progress_bar

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
from atts.engines.inprocess.batching import BatchedRequest, Batcher
from atts.engines.inprocess.kv_cache import cache_argument
from atts.engines.inprocess.sampling import Decode, StopStrings
from atts.errors import (
    ConfigError,
    ContextLengthError,
    EngineError,
    EngineGoneError,
)
from atts.models.model_files import model_folder
from atts.models.prompts import Tokenizer

RELEASE_SECONDS = 2.0
"""An engine without requests for so long frees the memory that its batches needed."""

_LOADING_FAILS = (OSError, ValueError, TypeError, RuntimeError, AssertionError, SafetensorError)
"""What transformers raises for files that are damaged, and torch for a device that is not there."""


class InProcessEngine:
    """Serves one transformers model to many concurrent callers; see ``Engine``."""

    def __init__(
        self,
        model: PreTrainedModel,
        cache_tokens: int,
        neighbours: int = 0,
        decode: Decode | None = None,
    ) -> None:
        """Take over ``model``, which must be in evaluation mode.

        ``neighbours`` other models run in this process, and share its cores. ``decode`` gives the
        text of token ids, without which there can be no stop strings.

        Raises:
            ConfigError: the model keeps a state that is not a key-value cache per token, or
                does not say how long its context is.
        """
        config = model.config.get_text_config()
        if reason := why_not_batched(model):
            raise ConfigError(
                f"{model.config.model_type}: the in-process engine cannot serve this model, as "
                f"{reason}; engine: vllm and engine: sglang serve many more"
            )
        self.vocab_size: int = config.vocab_size
        self.context_length: int = context_length(model)
        # Models that each use all cores would wait for each other at every operation.
        self._cores = max(1, torch.get_num_threads() // (1 + neighbours))
        with one_thread():
            batcher = Batcher(model, cache_tokens, end_of_sequence_ids(model))
        self._decode = decode
        self._stops: dict[tuple[str, ...], StopStrings] = {}
        self._cache_tokens = cache_tokens
        self._requests: set[BatchedRequest] = set()
        # None asks the thread to stop.
        self._inbox: queue.SimpleQueue[BatchedRequest | None] = queue.SimpleQueue()
        self._closed = False
        self._died: str | None = None
        self._closing = threading.Lock()
        # The thread alone holds the model, so that it is freed when the thread ends.
        self._thread = threading.Thread(
            target=self._serve, args=(batcher,), name="atts-engine", daemon=True
        )
        self._thread.start()

    @classmethod
    def load(cls, options: ModelOptions, path: str, neighbours: int = 0) -> "InProcessEngine":
        """Load a model and serve it; see ``load_model``."""
        # Only stop strings need it, and most runs have none.
        tokenizer = cache(lambda: Tokenizer.load(options))
        with one_thread():
            model = load_model(options, path)
        return cls(
            model,
            options.cache_tokens,
            neighbours,
            lambda ids: tokenizer().decode(ids),
        )

    async def generate(self, request: GenerateRequest) -> Completion:
        ids, sampling = checked_ids(request.token_ids, self.vocab_size), request.sampling
        left = self.context_length - len(ids)
        if left <= 0:
            raise ContextLengthError(
                f"{len(ids)} tokens fill a context of {self.context_length}: none can be written"
            )
        # Drawn here by position: what the request is batched with cannot change its text.
        generator = np.random.Generator(np.random.Philox(key=sampling.seed))
        uniforms = generator.random(min(sampling.max_tokens, left))
        completion: Completion = await self._submit(
            BatchedRequest(
                ids,
                len(ids) - 1,
                Future(),
                sampling,
                uniforms,
                self._stop_strings(sampling.stop),
                logprobs=[] if request.logprobs else None,
            )
        )
        return completion

    def _stop_strings(self, stop: tuple[str, ...]) -> StopStrings | None:
        if not stop:
            return None
        if self._decode is None:
            raise ValueError("an engine without a tokenizer knows no stop strings")
        if stop not in self._stops:  # what it finds out about tokens serves all requests
            self._stops[stop] = StopStrings(self._decode, stop)
        return self._stops[stop]

    async def score(self, request: ScoreRequest) -> Scored:
        ids, start = checked_ids(request.token_ids, self.vocab_size), request.start
        if len(ids) > self.context_length:
            raise ContextLengthError(
                f"{len(ids)} tokens do not fit a context of {self.context_length}"
            )
        check_start(start, len(ids))
        scored: Scored = await self._submit(
            BatchedRequest(ids, start - 1, Future(), top=request.top)
        )
        return scored

    async def meter(self) -> Load:
        """How busy the engine is. No request counts as waiting: they are gathered to join."""
        tokens = sum(len(each.token_ids) + len(each.written) for each in self._requests)
        use = min(tokens / self._cache_tokens, 1.0) if self._cache_tokens else 0.0
        return Load(len(self._requests), 0, use, room=self._cache_tokens or None)

    async def aclose(self) -> None:
        with self._closing:
            self._closed = True
            self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    async def _submit(self, request: BatchedRequest) -> Any:  # noqa: ANN401 - as the caller knows
        with self._closing:  # so that no request comes after the last one that is served
            if self._died:
                raise EngineGoneError(self._died)
            if self._closed:
                raise EngineError("the engine is closed")
            self._inbox.put(request)
        self._requests.add(request)
        try:
            return await asyncio.wrap_future(request.future)
        finally:
            self._requests.discard(request)

    def _serve(self, batcher: Batcher) -> None:
        """The life of the engine's thread; whatever ends it, no caller is left waiting."""
        end: EngineError = EngineError("the engine was closed")
        torch.set_num_threads(self._cores)  # of this thread
        try:
            while self._receive(batcher):
                batcher.step()
        except BaseException as error:
            self._died = f"the engine's thread died: {type(error).__name__}: {error}"
            end = EngineGoneError(self._died)
            raise
        finally:
            with self._closing:
                self._closed = True
                self._inbox.put(None)
            while (request := self._inbox.get()) is not None:
                batcher.add(request)
            batcher.fail_all(end)

    def _receive(self, batcher: Batcher) -> bool:
        """Pass new requests on, waiting for one if there is nothing to do; false to stop."""
        patience: float | None = RELEASE_SECONDS
        while True:
            try:
                request = self._inbox.get(block=batcher.idle, timeout=patience)
            except queue.Empty:
                if not batcher.idle:
                    return True
                batcher.release_memory()
                patience = None
                continue
            if request is None:
                return False
            batcher.add(request)


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, PyTorch computes in the calling thread alone.

    Otherwise that thread would get threads of its own to compute with, and keep them beside those
    of the engine's thread. Where there are more of them than cores OpenMP lets them sleep between
    operations: a token of a small model then took 2.6 times as long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load_model(options: ModelOptions, path: str) -> PreTrainedModel:
    """Load a model from a folder or the Hugging Face hub, safetensors only.

    Raises:
        ConfigError: the model cannot be loaded, or the device is not there.
    """
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = options.dtype
    if dtype == "auto" and device == "cpu":
        dtype = "float32"
    model_folder(options.model)  # or transformers would try for half a minute to reach the hub
    disable_progress_bar()  # it would tear the run's own progress display
    from_pretrained: Any = AutoModelForCausalLM.from_pretrained
    try:
        model, found = from_pretrained(
            path,
            dtype=dtype,
            use_safetensors=True,
            # Without this, transformers asks on the terminal whether to run a model's own code.
            trust_remote_code=False,
            output_loading_info=True,
        )
        model.to(device)
    except _LOADING_FAILS as error:
        raise ConfigError(f"cannot load the model {options.model} on {device}: {error}") from error
    if found["missing_keys"]:
        raise ConfigError(
            f"the model {options.model} lacks weights, which would be random: "
            f"{', '.join(sorted(found['missing_keys']))}"
        )
    return cast("PreTrainedModel", model.eval())


def why_not_batched(model: PreTrainedModel) -> str | None:
    """Why the model cannot be batched continuously; None if it can."""
    layers = DynamicCache(config=model.config.get_text_config()).layers
    other = {
        type(layer).__name__
        for layer in layers
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer)
    }
    if other:
        return (
            "not every layer of it keeps a key-value cache, with an entry for each token: there "
            f"are layers of {', '.join(sorted(other))}"
        )
    taken = inspect.signature(model.forward).parameters
    missing = []
    if not cache_argument(model):
        missing.append("a key-value cache (cache, or past_key_values before transformers 5.24)")
    if "position_ids" not in taken:
        missing.append("positions (position_ids)")
    if "attention_mask" not in taken:
        missing.append("a mask (attention_mask)")
    if missing:
        return (
            f"{type(model).__name__}.forward of transformers {transformers.__version__} does not "
            f"take {', '.join(missing)}"
        )
    return None


def context_length(model: PreTrainedModel) -> int:
    """How many tokens the model can see.

    Rotary embeddings that change with the length of the input end where they would change:
    beyond, a chain's kept keys would no longer fit, and would depend on the batch.

    Raises:
        ConfigError: the model does not say.
    """
    config = model.config.get_text_config()
    length = getattr(config, "max_position_embeddings", None)
    if not isinstance(length, int) or length < 1:
        raise ConfigError(
            f"{model.config.model_type}: the model's configuration has no max_position_embeddings"
        )
    ropes: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    for rope in (ropes, *(value for value in ropes.values() if isinstance(value, dict))):
        if rope.get("rope_type") in ("dynamic", "longrope"):
            length = min(length, rope.get("original_max_position_embeddings") or length)
    return length


def end_of_sequence_ids(model: PreTrainedModel) -> frozenset[int]:
    """The ids at which the model stops; chat models often have several."""
    ids = getattr(model.generation_config, "eos_token_id", None)
    if ids is None:
        ids = model.config.get_text_config().eos_token_id
    if ids is None:
        return frozenset()
    return frozenset(ids if isinstance(ids, list) else [ids])
