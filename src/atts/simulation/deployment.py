"""What is simulated: a method with settings of its own, and the servers on the GPUs it is given."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from pydantic import Field

from atts.config import (
    Config,
    MethodName,
    ModelOptions,
    Options,
    SpeculativeOptions,
    apply_setting,
    method_and_settings,
    parse_config,
)
from atts.errors import ConfigError
from atts.methods import METHODS
from atts.simulation.hardware import (
    GPUS,
    NO_COSTS,
    Costs,
    Efficiency,
    Gpu,
    Proposing,
    SharedGpus,
    cache_tokens,
)
from atts.simulation.server import Scheduling, Server
from atts.simulation.shapes import BF16, FP8, Shape, shape_of
from atts.types import Author

_BYTES = {"bf16": BF16, "fp8": FP8}
REFERENCE = "reference"
"""The reference implementation's schedule of ``atts``, as a name for the command line."""


class SimulatedMethod(NamedTuple):
    """A method with settings of its own, as the command line names it."""

    name: str
    method: MethodName
    settings: dict[str, str]
    by_problem: bool = False
    """All chains of a problem end before the next problem is begun."""

    @classmethod
    def parse(cls, name: str) -> "SimulatedMethod":
        """``METHOD``, ``METHOD:key=value,...``, or ``reference``: one problem at a time, with at
        most 16 requests of the draft and 4 of the target in flight.

        Raises:
            ConfigError: a setting is not key=value.

        >>> SimulatedMethod.parse("atts:take_over.rate=0.2").settings
        {'take_over.rate': '0.2'}
        """
        if name == REFERENCE:
            limits = {
                "limits.draft_requests": "16",
                "limits.target_requests": "4",
                "limits.overlap": "off",
            }
            return cls(name, "atts", limits, by_problem=True)
        method, settings = method_and_settings(name)
        pairs = {}
        for setting in settings:
            key, equals, value = setting.partition("=")
            if not key or not equals:
                raise ConfigError(f"{name}: {setting!r} is not key=value")
            pairs[key] = value
        if "preset" in pairs:
            raise ConfigError(f"{name}: a preset holds for all that is simulated: use --set preset")
        # Of the steps of other methods a recording says nothing.
        following = [each.name for each in METHODS.values() if each.can_follow]
        if method not in following:
            raise ConfigError(
                f"{method!r} cannot follow recorded turns; choose from "
                f"{', '.join(following)} and {REFERENCE}"
            )
        return cls(name, method, pairs)

    def config(self, config: Config, chains: int) -> Config:
        """The configuration to run with, with ``chains`` in flight.

        Raises:
            ConfigError: a setting is wrong.
        """
        tree = config.model_dump()
        tree["method"] = self.method
        # As many as the command line says, unless a setting lets the number follow the load.
        numbers = ("chains", "chains_min", "draft_requests", "target_requests")
        limits = dict.fromkeys(numbers, chains)
        tree["limits"] |= limits
        for author in ("draft", "target"):  # what is simulated are servers
            tree[author]["engine"] = "sglang"
        # The scores to decide by are those of the very chains that are followed.
        tree["calibration"]["allow_overlap"] = True
        for key, value in self.settings.items():
            apply_setting(tree, f"{key}={value}")
        return parse_config(tree, self.name)


Numbers = Literal["bf16", "fp8"]


class ModelHardware(Options):
    """What one of the two models is served by."""

    gpus: int = Field(default=1, ge=1)
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs of one copy of the model, of which there are as many as are whole; what is left over
    stays idle."""
    cache_tokens: int | None = Field(default=None, ge=1)
    """Tokens that the key-value cache of a copy holds; null: what fits beside the weights."""
    weights: Numbers = "bf16"
    """Those of a model that has FP8 weights of its own stay as they are."""
    cache: Numbers = "bf16"
    speculative: SpeculativeOptions = SpeculativeOptions()
    """How it decodes speculatively."""
    acceptance: float = Field(default=0.7, ge=0.0, le=1.0)
    """Probability that a token is kept that was proposed for it, if those before it are."""
    efficiency: Efficiency = Efficiency()
    max_running: int = Field(default=2048, ge=1)


class Hardware(Options):
    """What the models are served by."""

    gpu: str = "h200"
    draft: ModelHardware = ModelHardware()
    target: ModelHardware = ModelHardware()
    shared: bool = False
    """Both models are served by the same GPUs, whose time and memory they share."""
    memory_fraction: float = Field(default=0.88, gt=0.0, le=1.0)
    """Share of a GPU's memory that weights and key-value cache may take."""
    client_seconds: float = Field(default=0.0014, ge=0.0)
    """What the one process of the client has to do for each request, one after the other. As
    measured with segments of 48 tokens on SGLang: where hundreds of them are in flight on small
    models, this is what they wait for."""
    mixed: bool = False
    """Prefill and decoding share steps, as in vLLM; else decoding pauses for prefill."""

    def of(self, author: Author) -> ModelHardware:
        """What serves the draft, or the target."""
        return self.draft if author == "draft" else self.target

    def for_run(self, config: Config) -> "Hardware":
        """As the configuration of a run says that servers are started, and with all GPUs for its
        model where the method has one alone.
        """
        models = {
            "draft": self.draft.model_copy(update=_as_started(config.draft)),
            "target": self.target.model_copy(update=_as_started(config.target)),
        }
        authors = METHODS[config.method].authors
        if len(authors) == 1 and not self.shared:
            everything = {"gpus": self.draft.gpus + self.target.gpus}
            models[authors[0]] = models[authors[0]].model_copy(update=everything)
        return self.model_copy(update=models)


def _as_started(model: ModelOptions) -> dict[str, object]:
    server = model.server
    started: dict[str, object] = {
        "tensor_parallel": server.tensor_parallel,
        "speculative": server.speculative,
    }
    if server.quantization:
        started["weights"] = server.quantization
    if server.cache_dtype != "auto":
        started["cache"] = "fp8"
    return started


def make_servers(
    config: Config, authors: Sequence[Author], hardware: Hardware
) -> dict[Author, list[Server]]:
    """The servers of the models that a method needs.

    Raises:
        ConfigError: a model does not fit, its sizes are not known, or the GPU is not.
    """
    if hardware.gpu not in GPUS:
        raise ConfigError(f"--gpu {hardware.gpu}: choose from {', '.join(GPUS)}")
    gpu = GPUS[hardware.gpu]
    shapes: dict[Author, Shape] = {
        "draft": _served(shape_of(config.draft.model), hardware.draft),
        "target": _served(shape_of(config.target.model), hardware.target),
    }
    if hardware.shared and hardware.draft.gpus != hardware.target.gpus:
        raise ConfigError("models that share GPUs must have the same number of them")
    shared = [SharedGpus() for _ in range(hardware.target.gpus)] if hardware.shared else []
    servers: dict[Author, list[Server]] = {}
    for author in authors:
        options = hardware.of(author)
        copies = _copies(author, hardware)
        costs = _costs(shapes[author], gpu, options)
        scheduling = Scheduling(
            cache_tokens=options.cache_tokens or _cache_tokens(author, shapes, gpu, hardware),
            max_running=options.max_running,
            mixed=hardware.mixed,
        )
        copies_gpus = shared or [SharedGpus() for _ in range(copies)]
        if shared and copies == 1 < len(shared):
            copies_gpus = [SharedGpus(shared)]
        servers[author] = [Server(costs, scheduling, gpus) for gpus in copies_gpus]
    return servers


def _served(shape: Shape, options: ModelHardware) -> Shape:
    return shape.with_bytes(_BYTES[options.weights], _BYTES[options.cache])


def _costs(shape: Shape, gpu: Gpu, options: ModelHardware) -> Costs:
    costs = Costs.of(shape, gpu, options.tensor_parallel, options.efficiency)
    if options.speculative.method == "off":
        return costs
    theirs, proposal = NO_COSTS, _proposal(shape, options)
    if proposal:
        theirs = Costs.of(proposal, gpu, options.tensor_parallel, options.efficiency)
    tokens = options.speculative.tokens
    return costs._replace(proposing=Proposing(theirs, tokens, options.acceptance))


def _proposal(shape: Shape, options: ModelHardware) -> Shape | None:
    """The model that proposes tokens, if one does: for ``eagle3`` a layer like the model's own."""
    how = options.speculative
    if how.method == "eagle3":
        return shape._replace(layers=1, window_layers=0, experts=None)
    return _served(shape_of(how.draft), options) if how.draft else None


def _copies(author: Author, hardware: Hardware) -> int:
    """How many copies of a model its GPUs hold."""
    options = hardware.of(author)
    if options.gpus < options.tensor_parallel:
        raise ConfigError(
            f"{options.gpus} GPU(s) of the {author} cannot hold a copy of "
            f"{options.tensor_parallel}: raise --{author}-gpus, or lower server.tensor_parallel"
        )
    if hardware.shared and options.tensor_parallel not in (1, options.gpus):
        raise ConfigError("of models that share GPUs, each has one GPU a copy, or all")
    return options.gpus // options.tensor_parallel


def _cache_tokens(
    author: Author, shapes: Mapping[Author, Shape], gpu: Gpu, hardware: Hardware
) -> int:
    """Tokens that fit beside the weights of one copy.

    Where both models share GPUs, what the weights of both leave of the memory is halved, whether
    or not the method needs both.
    """
    options = hardware.of(author)
    parallel, proposal = options.tensor_parallel, _proposal(shapes[author], options)
    if hardware.shared:
        other: Author = "target" if author == "draft" else "draft"
        # Of the other's weights each GPU holds a part, as if they were its own.
        taken = shapes[other].bytes / hardware.of(other).tensor_parallel
        gpu = gpu._replace(memory=gpu.memory - taken / hardware.memory_fraction)
    room = cache_tokens(shapes[author], gpu, parallel, hardware.memory_fraction, proposal)
    return max(1, room // 2) if hardware.shared else room
