"""A model server with continuous batching, as a discrete-event simulation in the loop's time.

Nothing happens between two events but steps of the same kind: the batch of a stretch of decoding
does not change until a request arrives, ends or no longer fits. The time of k such steps is a
closed formula (``Costs.decoding``), so a stretch costs one event, however many tokens it writes.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from atts.engines.base import Load
from atts.simulation.hardware import Costs, SharedGpus
from atts.simulation.prefixes import Prefix, PrefixCache
from atts.types import Record

CLIPPED_NEW_TOKENS = 4096
"""A request's ``max_tokens`` counts as no more than this when some of the cache is reserved."""


class Scheduling(Record):
    """How a server schedules. The defaults are SGLang's."""

    cache_tokens: int
    """Tokens whose keys and values fit."""
    max_running: int = 2048
    """Most requests that run at a time; the others queue."""
    chunk_tokens: int = 8192
    """Most tokens that one step of prefill computes; longer prompts are cut."""
    mixed: bool = False
    """Running requests write a token in a step of prefill too, as vLLM does; else they pause."""
    reserved: float = 0.1
    """Share of ``max_tokens`` that must be free before a request runs. Where that turns out to be
    too little, the newest request is put back and computed again."""


@dataclass(slots=True)
class Usage:
    """What a server did so far, in seconds of virtual time and in tokens; the server counts."""

    requests: int = 0
    written_tokens: int = 0
    computed_tokens: int = 0
    """By prefill, tokens of requests that were put back included."""
    cached_tokens: int = 0
    busy_seconds: float = 0.0
    """In which it had a request, up to when it last had none."""
    queued_seconds: float = 0.0
    """Sum over requests, until their prefill began."""
    peak_cache_tokens: int = 0
    """The most that running requests took of the cache."""
    peak_running: int = 0
    put_back: int = 0


@dataclass(eq=False, slots=True)
class SimulatedRequest:
    """A request on its way through a server."""

    chain: int
    problem: int
    """Names the prompt that the chains of a problem share; another number than any chain's."""
    prompt: int
    """Tokens of that prompt."""
    ids: Sequence[int]
    scored_from: int | None
    """Score the tokens from here on; None: write."""
    write: int
    """Tokens to write; 0 where it scores."""
    max_tokens: int
    """Tokens that it may write for all that the server knows."""
    last_id: int
    """The id of the last token, when it is done."""
    future: "asyncio.Future[None]"
    queued: float
    started: float = -1.0
    first_token: float = -1.0
    done: float = -1.0
    known_cached: int | None = None
    """First tokens that are in the cache, where this is not for the server to find out."""
    cached: int = 0
    length: int = 0
    """Tokens of context, as of step ``joined``."""
    joined: int = 0
    compute: int = 0
    """Tokens that prefill has yet to compute."""
    written: int = 0
    """Before it was put back."""
    reserved: int = 0
    number: int = field(default=-1)
    """Among the running ones, by age; -1 while it waits."""


class Server:
    """Runs requests; ``submit`` and then await ``request.future``."""

    def __init__(self, costs: Costs, options: Scheduling, gpus: SharedGpus) -> None:
        self.options = options
        self.costs = costs
        self.usage = Usage()
        self._gpus = gpus
        self._work = gpus.work_of(self._finish)
        self._cache = PrefixCache(options.cache_tokens)
        self._waiting: deque[SimulatedRequest] = deque()
        self._running: dict[int, SimulatedRequest] = {}
        self._ends: list[tuple[int, int]] = []  # (step, number): a heap; some are gone by then
        self._numbers = count()
        self._context = 0  # tokens of all running requests
        self._reserved = 0
        self._step = 0  # of decoding: a running request has written a token in each since it joined
        self._aborted: list[SimulatedRequest] = []
        # What is under way: prefill of so many tokens of some requests, or steps of decoding.
        self._batch: list[tuple[SimulatedRequest, int]] = []
        self._decoding = 0
        self._working = False
        self._busy_since = 0.0

    def load(self) -> Load:
        """How busy it is."""
        return Load(
            running=len(self._running) + len(self._batch),
            waiting=len(self._waiting),
            cache_use=self._cache.in_use / self.options.cache_tokens,
            room=self.options.cache_tokens,
        )

    def submit(self, request: SimulatedRequest) -> None:
        """Let a request queue. It must fit the cache on its own."""
        self._waiting.append(request)
        self.usage.requests += 1
        if not self._working:
            self._working = True
            loop = asyncio.get_running_loop()
            self._busy_since = loop.time()
            self._gpus.working(1)
            # Others that are sent at the same moment come along.
            loop.call_soon(self._next)
        elif len(self._waiting) == 1 and self._decoding and not self._batch:
            self._stop_after_this_step()

    def abort(self, request: SimulatedRequest) -> None:
        """Let go of a request, at the end of the step that is under way if it is part of it."""
        if request in self._waiting:
            self._waiting.remove(request)
        elif request.done < 0.0:
            self._aborted.append(request)
            if self._decoding and not self._batch:
                self._stop_after_this_step()

    def _stop_after_this_step(self) -> None:
        """Cut a stretch of decoding short, at the end of the step that it is in."""
        rows, context = len(self._running), self._context
        done = self._work.done_seconds()
        steps = max(1, self.costs.steps_within(done, rows, context))
        if steps < self._decoding:
            self._work.cut(self.costs.decoding(steps, rows, context))
            self._decoding = steps

    # What comes next

    def _next(self) -> None:
        """Begin a step of prefill if a request can be let in, else a stretch of decoding."""
        self._drop_aborted()
        self._fill_batch()
        usage, rows = self.usage, len(self._running)
        usage.peak_cache_tokens = max(usage.peak_cache_tokens, self._cache.in_use)
        usage.peak_running = max(usage.peak_running, rows + len(self._batch))
        if self._batch:
            self._decoding = 1 if self.options.mixed and rows else 0
            self._work.begin(self._prefill_seconds())
        elif rows:
            self._put_back_excess()
            rows = len(self._running)
            fitting = (self.options.cache_tokens - self._cache.in_use) // rows
            self._decoding = max(1, min(self._next_end() - self._step, fitting))
            self._work.begin(self.costs.decoding(self._decoding, rows, self._context))
        else:
            self._working = False
            usage.busy_seconds += asyncio.get_running_loop().time() - self._busy_since
            self._gpus.working(-1)

    def _fill_batch(self) -> None:
        """Requests, in the order in which they came, up to the tokens that one step computes."""
        budget = self.options.chunk_tokens
        cut = [request for request, _ in self._batch if request.compute]  # at most the last
        self._batch = []
        while budget > 0:
            if cut:
                request = cut.pop()
            elif self._waiting and self._admit(self._waiting[0]):
                request = self._waiting.popleft()
            else:
                break
            new = min(budget, request.compute)
            self._batch.append((request, new))
            budget -= new

    def _admit(self, request: SimulatedRequest) -> bool:
        """Give a request its part of the cache, if there is enough for it and to spare."""
        length = len(request.ids) + request.written
        reserved = int(
            self.options.reserved * min(request.max_tokens - request.written, CLIPPED_NEW_TOKENS)
        )
        others = len(self._running) + len(self._batch)
        needed = self._cache.in_use + self._reserved + length + reserved
        if others and (needed > self.options.cache_tokens or others >= self.options.max_running):
            return False
        cached = request.known_cached
        if cached is None:
            cached = self._cache.find(
                request.chain, request.problem, request.prompt, request.ids, length
            )
        first = request.scored_from if request.scored_from is not None else length
        request.cached = min(cached, first - 1)
        request.compute = length - request.cached
        request.length, request.reserved = length, reserved
        self._cache.in_use += length
        self._cache.drop_excess()
        self._reserved += reserved
        self.usage.cached_tokens += request.cached
        if request.started < 0.0:
            request.started = asyncio.get_running_loop().time()
            self.usage.queued_seconds += request.started - request.queued
        return True

    def _prefill_seconds(self) -> float:
        tokens = logits = context = 0
        pairs = 0.0
        for request, new in self._batch:
            before = request.length - request.compute
            tokens += new
            context += before
            pairs += new * (before + new / 2)
            end = before + new
            if request.scored_from is None:
                logits += request.compute == new
            else:
                logits += max(0, end - max(before, request.scored_from - 1))
        self.usage.computed_tokens += tokens
        rows = len(self._batch)
        if self._decoding:
            writing = len(self._running)
            rows, tokens, logits = rows + writing, tokens + writing, logits + writing
            context += self._context
        return self.costs.prefill(rows, tokens, logits, pairs, context)

    def _next_end(self) -> int:
        while self._ends[0][1] not in self._running:
            heapq.heappop(self._ends)
        return self._ends[0][0]

    # What has come to its end

    def _finish(self) -> None:
        if self._decoding:
            rows = len(self._running)
            self._step += self._decoding
            self._context += rows * self._decoding
            self._cache.in_use += rows * self._decoding
            self.usage.written_tokens += rows * self._decoding
            self._decoding = 0
            while self._running and self._next_end() <= self._step:
                _, number = heapq.heappop(self._ends)
                self._leave(self._running[number])
            self._cache.drop_excess()
        now = asyncio.get_running_loop().time()
        for request, new in self._batch:
            request.compute -= new
            if request.compute == 0:
                request.first_token = now if request.first_token < 0.0 else request.first_token
                self._computed(request)
        self._next()

    def _computed(self, request: SimulatedRequest) -> None:
        """Prefill is done: it gives the scores, or the first token."""
        left = 0
        if request.scored_from is None:
            self.usage.written_tokens += 1
            request.written += 1
            left = request.write - request.written
        if left == 0:
            self._release(request, request.length)
            self._resolve(request)
            return
        request.number = next(self._numbers)
        request.joined = self._step
        self._running[request.number] = request
        self._context += request.length
        heapq.heappush(self._ends, (self._step + left, request.number))

    def _leave(self, request: SimulatedRequest) -> None:
        """A running request has written its last token."""
        context = self._stop(request)
        self._release(request, context)
        self._resolve(request)

    def _stop(self, request: SimulatedRequest) -> int:
        """Take a request out of those running; its context now."""
        del self._running[request.number]
        request.number = -1
        context = request.length + self._step - request.joined
        self._context -= context
        return context

    def _release(self, request: SimulatedRequest, context: int, comes_back: bool = False) -> None:
        """Give back a request's part of the cache, and keep its prefix until others need it."""
        self._cache.in_use -= context
        self._reserved -= request.reserved
        if comes_back:
            branch = context
        else:
            began = len(request.ids) if request.scored_from is None else request.scored_from
            branch = min(began, context)
        prefix = Prefix(branch, context, request.last_id if context > branch else None)
        self._cache.keep(request.chain, request.problem, request.prompt, prefix)

    def _resolve(self, request: SimulatedRequest) -> None:
        loop = asyncio.get_running_loop()
        request.done = loop.time() + self.costs.request
        if self.costs.request:
            loop.call_at(request.done, _set, request.future)
        else:
            _set(request.future)

    def _put_back_excess(self) -> None:
        """Where not every running request can write one more token, the newest must wait."""
        while (
            len(self._running) > 1
            and self._cache.in_use + len(self._running) > self.options.cache_tokens
        ):
            request = next(reversed(self._running.values()))
            context = self._stop(request)
            request.written += self._step - request.joined
            self._release(request, context, comes_back=True)
            self._waiting.appendleft(request)
            self.usage.put_back += 1

    def _drop_aborted(self) -> None:
        for request in self._aborted:
            if request.number >= 0:
                self._release(request, self._stop(request))
            elif request.compute:
                self._cache.in_use -= request.compute
                self._release(request, request.length - request.compute)
                request.compute = 0
        self._aborted.clear()


def _set(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
