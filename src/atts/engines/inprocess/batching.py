"""Continuous batching of one transformers model, step by step and without any thread.

Requests wait, join the running batch, write a token a step, and leave it. A request joins with
one pass over its new tokens, which is all that scoring needs; one that has all but its last
token in the cache, as most turns of a chain do, runs on at once.
"""

import inspect
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from atts.engines.base import Completion, Sampling, Scored
from atts.engines.inprocess.kv_cache import (
    BLOCK,
    Layout,
    PrefixStore,
    Row,
    Window,
    block_keys,
    cache_argument,
)
from atts.engines.inprocess.sampling import StopStrings, sample
from atts.errors import EngineError, EngineUnavailableError
from atts.types import FinishReason, Timings

TOKENS_PER_PASS = 2048
"""Most tokens that one joining pass computes, so that running requests do not starve.

A request that is longer on its own joins alone.
"""

JOINS_IN_A_ROW = 8
"""Most joining passes before the running requests write a token again.

While others wait to join, it pays to gather them first: a step costs little more for many rows
than for few.
"""


@dataclass(eq=False)
class BatchedRequest:
    """A request on its way through a batcher; ``sampling`` is None for scoring."""

    token_ids: list[int]
    needed_from: int
    """First position whose next-token distribution is asked for."""
    future: "Future[Any]"
    sampling: Sampling | None = None
    uniforms: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """One number in [0, 1) for each token that may be written."""
    stops: StopStrings | None = None
    written: list[int] = field(default_factory=list)
    logprobs: list[float] | None = None
    """Of what is written, where they were asked for."""
    top: int = 0
    """How many of the largest log-probabilities of a score are asked for."""
    row: Row | None = None
    """Stored keys and values that begin like this request; set when it is about to join."""
    new_tokens: int = 0
    cached_tokens: int = 0
    queued: float = field(default_factory=time.monotonic)
    started: float = 0.0
    first_token: float = 0.0

    def timings(self) -> Timings:
        return Timings(
            queued=self.queued,
            started=self.started,
            first_token=self.first_token,
            done=time.monotonic(),
        )

    def resolve(self, result: Completion | Scored) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(result)

    def fail(self, error: EngineError) -> None:
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Batcher:
    """Runs the requests of one model. Not safe for threads: one thread calls it."""

    def __init__(
        self,
        model: PreTrainedModel,
        cache_tokens: int,
        end_ids: frozenset[int],
    ) -> None:
        self._model = model
        self._end_ids = end_ids
        self._layout = Layout.of(model)
        self._cache_argument = cache_argument(model)
        self._trims_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._store = PrefixStore(cache_tokens)
        self._waiting: list[BatchedRequest] = []
        self._joins = 0
        # Row i of the window belongs to the i-th running request.
        self._running: list[BatchedRequest] = []
        self._window = Window(self._layout)
        self._joining_window = Window(self._layout)

    def add(self, request: BatchedRequest) -> None:
        self._waiting.append(request)

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._running

    def step(self) -> None:
        """Let waiting requests join; when they have, write one token for each running one."""
        self._waiting = [r for r in self._waiting if not r.future.cancelled()]
        self._guard_running(self._drop_cancelled)
        if self._waiting:
            ready, joining = self._next_to_join()
            taken = {*ready, *joining}
            self._waiting = [r for r in self._waiting if r not in taken]
            for work, requests in ((self._resume, ready), (self._join, joining)):
                joined = self._guard(partial(work, requests), requests)
                if not joined and not taken.isdisjoint(self._running):
                    self._lose_running()
            self._joins += 1
            if self._waiting and self._joins < JOINS_IN_A_ROW:
                return
        self._joins = 0
        if self._running:
            self._guard_running(self._write_one_token)

    def release_memory(self) -> None:
        """Free what the last batches needed; for when nothing is running."""
        self._window = Window(self._layout)
        self._joining_window = Window(self._layout)

    def fail_all(self, error: EngineError) -> None:
        for request in self._waiting + self._running:
            request.fail(type(error)(*error.args))
        self._waiting, self._running = [], []

    def _guard(self, work: Callable[[], None], requests: list[BatchedRequest]) -> bool:
        """Whether the work succeeded; if not, it fails these requests and no others."""
        try:
            work()
        except Exception as error:  # the callers get it: the model's thread must live on
            # With fewer requests at a time the memory may be enough.
            passing = isinstance(error, torch.OutOfMemoryError)
            kind = EngineUnavailableError if passing else EngineError
            for request in requests:
                failure = kind(f"the model failed: {type(error).__name__}: {error}")
                failure.__cause__ = error
                request.fail(failure)
            return False
        return True

    def _guard_running(self, work: Callable[[], None]) -> None:
        if not self._guard(work, self._running):
            self._lose_running()

    def _lose_running(self) -> None:
        """Start afresh: work that failed half-way may have left the window inconsistent."""
        for request in self._running:
            request.fail(EngineUnavailableError("lost with a failure of the running batch"))
        self._running = []
        self._window = Window(self._layout)

    def _drop_cancelled(self) -> None:
        for index in reversed(range(len(self._running))):
            if self._running[index].future.cancelled():
                self._leave(index)

    def _next_to_join(self) -> tuple[list[BatchedRequest], list[BatchedRequest]]:
        """Waiting requests that can run at once, and some for one pass that computes the rest.

        Those for the pass are about as long as the oldest, and none is computed twice: a
        request whose next tokens are being computed for another one (the prompt of the same
        problem, say) waits for the next pass and finds them cached.
        """
        being_computed: set[int] = set()
        ready: list[BatchedRequest] = []
        joining: list[BatchedRequest] = []
        shortest = longest = 0
        for request in self._waiting:
            row, cached = self._store.find(request.token_ids)
            cached = min(cached, request.needed_from)
            new = len(request.token_ids) - cached
            if row and request.sampling and new == 1:
                request.row = row
                ready.append(request)
                continue
            blocks = block_keys(request.token_ids)[cached // BLOCK :]
            if blocks and blocks[0] in being_computed:
                continue
            if not joining:
                shortest, longest = new // 2, new * 2
            elif not shortest <= new <= longest:
                continue
            widest = max(new, *(r.new_tokens for r in joining)) if joining else new
            if joining and widest * (len(joining) + 1) > TOKENS_PER_PASS:
                continue
            being_computed.update(blocks)
            request.row, request.new_tokens = row, new
            joining.append(request)
        return ready, joining

    def _resume(self, requests: list[BatchedRequest]) -> None:
        """Run requests on whose cached rows lack nothing but the last token."""
        for request in requests:
            request.started = time.monotonic()
            request.cached_tokens = len(request.token_ids) - 1
            self._enter(request, request.row, request.cached_tokens)
            request.row = None

    def _enter(self, request: BatchedRequest, row: Row | None, length: int) -> None:
        # In this order: if the window fails, it shows that the running batch is affected.
        self._running.append(request)
        self._window.add(row, length)

    def _join(self, requests: list[BatchedRequest]) -> None:
        """One pass over the new tokens of all: scores are then done, the others run on."""
        if not requests:
            return
        new = max(r.new_tokens for r in requests)
        window = self._joining_window
        window.empty()
        window.reserve(len(requests), max(len(r.token_ids) for r in requests) - new, new)
        for request in requests:
            request.started = time.monotonic()
            # All rows end in the same column, so a row with fewer new tokens computes some of
            # its cached ones again; one that is shorter than the pass is padded on the left.
            request.cached_tokens = len(request.token_ids) - new
            window.add(request.row, request.cached_tokens)
            request.row = None
        ids = [[0] * -min(0, r.cached_tokens) + r.token_ids[-new:] for r in requests]
        needed = max(len(r.token_ids) - r.needed_from for r in requests)
        logits = self._forward(ids, window, needed)
        now = time.monotonic()
        for request in requests:
            request.first_token = now
            request.cached_tokens = max(0, request.cached_tokens)

        writing = [i for i, r in enumerate(requests) if r.sampling]
        first_tokens = self._sample(logits[writing, -1], [requests[i] for i in writing])
        joined_at = len(self._running)
        for i, request in enumerate(requests):
            row = window.copy_row(i)
            self._store.put(request.token_ids, row)
            if request.sampling is None:
                self._resolve_score(request, logits[i])
            else:
                self._enter(request, row, len(request.token_ids))
        for index in reversed(range(len(writing))):
            self._take_token(joined_at + index, first_tokens[index])

    def _write_one_token(self) -> None:
        requests = self._running
        last = [[r.written[-1] if r.written else r.token_ids[-1]] for r in requests]
        logits = self._forward(last, self._window, 1)
        tokens = self._sample(logits[:, -1], requests)
        for index in reversed(range(len(tokens))):
            self._take_token(index, tokens[index])

    def _take_token(self, index: int, token: int) -> None:
        """Give a running request its next token; resolve it if that was the last."""
        request = self._running[index]
        request.first_token = request.first_token or time.monotonic()
        if token < 0:
            self._leave(index)
            request.fail(EngineError("the model's logits are not finite numbers"))
            return
        if token in self._end_ids:
            finish: FinishReason = "stop"
        else:
            request.written.append(token)
            if request.stops and request.stops.reached(request.written):
                finish = "stop"
            elif len(request.written) < len(request.uniforms):
                return
            else:
                finish = "length"
        self._leave(index)
        written, logprobs = tuple(request.written), request.logprobs
        # An end-of-sequence has a log-probability too, and is no part of what was written.
        found = None if logprobs is None else tuple(logprobs[: len(written)])
        request.resolve(
            Completion(written, finish, request.cached_tokens, request.timings(), found)
        )

    def _leave(self, index: int) -> None:
        """Take a request out of the running batch and keep its keys and values."""
        request = self._running[index]
        computed = self._window.end - self._window.starts[index]
        ids = (request.token_ids + request.written)[:computed]
        self._store.put(ids, self._window.copy_row(index))
        self._window.remove(index)
        self._running[index] = self._running[-1]
        self._running.pop()

    def _resolve_score(self, request: BatchedRequest, logits: Tensor) -> None:
        asked = len(request.token_ids) - request.needed_from - 1
        distributions = logits[-asked - 1 : -1].float()
        tokens = torch.tensor(request.token_ids[-asked:], device=logits.device)
        chosen = distributions.gather(-1, tokens[:, None])[:, 0]
        totals = distributions.logsumexp(dim=-1)
        logprobs = (chosen - totals).double().cpu().numpy()
        top = None
        if request.top:
            largest = distributions.topk(min(request.top, distributions.shape[-1])).values
            top = (largest - totals[:, None]).double().cpu().numpy()
        request.resolve(Scored(logprobs, request.cached_tokens, request.timings(), top))

    def _forward(self, ids: Sequence[Sequence[int]], window: Window, needed: int) -> Tensor:
        """Logits of the last ``needed`` columns: (rows, needed, vocabulary)."""
        new = len(ids[0])
        window.reserve(len(window), window.end - window.begin, new)
        device = self._model.device
        trim = {"logits_to_keep": needed} if self._trims_logits else {}
        with torch.inference_mode():
            logits: Tensor = self._model(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=window.mask(new, device),
                position_ids=window.positions(new, device),
                use_cache=True,
                **{self._cache_argument: window},
                **trim,
            ).logits[:, -needed:]
        window.advance(new)
        return logits

    def _sample(self, logits: Tensor, requests: Sequence[BatchedRequest]) -> list[int]:
        if not requests:
            return []
        with torch.inference_mode():
            tokens = sample(
                logits,
                [r.sampling for r in requests if r.sampling],
                [r.uniforms[len(r.written)] for r in requests],
            )
            for row, (request, token) in enumerate(zip(requests, tokens, strict=True)):
                if request.logprobs is not None and token >= 0:
                    of_row = logits[row].float()
                    request.logprobs.append(float(of_row[token] - of_row.logsumexp(dim=-1)))
        return tokens
