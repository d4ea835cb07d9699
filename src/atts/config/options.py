"""The groups of options and their defaults. The strings explain the keys."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from atts import registry
from atts.config.addresses import host_name, server_address
from atts.config.secrets import Secret, hide_arguments, refuse_hidden
from atts.registry import Registry

Coverage = Literal["marginal", "conditional"]
TakeOverMode = Literal["continue", "replace", "rewind"]
ControlName = Literal["split", "online", "adaptive", "coin"]
Track = Literal["all", "turn", "problem", "turn+problem"]
Split = Literal["train", "calibration", "test"]
ChatFormatName = Literal["template", "harmony", "deepseek-v3.2"]
EngineName = Literal["inprocess", "sglang", "vllm", "openai", "llamacpp"]
IN_THIS_PROCESS: frozenset[EngineName] = frozenset({"inprocess", "llamacpp"})
"""The engines that compute here, and not on a server."""
CacheDtype = Literal["auto", "fp8_e4m3", "fp8_e5m2"]
StopRule = Literal["never", "majority", "adaptive"]


def _on_or_off(value: object) -> object:
    """YAML reads a bare ``on`` or ``off`` as a truth value."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return value


def _known_to(known: Registry) -> AfterValidator:
    """Refuses a name that is not registered, in the words of a ``Literal`` of all that are."""

    def check(name: str) -> str:
        if name in known.found:
            return name
        *others, last = map(repr, known.found)
        raise PydanticCustomError(
            "literal_error",
            "Input should be {expected}",
            {"expected": f"{', '.join(others)} or {last}"},
        )

    return AfterValidator(check)


def _variable(name: str) -> str:
    if not name or "=" in name:
        raise ValueError("the name of an environment variable is not empty, and holds no =")
    return name


Stop = Annotated[str, Field(min_length=1)]
"""A text at which a model stops; every text holds the empty one."""
TopP = Annotated[float, Field(ge=1e-6, le=1.0)]
"""Servers count in single precision: less is 0 there, of which some make an error and some all
tokens."""
MethodName = Annotated[str, _known_to(registry.METHODS)]
ScoreName = Annotated[str, _known_to(registry.SCORES)]
Overlap = Annotated[Literal["auto", "on", "off"], BeforeValidator(_on_or_off)]
Thinking = Annotated[Literal["template", "on", "off"], BeforeValidator(_on_or_off)]
SpeculativeMethod = Annotated[
    Literal["off", "draft", "eagle3", "ngram"], BeforeValidator(_on_or_off)
]


_Value = Annotated[Secret | None, BeforeValidator(refuse_hidden)]


class Options(BaseModel):
    """Base of the configuration's groups: immutable, documented, closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class ProblemsOptions(Options):
    source: str = "arithmetic"
    """``arithmetic`` (generated), the name of a set (``atts problems list``), or the path of a
    JSONL file: id, question, answer[, choices]."""
    split: Split = "test"
    """Which of the disjoint splits of a set; ignored for a file."""
    count: int | None = Field(default=None, ge=1)
    """How many problems, from the first; null takes all, and 100 of arithmetic."""
    folder: Path | None = None
    """A folder of JSONL files named after the sets, to take in place of the Hugging Face hub."""
    seed: int = 0
    """Orders the choices of multiple-choice sets."""


class SpeculativeOptions(Options):
    """How a server proposes tokens that its model then checks several at a time. What it writes is
    distributed as without, and comes faster where the server is not busy.
    """

    method: SpeculativeMethod = "off"
    """Who proposes: ``draft``, a small model of the same vocabulary; ``eagle3``, a head that was
    trained for this model; ``ngram``, what followed the same words earlier in the text."""
    draft: str | None = Field(default=None, min_length=1)
    """The folder or Hugging Face id of that model or head."""
    tokens: int = Field(default=4, ge=1)
    """Tokens proposed for each pass of the model."""
    max_requests: int = Field(default=128, ge=1)
    """Requests that SGLang works on at a time; left to itself it takes 48, whatever fits."""

    @model_validator(mode="after")
    def _draft_where_it_is_needed(self) -> Self:
        needed = self.method in ("draft", "eagle3")
        if needed and self.draft is None:
            raise ValueError(f"method {self.method} needs draft, the model that proposes")
        if not needed and self.draft is not None:
            raise ValueError(f"method {self.method} takes no draft; set method to draft or eagle3")
        return self


class ServerOptions(Options):
    """How ``atts servers up`` starts a model's server."""

    host: Annotated[str, AfterValidator(host_name)] = "127.0.0.1"
    """Where it listens. Anything but this machine's own address needs an API key."""
    port: int = Field(default=40000, ge=1, le=65535)
    gpus: tuple[int, ...] = ()
    """The GPUs that it may see, by their numbers in nvidia-smi; empty: all."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs that one copy of the model is split over."""
    replicas: int = Field(default=1, ge=1)
    """Servers of the model that ``atts servers up --ray`` places on a cluster, each with as many
    GPUs as ``gpus`` names, or else ``tensor_parallel``."""
    memory_fraction: float | None = Field(default=None, gt=0.0, le=1.0)
    """Share of the memory for weights and key-value cache, as the server itself understands it;
    null leaves the server's default."""
    context_length: int | None = Field(default=None, ge=1)
    """Longest chain in tokens; null takes the model's own."""
    quantization: Literal["fp8"] | None = None
    """``fp8`` halves the weights of a model that was published in 16 bits when it is loaded; null
    leaves them as they were published."""
    cache_dtype: CacheDtype = "auto"
    """Of the key-value cache: ``auto`` is the model's own, in FP8 twice as many tokens fit. Scores
    change with it, and with ``quantization``, so a calibration is bound to both."""
    speculative: SpeculativeOptions = SpeculativeOptions()
    executable: str = "python3"
    """The Python that SGLang or vLLM is installed for; a name is looked up in PATH."""
    arguments: Annotated[tuple[str, ...], PlainSerializer(hide_arguments, when_used="json")] = (
        Field(default=(), repr=False)
    )
    """Further arguments for the server, as on its command line; the value of one that is named like
    a key is written down nowhere."""
    environment: Annotated[
        dict[Annotated[str, AfterValidator(_variable)], _Value], BeforeValidator(refuse_hidden)
    ] = {}
    """Environment variables for the server; their values are written down nowhere, and null takes
    the one that ``atts`` itself has."""
    start_seconds: float = Field(default=1800.0, gt=0.0)
    """How long it may take to answer."""


class OwnSamplingOptions(Options):
    """How one model samples, where that is not as ``sampling`` says; null: as it says."""

    temperature: float | None = Field(default=None, ge=0.0)
    top_p: TopP | None = None


class ModelOptions(Options):
    model: str = Field(min_length=1)
    """A folder or Hugging Face id of a causal language model, or ``bundled/draft``,
    ``bundled/target``."""
    engine: EngineName = "inprocess"
    """What serves the model: ``sglang`` or ``vllm`` (servers); ``openai``, any other server with
    OpenAI's completions route, mostly as the draft; ``inprocess``, which runs it inside this
    process, with transformers; ``llamacpp``, the same with llama.cpp and ``gguf``."""
    gguf: str | None = None
    """The file with the weights for ``llamacpp``; ``model`` names the tokenizer then."""
    urls: tuple[Annotated[str, AfterValidator(server_address)], ...] = ()
    """Where the model's servers answer, e.g. ``http://127.0.0.1:40000``; several are replicas of
    one model. Empty: where ``atts servers up`` starts it."""
    api_key_env: str | None = None
    """The environment variable that holds the servers' API key."""
    served_as: str | None = None
    """What the servers call the model, where it is not ``model``."""
    timeout_seconds: float = Field(default=900.0, gt=0.0)
    """A request without a reply for so long fails: the server may hang."""
    server: ServerOptions = ServerOptions()
    device: str = "auto"
    """A torch device such as ``cpu`` or ``cuda:1``; ``auto`` takes a GPU where there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the weights; ``auto`` is float32 on a CPU, else the checkpoint's own."""
    cache_tokens: int = Field(default=200_000, ge=0)
    """Tokens whose keys and values are kept for chains between their turns."""
    thinking: Thinking = "template"
    """Whether the model's turn begins inside ``<think>``: as its chat template has it, always, or
    never (an empty thought is put there)."""
    chat_template_kwargs: dict[str, bool | int | float | str] = {}
    """What the chat template is told beside the messages, e.g. ``{enable_thinking: false}`` or
    ``{reasoning_effort: high}``; a name that it does not know is refused."""
    chat_format: ChatFormatName = "template"
    """Who makes the prompt: the model's own chat ``template``; for gpt-oss ``harmony``, which needs
    the openai-harmony package; or the encoder of ``deepseek-v3.2``, which has no template."""
    sampling: OwnSamplingOptions = OwnSamplingOptions()
    thought_ends: tuple[Annotated[str, Field(min_length=1)], ...] | None = None
    """Texts that end the model's thought, after which its answer is looked for; null takes those of
    the known families, an empty list none."""


class PromptOptions(Options):
    system: str = "Solve the problem step by step. Put the final answer in \\boxed{}."
    """The system message for both models; empty sends none."""
    open: str = "{question}"
    """The user message of a question with an open answer."""
    multiple_choice: str = (
        "{question}\n\n{choices}\n\nExactly one option is right. Put its letter in \\boxed{}."
    )
    """The user message of a multiple-choice question; ``{choices}`` is one line an option."""
    program_system: str = "Solve the problem step by step. End with the program as a code block."
    """The system message in place of ``system`` where the answer is a program."""
    program: str = (
        "{question}\n\nWrite it in Python. End with the whole program in one block that begins "
        "with ```python and ends with ```."
    )
    """The user message of a question whose answer is a program."""

    @model_validator(mode="after")
    def _placeholders(self) -> Self:
        for key, needed in (
            ("open", ("{question}",)),
            ("program", ("{question}",)),
            ("multiple_choice", ("{question}", "{choices}")),
        ):
            for placeholder in needed:
                if placeholder not in getattr(self, key):
                    raise ValueError(f"{key} must hold {placeholder}")
        return self


class SamplingOptions(Options):
    temperature: float = Field(default=0.8, ge=0.0)
    """0 takes the likeliest token each time."""
    top_p: TopP = 1.0
    """Sample from the likeliest tokens that together have this probability."""
    stop: tuple[Stop, ...] = ()
    """Texts after which a model stops, as after its end-of-sequence; they stay in the chain."""


class TurnsOptions(Options):
    max_turns: int = Field(default=240, ge=1)
    """Rounds of draft, score and decision before a chain is given up."""
    draft_tokens: int = Field(default=48, ge=1)
    """Longest draft segment of a turn (K_d)."""
    target_tokens: int = Field(default=16, ge=1)
    """Longest target segment of a turn (K_t)."""
    draft_tokens_min: int | None = Field(default=None, ge=1)
    """Let the longest draft segment follow trust, from ``draft_tokens`` on: it halves after a
    take-over, down to this; null: to no less than ``draft_tokens``."""
    draft_tokens_max: int | None = Field(default=None, ge=1)
    """It doubles after one that stayed, up to this; null: to no more than ``draft_tokens``."""
    draft_segments: int = Field(default=1, ge=1)
    """Segments that the draft writes in one request and the target scores in one. They are decided
    one by one, each in a turn of its own; a take-over cuts off those that follow."""
    opening: Literal["draft", "target"] = "draft"
    """Who begins the chain; the target begins with one segment of its own, before the first turn's
    draft."""

    @property
    def draft_bounds(self) -> tuple[int, int]:
        """Between which the longest draft segment stays."""
        return (
            self.draft_tokens_min or self.draft_tokens,
            self.draft_tokens_max or self.draft_tokens,
        )

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        least, most = self.draft_bounds
        if not least <= self.draft_tokens <= most:
            raise ValueError("draft_tokens must lie between draft_tokens_min and draft_tokens_max")
        return self


class StopOptions(Options):
    """What ends chains before they have an answer. Runs that stop early give no pass@k."""

    when: StopRule = "never"
    """When the rest of a problem's chains are not needed: once the ``majority`` is decided
    whatever they answer, or, ``adaptive``, once it is also certain enough that the leading answer
    is likelier than the next."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    """How certain is certain enough for ``adaptive``."""
    repeating: bool = True
    """Whether a chain is ended that writes one passage over and over again."""


class AdaptiveOptions(Options):
    """How ``take_over.control=adaptive`` tracks the take-over rate."""

    track: Track = "turn+problem"
    """Over what the rate is held: all decisions, those of each turn, of each problem, or of each
    turn and of each problem at the same time."""
    step: float = Field(default=0.1, gt=0.0)
    """How far one decision moves the threshold, on the scale of p-values."""
    decay: float = Field(default=0.0, ge=0.0, lt=1.0)
    """The step of a group's t-th decision is step * t^-decay; 0 keeps it constant."""


class BudgetOptions(Options):
    """Hard caps on top of any control; null sets none. Where a cap is reached the draft goes on."""

    per_turn: int | None = Field(default=None, ge=1)
    """Most take-overs of one problem's chains in one turn (B)."""
    in_flight: int | None = Field(default=None, ge=1)
    """Most take-overs that the target works on at a time (G)."""


class ScoreOptions(Options):
    """What of a segment's log-probabilities under the target the decision is about."""

    kind: ScoreName = "largest-surprise"
    """The largest surprise of a token, beyond which ``rewind`` also cuts; the ``mean`` of all; that
    of the ``worst-window``; docs/methods/atts.md has the others."""
    window: int = Field(default=32, ge=1)
    """Tokens in a row that ``worst-window`` takes the mean over."""
    floor: float = Field(default=-3.0, le=0.0)
    """Log-probability, in nats, under which a token is unlikely."""


class GateOptions(Options):
    """Which segments pass without being scored: those of which the draft itself is most certain."""

    share: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the segments; 0 lets none pass. They count as decisions that do not take over, so
    that ``take_over.rate`` holds over all of them together."""
    by: Literal["draft-surprise", "coin"] = "draft-surprise"
    """``draft-surprise``: those in which no token surprised the draft much; ``coin``: any, the null
    that the draft's confidence must beat."""


class TakeOverOptions(Options):
    rate: float = Field(default=0.4, ge=0.0, le=1.0)
    """Nominal share of decisions that hand the chain to the target (epsilon)."""
    mode: TakeOverMode = "rewind"
    """Where the target takes over it continues after the draft's segment, replaces it, or has it
    cut before the token that it finds too surprising and goes on from there (``rewind``)."""
    control: ControlName = "adaptive"
    """``adaptive`` moves the threshold so that the rate holds, at every turn and for every problem,
    for any scores, with a calibration or without; ``split`` compares scores with a calibration made
    before; ``online`` with the scores before them; ``coin`` takes over at the rate wherever chance
    will, the null that every score must beat."""
    coverage: Coverage = "marginal"
    """Compare with the scores of all problems, or with those of the same problem."""
    by_turn: bool = True
    """Compare with the scores of the same turn only."""
    calibration: Path | None = None
    """The ``calibration.json`` to decide by; ``atts calibrate`` makes it."""
    certificate: Path | None = None
    """The ``certificate.json`` that vouches for the rate; ``atts tune`` makes it."""
    adaptive: AdaptiveOptions = AdaptiveOptions()
    budget: BudgetOptions = BudgetOptions()
    score: ScoreOptions = ScoreOptions()
    gate: GateOptions = GateOptions()
    record_surprises: Overlap = "auto"
    """Whether each decision's record has the surprise of every token, five bytes each; it changes
    no result. ``auto``: in the mode ``rewind``."""

    @property
    def records_surprises(self) -> bool:
        """Whether it does."""
        if self.record_surprises == "auto":
            return self.mode == "rewind"
        return self.record_surprises == "on"


class CalibrationOptions(Options):
    problems: ProblemsOptions = ProblemsOptions(source="auto", split="calibration")
    """What marginal calibration is made on; ``auto`` is the calibration split of the set that is
    run, which never meets its problems. Conditional calibration takes the run's own
    problems, with other chains and without their answers."""
    samples: int = Field(default=16, ge=1)
    """Calibration chains per problem."""
    allow_overlap: bool = False
    """Permit marginal calibration on problems that are also evaluated."""


class LimitsOptions(Options):
    """How much runs at a time. Nothing here changes a result, so a run may be resumed with
    other limits.
    """

    chains: int = Field(default=128, ge=1)
    """Most chains in flight, over all problems."""
    chains_min: int = Field(default=32, ge=1)
    """Chains in flight to begin with, and at least; more begin where engines tell that their caches
    hold more. Between this and ``chains`` their number follows the load of the engines; as many as
    ``chains``, or more, keeps it fixed."""
    cache_use: float = Field(default=0.85, gt=0.0, le=1.0)
    """Share of an engine's key-value cache in use from which on no chain begins."""
    empty_caches: bool = False
    """Whether servers are told to forget what they cached before a run or a calibration begins, so
    that wall times can be compared; for servers that nobody else uses. ``compare``, ``suite`` and
    ``calibrate`` tell those that were started here in any case."""
    draft_requests: int = Field(default=128, ge=1)
    """Requests in flight on the draft's engine."""
    target_requests: int = Field(default=128, ge=1)
    """Requests in flight on the target's engine."""
    overlap: Overlap = "auto"
    """Whether the draft writes the next segment while the target scores the last one; what it
    wrote is thrown away if the target takes over. ``auto``: on, unless ``take_over.rate`` says that
    this is more often than not, or both models run inside this process and share its cores."""
    attempts: int = Field(default=5, ge=1)
    """Tries of a request that fails in a passing way."""
    backoff_seconds: float = Field(default=0.5, ge=0.0)
    """First wait before another try; doubles each time, with jitter, up to a minute."""
    patience_seconds: float = Field(default=600.0, ge=0.0)
    """How long a server that answers nothing is waited for. Meanwhile no chain begins and none
    fails; after it the run ends, and the same command goes on."""
