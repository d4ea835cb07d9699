"""GPUs, the shapes of models, what a step of a server costs (a roofline), and who shares a GPU.

A kernel takes the longer of the time for its arithmetic and the time for its memory traffic
(Williams, Waterman and Patterson, *Roofline*, CACM 52(4), 2009, doi:10.1145/1498765.1498785). For
a transformer with P weights, multiplying n tokens with them is 2 P n operations, and reads all
weights once, whatever n is; ``docs/simulation.md`` derives the terms.
"""

import asyncio
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from atts.config import Options
from atts.errors import ConfigError
from atts.models.model_files import model_path


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


GPUS: dict[str, Gpu] = {
    # NVIDIA's data sheets of each product: the columns "BF16 Tensor Core" (halved where the sheet
    # counts sparsity), "GPU memory", "GPU memory bandwidth" and "Interconnect" (halved: one way).
    "h200": Gpu(989e12, 4.8e12, 141e9, 450e9),
    "h100": Gpu(989e12, 3.35e12, 80e9, 450e9),
    "a100": Gpu(312e12, 2.039e12, 80e9, 300e9),
    "a100-40gb": Gpu(312e12, 1.555e12, 40e9, 300e9),
    "b200": Gpu(2250e12, 8.0e12, 180e9, 900e9),
    "l40s": Gpu(362e12, 0.864e12, 48e9, 32e9),
    # Not from a data sheet: a round number to start a fit from, for the in-process engine.
    "cpu": Gpu(100e9, 20e9, 16e9, 10e9),
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


ALL_REDUCE_SECONDS = 10e-6
"""Latency of one all-reduce between the GPUs of a host. Assumed, not measured."""
BYTES = 2
"""Of a weight, of a key or value, and of an activation: 16 bits."""


class Shape(NamedTuple):
    """The sizes of a dense decoder with grouped-query attention and a gated MLP."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    tied: bool = False
    """Whether input and output embeddings are one matrix."""

    @property
    def block_weights(self) -> int:
        """Weights of all layers, which every token is multiplied with."""
        attention = 2 * self.hidden * self.head_size * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head_weights(self) -> int:
        """Weights that turn a hidden state into logits."""
        return self.hidden * self.vocabulary

    @property
    def weights(self) -> int:
        """All weights, norms and biases left out.

        >>> SHAPES["qwq-32b"].weights
        32762757120
        """
        return self.block_weights + self.head_weights * (1 if self.tied else 2)

    @property
    def token_bytes(self) -> int:
        """Bytes of the keys and values of one token.

        >>> SHAPES["qwq-32b"].token_bytes
        262144
        """
        return 2 * self.layers * self.kv_heads * self.head_size * BYTES


_QWEN_32B = Shape(5120, 64, 40, 8, 128, 27648, 152064)

SHAPES: dict[str, Shape] = {
    # From the config.json of each model.
    "deepseek-r1-distill-qwen-1.5b": Shape(1536, 28, 12, 2, 128, 8960, 151936),
    "qwen2.5-7b-instruct": Shape(3584, 28, 28, 4, 128, 18944, 152064),
    "deepseek-r1-distill-qwen-7b": Shape(3584, 28, 28, 4, 128, 18944, 152064),
    "deepseek-r1-distill-llama-8b": Shape(4096, 32, 32, 8, 128, 14336, 128256),
    "qwq-32b": _QWEN_32B,
    "s1.1-32b": _QWEN_32B,
    "deepseek-r1-distill-qwen-32b": _QWEN_32B,
    "deepseek-r1-distill-llama-70b": Shape(8192, 80, 64, 8, 128, 28672, 128256),
}


def shape_of(model: str) -> Shape:
    """The shape of a model: of a folder with its ``config.json``, or of a name in ``SHAPES``.

    Raises:
        ConfigError: it is neither, or the model is not a dense decoder.

    >>> shape_of("Qwen/QwQ-32B").layers
    64
    """
    folder = Path(model_path(model))
    if not folder.is_dir():
        try:
            return SHAPES[model.rpartition("/")[2].lower()]
        except KeyError:
            raise ConfigError(
                f"the sizes of {model} are not known: name a folder with its config.json, or one "
                f"of {', '.join(sorted(SHAPES))}"
            ) from None
    path = folder / "config.json"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        tree = tree.get("text_config", tree)
        if any("expert" in key for key in tree):
            raise ConfigError(
                f"{path}: a mixture of experts cannot be simulated, only dense models"
            )
        heads = tree["num_attention_heads"]
        return Shape(
            hidden=tree["hidden_size"],
            layers=tree["num_hidden_layers"],
            heads=heads,
            kv_heads=tree.get("num_key_value_heads") or heads,
            head_size=tree.get("head_dim") or tree["hidden_size"] // heads,
            intermediate=tree["intermediate_size"],
            vocabulary=tree["vocab_size"],
            tied=bool(tree.get("tie_word_embeddings", False)),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"cannot read the sizes of the model from {path}: {error!r}") from error


class Costs(NamedTuple):
    """Seconds of the parts of a step, for one model on one or several GPUs."""

    step: float
    row: float
    """For each request of the step."""
    weights: float
    """To read all weights once."""
    token: float
    """To multiply one token with the weights of all layers, and to add up over the GPUs."""
    logits: float
    """To turn one token's hidden state into logits."""
    context: float
    """To read the keys and values of one token."""
    pair: float
    """Attention of one token to one other."""
    request: float
    """Of a request besides its steps; others are not held up."""

    @classmethod
    def of(cls, shape: Shape, gpu: Gpu, tensor_parallel: int, efficiency: Efficiency) -> "Costs":
        """The costs of a model split evenly over ``tensor_parallel`` GPUs."""
        flops = gpu.flops * efficiency.compute * tensor_parallel
        bandwidth = gpu.bandwidth * efficiency.bandwidth * tensor_parallel
        step = efficiency.step_seconds
        token = 2 * shape.block_weights / flops
        if tensor_parallel > 1:
            # Two all-reduces a layer (Megatron-LM, arXiv 1909.08053), each by a ring.
            reduces = 2 * shape.layers
            ring = 2 * (tensor_parallel - 1) / tensor_parallel
            step += reduces * ALL_REDUCE_SECONDS
            token += reduces * ring * shape.hidden * BYTES / gpu.link
        return cls(
            step=step,
            row=efficiency.row_seconds,
            weights=(shape.block_weights + shape.head_weights) * BYTES / bandwidth,
            token=token,
            logits=2 * shape.head_weights / flops,
            context=shape.token_bytes / bandwidth,
            pair=4 * shape.layers * shape.heads * shape.head_size / flops,
            request=efficiency.request_seconds,
        )

    def decode(self, rows: int) -> float:
        """A step in which each of ``rows`` requests writes a token, without reading the context."""
        return self.step + rows * self.row + max(self.weights, rows * (self.token + self.logits))

    def decoding(self, steps: int, rows: int, context: int) -> float:
        """So many steps of ``rows`` requests of ``context`` tokens in all, each of which lengthens
        every context by one: k a + b (k C + B k (k - 1) / 2), with B rows of C tokens in all.
        """
        read = steps * context + rows * steps * (steps - 1) / 2
        return steps * self.decode(rows) + read * self.context

    def steps_within(self, seconds: float, rows: int, context: int) -> int:
        """The fewest of these steps that take at least so long."""
        square = self.context * rows / 2
        linear = self.decode(rows) + self.context * context - square
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
        return self.step + requests * self.row + max(self.weights, arithmetic) + read


def cache_tokens(shape: Shape, gpu: Gpu, tensor_parallel: int, memory_fraction: float) -> int:
    """Tokens whose keys and values fit beside the weights.

    Raises:
        ConfigError: not even the weights fit.
    """
    free = gpu.memory * tensor_parallel * memory_fraction - shape.weights * BYTES
    if free < shape.token_bytes:
        raise ConfigError(
            f"{shape.weights * BYTES / 1e9:.0f} GB of weights do not fit {tensor_parallel} GPU(s) "
            f"of {gpu.memory / 1e9:.0f} GB of which a server may use {memory_fraction:.0%}; take "
            "more GPUs for each copy (--draft-tensor-parallel, --target-tensor-parallel), or "
            "larger ones"
        )
    return int(free / shape.token_bytes)


class SharedGpus:
    """The GPUs that one server or several run on; those that have work share the time evenly."""

    def __init__(self) -> None:
        self._works: list[Work] = []
        self._working = 0

    @property
    def speed(self) -> float:
        """Of each working server, as a share of what it would have alone."""
        return 1.0 / max(self._working, 1)

    def work_of(self, ended: Callable[[], None]) -> "Work":
        """The work of one more server, which is told whenever some of it has ended."""
        work = Work(self, ended)
        self._works.append(work)
        return work

    def working(self, change: int) -> None:
        """A server has begun (1) or ceased (-1) to work."""
        self._working += change
        for work in self._works:
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
