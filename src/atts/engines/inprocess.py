"""The in-process engine: any causal language model of transformers, for many callers at once.

Requests of many chains run as one batch (``atts.engines.batching``) in a thread of its own,
so that the event loop stays free.
"""

import asyncio
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from atts.config import ModelOptions
from atts.engines.base import Completion, Sampling, Scored
from atts.engines.batching import Batcher, Request
from atts.errors import (
    ConfigError,
    ContextLengthError,
    EmptyInputError,
    EngineError,
    TokenIdError,
)

_one_cpu_pass_at_a_time = threading.Lock()
"""Two models on one CPU would fight for the same cores."""


class InProcessEngine:
    """Serves one transformers model to many concurrent callers; see ``Engine``."""

    def __init__(self, model: PreTrainedModel, cache_tokens: int) -> None:
        """Take over ``model``, which must be in evaluation mode.

        Raises:
            ConfigError: the model keeps a state that is not a key-value cache per token.
        """
        config = model.config.get_text_config()
        layers = DynamicCache(config=config).layers
        if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
            raise ConfigError(
                f"{model.config.model_type}: not every layer of this model is attention with a "
                "key-value cache, which is all that the in-process engine can batch"
            )
        self.vocab_size: int = config.vocab_size
        self.context_length: int = config.max_position_embeddings
        on_cpu = model.device.type == "cpu"
        self._batcher = Batcher(
            model,
            cache_tokens,
            end_of_sequence_ids(model),
            _one_cpu_pass_at_a_time if on_cpu else nullcontext(),
        )
        # None asks the thread to stop.
        self._inbox: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="atts-engine", daemon=True)
        self._thread.start()

    @classmethod
    def load(cls, options: ModelOptions, path: str) -> "InProcessEngine":
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
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                path, dtype=dtype, use_safetensors=True
            )
            model.to(device)
        except (OSError, ValueError, RuntimeError, AssertionError) as error:
            raise ConfigError(
                f"cannot load the model {options.model} on {device}: {error}"
            ) from error
        return cls(model.eval(), options.cache_tokens)

    async def generate(self, token_ids: Sequence[int], sampling: Sampling) -> Completion:
        ids = self._checked(token_ids)
        room = self.context_length - len(ids)
        if room <= 0:
            raise ContextLengthError(
                f"{len(ids)} tokens leave no room in a context of {self.context_length}"
            )
        # Drawn here by position: what the request is batched with cannot change its text.
        generator = np.random.Generator(np.random.Philox(key=sampling.seed))
        uniforms = generator.random(min(sampling.max_tokens, room))
        completion: Completion = await self._submit(
            Request(ids, len(ids) - 1, Future(), sampling, uniforms)
        )
        return completion

    async def score(self, token_ids: Sequence[int], start: int) -> Scored:
        ids = self._checked(token_ids)
        if len(ids) > self.context_length:
            raise ContextLengthError(
                f"{len(ids)} tokens do not fit a context of {self.context_length}"
            )
        if not 1 <= start < len(ids):
            raise EmptyInputError(
                f"cannot score from token {start} of {len(ids)}: start must be at least 1, as the "
                "first token has no log-probability, and less than the number of tokens"
            )
        scored: Scored = await self._submit(Request(ids, start - 1, Future()))
        return scored

    async def aclose(self) -> None:
        self._closed = True
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    def _checked(self, token_ids: Sequence[int]) -> list[int]:
        if self._closed:
            raise EngineError("the engine is closed")
        ids = list(token_ids)
        if not ids:
            raise EmptyInputError("no tokens to continue or to score")
        for token_id in ids:
            if not 0 <= token_id < self.vocab_size:
                raise TokenIdError(
                    f"token id {token_id} is outside the vocabulary of {self.vocab_size}; do the "
                    "tokenizer and the model belong together?"
                )
        return ids

    async def _submit(self, request: Request) -> Any:  # noqa: ANN401 - as the caller knows
        self._inbox.put(request)
        return await asyncio.wrap_future(request.future)

    def _serve(self) -> None:
        """The life of the engine's thread."""
        while self._receive():
            self._batcher.step()
        self._batcher.fail_all(EngineError("the engine was closed"))

    def _receive(self) -> bool:
        """Pass new requests on, waiting for one if there is nothing to do; false to stop."""
        while True:
            try:
                request = self._inbox.get(block=self._batcher.idle)
            except queue.Empty:
                return True
            if request is None:
                return False
            self._batcher.add(request)


def end_of_sequence_ids(model: PreTrainedModel) -> frozenset[int]:
    """The ids at which the model stops; chat models often have several."""
    ids = getattr(model.generation_config, "eos_token_id", None)
    if ids is None:
        ids = model.config.get_text_config().eos_token_id
    if ids is None:
        return frozenset()
    return frozenset(ids if isinstance(ids, list) else [ids])
