"""GPUs, what a step of a server costs on them (a roofline), and who shares a GPU.

A kernel takes the longer of the time for its arithmetic and the time for its memory traffic
(Williams, Waterman and Patterson, *Roofline*, CACM 52(4), 2009, doi:10.1145/1498765.1498785). For
a transformer with P weights, multiplying n tokens with them is 2 P n operations, and reads all
weights once, whatever n is; ``Costs`` has the terms.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pydantic import Field

from atts.config import Options
from atts.errors import ConfigError
from atts.simulation.shapes import BF16, FP8, Shape


class Gpu(NamedTuple):
    """What a data sheet says of one GPU."""

    flops: float
    """16-bit dense tensor operations per second, without sparsity."""
    bandwidth: float
    """Of its memory, in bytes per second."""
    memory: float
    """In bytes."""
    link: float
    """Of its links to the other GPUs of the host, one way, in bytes per second."""
    fp8: float = 2.0
    """How many times as many operations of 8 bits it does; 1 where it has none."""

    def speedup(self, weight_bytes: float) -> float:
        """Of multiplications with weights of such a size, over those of 16 bits."""
        return self.fp8 if weight_bytes == FP8 else 1.0


GPUS: dict[str, Gpu] = {
    # NVIDIA's data sheets of each product: the columns "BF16 Tensor Core" (halved where the sheet
    # counts sparsity), "GPU memory", "GPU memory bandwidth" and "Interconnect" (halved: one way).
    "h200": Gpu(989e12, 4.8e12, 141e9, 450e9),
    "h100": Gpu(989e12, 3.35e12, 80e9, 450e9),
    "a100": Gpu(312e12, 2.039e12, 80e9, 300e9, fp8=1.0),
    "a100-40gb": Gpu(312e12, 1.555e12, 40e9, 300e9, fp8=1.0),
    "b200": Gpu(2250e12, 8.0e12, 180e9, 900e9),
    "l40s": Gpu(362e12, 0.864e12, 48e9, 32e9),
    # Not from a data sheet: a round number to start a fit from, for the in-process engine.
    "cpu": Gpu(100e9, 20e9, 16e9, 10e9, fp8=1.0),
}


class Efficiency(Options):
    """How far a real server stays behind the data sheet; ``atts simulate --fit`` finds it.

    The defaults are a fit to SGLang 0.5.12 with an 8B and a 32B model on one H200; see
    ``docs/simulation.md``.
    """

    compute: float = Field(default=0.6, gt=0.0)
    """Share of the GPU's operations per second that a large multiplication reaches."""
    bandwidth: float = Field(default=0.78, gt=0.0)
    """Share of the memory bandwidth that reading the weights reaches."""
    step_seconds: float = Field(default=0.0008, ge=0.0)
    """What a step takes besides: launching kernels, scheduling."""
    row_seconds: float = Field(default=0.000012, ge=0.0)
    """What each request of a step adds to it: sampling, bookkeeping."""
    request_seconds: float = Field(default=0.02, ge=0.0)
    """What a request takes besides its steps, without holding up others: HTTP, detokenising."""
    layer_seconds: float = Field(default=0.00007, ge=0.0)
    """The least that a layer takes in a step: its kernels do not become shorter than that."""
    experts: float = Field(default=0.7, gt=0.0)
    """Share of the shares above that the many small multiplications of experts reach."""


ALL_REDUCE_SECONDS = 10e-6
"""Latency of one all-reduce between the GPUs of a host. Assumed, not measured."""


class Costs(NamedTuple):
    """Seconds of the parts of a step, for one model on one or several GPUs."""

    step: float
    row: float
    """For each request of the step."""
    least: float
    """What all layers take at least."""
    weights: float
    """To read once all weights but those of experts."""
    experts: float
    """To read once the weights of all experts; 0 of a dense model."""
    expert_share: float
    """Of the experts, that one token goes to."""
    token: float
    """To multiply one token with the weights of all layers, and to add up over the GPUs."""
    logits: float
    """To turn one token's hidden state into logits."""
    context: float
    """To read what is kept of one token, and attend to it, when writing."""
    pair: float
    """Attention of one token to one other, when many are computed at once."""
    request: float
    """Of a request besides its steps; others are not held up."""
    proposing: "Proposing | None" = None
    """Who proposes tokens, where the model decodes speculatively."""

    @classmethod
    def of(cls, shape: Shape, gpu: Gpu, tensor_parallel: int, efficiency: Efficiency) -> "Costs":
        """The costs of a model split evenly over ``tensor_parallel`` GPUs."""
        flops = gpu.flops * efficiency.compute * tensor_parallel
        bandwidth = gpu.bandwidth * efficiency.bandwidth * tensor_parallel
        step = efficiency.step_seconds
        # Of FP8 weights the arithmetic is FP8, too; smaller ones are widened to 16 bits.
        common = gpu.speedup(shape.weight_bytes) * flops
        routed = gpu.speedup(shape.expert_bytes) * flops * efficiency.experts
        token = 2 * shape.common_weights / common
        token += 2 * shape.expert_weights * shape.expert_share / routed
        if tensor_parallel > 1:
            # Two all-reduces a layer (Megatron-LM, arXiv 1909.08053), each by a ring.
            reduces = 2 * shape.layers
            ring = 2 * (tensor_parallel - 1) / tensor_parallel
            step += reduces * ALL_REDUCE_SECONDS
            token += reduces * ring * shape.hidden * BF16 / gpu.link
        head = shape.head_weights * BF16
        attention = 4 * shape.layers * shape.heads * shape.head_size
        if latent := shape.latent:
            # When writing, queries meet the latent vector itself (arXiv 2405.04434, 2.1.2).
            written = 2 * shape.layers * shape.heads * (2 * latent.kept + latent.position)
            computed = shape.head_size + latent.position + latent.value_size
            attention = 2 * shape.layers * shape.heads * computed
        else:
            written = attention
        read = shape.token_bytes * shape.kept_copies(tensor_parallel)
        return cls(
            step=step,
            row=efficiency.row_seconds,
            least=shape.layers * efficiency.layer_seconds,
            weights=(shape.common_weights * shape.weight_bytes + head) / bandwidth,
            experts=shape.expert_weights * shape.expert_bytes / (bandwidth * efficiency.experts),
            expert_share=shape.expert_share,
            token=token,
            logits=2 * shape.head_weights / flops,
            context=max(read / bandwidth, written / flops if shape.latent else 0.0),
            pair=attention / flops,
            request=efficiency.request_seconds,
        )

    def reading(self, tokens: int) -> float:
        """To read the weights that so many tokens are multiplied with: of E experts those that any
        of n tokens goes to, E (1 - (1 - k/E)^n), if each goes to k of them at random. No layer is
        faster than the least.
        """
        if not self.experts:
            return max(self.least, self.weights)
        met = self.weights + self.experts * (1.0 - (1.0 - self.expert_share) ** tokens)
        return max(self.least, met)

    def decode(self, rows: int) -> float:
        """A step in which each of ``rows`` requests writes a token, without reading the context.

        Decoding speculatively, that part of a pass that one token takes.
        """
        if self.proposing is None:
            return self._pass(rows, rows)
        proposing = self.proposing
        checked = self._pass(rows, rows * (1 + proposing.tokens))
        proposed = proposing.tokens * proposing.costs.decode(rows)
        return (checked + proposed) / proposing.written

    def _pass(self, rows: int, tokens: int) -> float:
        arithmetic = tokens * (self.token + self.logits)
        return self.step + rows * self.row + max(self.reading(tokens), arithmetic)

    @property
    def attending(self) -> float:
        """To read the context for one token that is written, by token of context."""
        if self.proposing is None:
            return self.context
        proposing = self.proposing
        proposed = proposing.tokens * proposing.costs.context
        return (self.context + proposed) / proposing.written

    def decoding(self, steps: int, rows: int, context: int) -> float:
        """So many steps of ``rows`` requests of ``context`` tokens in all, each of which lengthens
        every context by one: k a + b (k C + B k (k - 1) / 2), with B rows of C tokens in all.
        """
        read = steps * context + rows * steps * (steps - 1) / 2
        return steps * self.decode(rows) + read * self.attending

    def steps_within(self, seconds: float, rows: int, context: int) -> int:
        """The fewest of these steps that take at least so long."""
        attending = self.attending
        square = attending * rows / 2
        linear = self.decode(rows) + attending * context - square
        if square == 0.0:
            return math.ceil(seconds / linear - 1e-9)
        root = (math.sqrt(linear**2 + 4 * square * seconds) - linear) / (2 * square)
        return math.ceil(root - 1e-9)

    def prefill(self, requests: int, tokens: int, logits: int, pairs: float, context: int) -> float:
        """A step that computes ``tokens`` of ``requests``, with ``logits`` of them turned into
        logits; ``pairs`` counts token and token before it, ``context`` the cached tokens read.
        """
        arithmetic = tokens * self.token + logits * self.logits + pairs * self.pair
        read = context * self.context
        seconds = self.step + requests * self.row + max(self.reading(tokens), arithmetic) + read
        if self.proposing:  # it reads along
            seconds += self.proposing.costs.prefill(requests, tokens, requests, pairs, context)
        return seconds


class Proposing(NamedTuple):
    """A small model that proposes tokens, which the other checks in one pass (speculative decoding,
    arXiv 2211.17192). It is on the same GPUs, and has its step after the other's.
    """

    costs: Costs
    tokens: int
    """Proposed for each pass."""
    acceptance: float
    """Probability that one is kept, if those before it are."""

    @property
    def written(self) -> float:
        """Tokens of one pass, in the mean: (1 - a^(n + 1)) / (1 - a) (section 3.1).

        >>> round(Proposing(NO_COSTS, tokens=4, acceptance=0.8).written, 4)
        3.3616
        """
        if self.acceptance == 1.0:
            return self.tokens + 1.0
        return float((1 - self.acceptance ** (self.tokens + 1)) / (1 - self.acceptance))


NO_COSTS = Costs(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
"""Of a proposal that takes no time, such as one looked up in the text."""


def cache_tokens(
    shape: Shape, gpu: Gpu, tensor_parallel: int, memory_fraction: float, beside: Shape | None
) -> int:
    """Tokens that can be kept beside the weights, and those of a model that proposes tokens, which
    keeps as many.

    Raises:
        ConfigError: not even the weights fit.
    """
    shapes = [shape, beside] if beside else [shape]
    weights = sum(each.bytes for each in shapes)
    kept = sum(each.token_bytes * each.kept_copies(tensor_parallel) for each in shapes)
    free = gpu.memory * tensor_parallel * memory_fraction - weights
    if free < kept:
        raise ConfigError(
            f"{weights / 1e9:.0f} GB of weights do not fit {tensor_parallel} GPU(s) "
            f"of {gpu.memory / 1e9:.0f} GB of which a server may use {memory_fraction:.0%}; take "
            "more GPUs for each copy (server.tensor_parallel), larger ones, or FP8 weights"
        )
    return int(free / kept)


class SharedGpus:
    """The GPUs that one server or several run on; those that have work share the time evenly."""

    def __init__(self, parts: Sequence["SharedGpus"] = ()) -> None:
        """``parts``: what a server takes all of, and others take one of each; a server is as slow
        as on the slowest.
        """
        self._parts = parts or (self,)
        self._works: list[Work] = []
        self._working = 0

    @property
    def speed(self) -> float:
        """Of each working server, as a share of what it would have alone."""
        return 1.0 / max(1, *(part._working for part in self._parts))

    def work_of(self, ended: Callable[[], None]) -> "Work":
        """The work of one more server, which is told whenever some of it has ended."""
        work = Work(self, ended)
        for part in self._parts:
            part._works.append(work)
        return work

    def working(self, change: int) -> None:
        """A server has begun (1) or ceased (-1) to work."""
        for part in self._parts:
            part._working += change
        for part in self._parts:
            for work in part._works:
                work.retime()


class Work:
    """What a server has under way: so many seconds of whole GPUs, at the end of which ``ended`` is
    called. They take longer while others work on the same GPUs.
    """

    def __init__(self, gpus: SharedGpus, ended: Callable[[], None]) -> None:
        self._gpus = gpus
        self._ended = ended
        self._seconds = 0.0
        self._left = 0.0  # of them, when the timer was set
        self._since = 0.0  # when that was
        self._speed = 1.0  # since then
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, seconds: float) -> None:
        """Begin with so many seconds of work."""
        self._seconds = self._left = seconds
        self._set_timer()

    def done_seconds(self) -> float:
        """How many of them are done."""
        elapsed = (asyncio.get_running_loop().time() - self._since) * self._speed
        return self._seconds - self._left + min(elapsed, self._left)

    def cut(self, seconds: float) -> None:
        """Let the work be so many seconds, counted from its beginning."""
        self._move_timer(max(0.0, seconds - self.done_seconds()))
        self._seconds = seconds

    def retime(self) -> None:
        """The speed may have changed: move the end of what is under way, if anything is."""
        if self._timer is not None:
            self._move_timer(self._seconds - self.done_seconds())

    def _move_timer(self, left: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._left = left
        self._set_timer()

    def _set_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._since = loop.time()
        self._speed = self._gpus.speed
        self._timer = loop.call_at(self._since + self._left / self._speed, self._end)

    def _end(self) -> None:
        self._timer = None
        self._ended()
