"""The configuration of a run: every option, with its default, in this one place.

A configuration is a YAML file, changed by ``--set key=value`` on the command line. Unknown
keys are errors. The strings below explain the keys; ``atts run --show-config`` prints them all.
"""

import difflib
import hashlib
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from atts.errors import ConfigError

# A date that does not exist is a ValueError, and nesting without end a RecursionError.
_BAD_YAML = (yaml.YAMLError, ValueError, RecursionError)

MethodName = Literal["atts", "target-only", "draft-only"]
Coverage = Literal["marginal", "conditional"]
TakeOverMode = Literal["continue", "replace"]
ControlName = Literal["split", "online", "adaptive"]
Track = Literal["all", "turn", "problem", "turn+problem"]
ScoreName = Literal["mean", "worst-window", "unlikely-share"]
Split = Literal["train", "calibration", "test"]
EngineName = Literal["inprocess", "sglang", "vllm"]

_WHERE_IT_IS_SERVED = {"urls", "api_key_env", "served_as", "timeout_seconds", "server"}
"""Keys of a model that change no result, so that a run may go on with other servers."""


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


class ServerOptions(Options):
    """How ``atts servers up`` starts a model's server."""

    host: str = "127.0.0.1"
    """Where it listens. Anything but this machine's own address needs an API key."""
    port: int = Field(default=40000, ge=1, le=65535)
    gpus: tuple[int, ...] = ()
    """The GPUs that it may see, by their numbers in nvidia-smi; empty: all."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs that one copy of the model is split over."""
    memory_fraction: float | None = Field(default=None, gt=0.0, le=1.0)
    """Share of the memory for weights and key-value cache, as the server itself understands it;
    null leaves the server's default."""
    context_length: int | None = Field(default=None, ge=1)
    """Longest chain in tokens; null takes the model's own."""
    executable: str = "python3"
    """The Python that SGLang or vLLM is installed for; a name is looked up in PATH."""
    arguments: tuple[str, ...] = ()
    """Further arguments for the server, as on its command line."""
    environment: dict[str, str] = {}
    """Environment variables for the server."""
    start_seconds: float = Field(default=1800.0, gt=0.0)
    """How long it may take to answer."""


class ModelOptions(Options):
    model: str = Field(min_length=1)
    """A folder or Hugging Face id of a causal language model, or ``bundled/draft``,
    ``bundled/target``."""
    engine: EngineName = "inprocess"
    """What serves the model: ``sglang`` or ``vllm`` (servers), or ``inprocess``, which runs it
    inside this process, with transformers."""
    urls: tuple[str, ...] = ()
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
    thinking: Literal["template", "on", "off"] = "template"
    """Whether the model's turn begins inside ``<think>``: as its chat template has it, always, or
    never (an empty thought is put there)."""


class PromptOptions(Options):
    system: str = "Solve the problem step by step. Put the final answer in \\boxed{}."
    """The system message for both models; empty sends none."""
    open: str = "{question}"
    """The user message of a question with an open answer."""
    multiple_choice: str = (
        "{question}\n\n{choices}\n\nExactly one option is right. Put its letter in \\boxed{}."
    )
    """The user message of a multiple-choice question; ``{choices}`` is one line an option."""

    @model_validator(mode="after")
    def _placeholders(self) -> Self:
        for key, needed in (
            ("open", ("{question}",)),
            ("multiple_choice", ("{question}", "{choices}")),
        ):
            for placeholder in needed:
                if placeholder not in getattr(self, key):
                    raise ValueError(f"{key} must hold {placeholder}")
        return self


class SamplingOptions(Options):
    temperature: float = Field(default=0.8, ge=0.0)
    """0 takes the likeliest token each time."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Sample from the likeliest tokens that together have this probability."""
    stop: tuple[str, ...] = ()
    """Texts after which a model stops, as after its end-of-sequence; they stay in the chain."""


class TurnsOptions(Options):
    max_turns: int = Field(default=15, ge=1)
    """Rounds of draft, score and decision before a chain is given up."""
    draft_tokens: int = Field(default=500, ge=1)
    """Longest draft segment of a turn (K_d)."""
    target_tokens: int = Field(default=500, ge=1)
    """Longest target segment of a turn (K_t)."""


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

    kind: ScoreName = "mean"
    """``mean`` negative log-likelihood per token; that of the ``worst-window``; or the
    ``unlikely-share`` of the tokens."""
    window: int = Field(default=32, ge=1)
    """Tokens in a row that ``worst-window`` takes the mean over."""
    floor: float = Field(default=-3.0, le=0.0)
    """Log-probability, in nats, under which a token is unlikely."""


class TakeOverOptions(Options):
    rate: float = Field(default=0.4, ge=0.0, le=1.0)
    """Nominal share of decisions that hand the chain to the target (epsilon)."""
    mode: TakeOverMode = "continue"
    """The target continues after the draft's segment, or replaces it."""
    control: ControlName = "split"
    """``split`` compares scores with a calibration made before; ``online`` with the scores before
    them, without a calibration; ``adaptive`` moves the threshold so that the rate holds for any
    scores, with a calibration or without."""
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
    """Chains in flight, over all problems."""
    draft_requests: int = Field(default=128, ge=1)
    """Requests in flight on the draft's engine."""
    target_requests: int = Field(default=128, ge=1)
    """Requests in flight on the target's engine."""
    attempts: int = Field(default=5, ge=1)
    """Tries of a request that fails in a passing way."""
    backoff_seconds: float = Field(default=0.5, ge=0.0)
    """First wait before another try; doubles each time, with jitter, up to a minute."""


class Config(Options):
    method: MethodName = "atts"
    """How problems are solved."""
    problems: ProblemsOptions = ProblemsOptions()
    samples: int = Field(default=16, ge=1)
    """Chains per problem."""
    seed: int = Field(default=0, ge=0)
    """Every random choice derives from this and the chain's identity."""
    draft: ModelOptions = ModelOptions(model="bundled/draft")
    target: ModelOptions = ModelOptions(model="bundled/target", server=ServerOptions(port=40001))
    prompt: PromptOptions = PromptOptions()
    sampling: SamplingOptions = SamplingOptions()
    turns: TurnsOptions = TurnsOptions()
    take_over: TakeOverOptions = TakeOverOptions()
    calibration: CalibrationOptions = CalibrationOptions()
    limits: LimitsOptions = LimitsOptions()

    @model_validator(mode="after")
    def _stop_strings_need_a_server(self) -> Self:
        if self.sampling.stop and "inprocess" in (self.draft.engine, self.target.engine):
            raise ValueError(
                "sampling.stop: the in-process engine knows no stop strings; serve both models "
                "with sglang or vllm, or leave it out"
            )
        return self

    def digest(self) -> str:
        """Hash of everything that a result depends on: 16 hexadecimal digits."""
        text = yaml.safe_dump(self.what_results_depend_on(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def what_results_depend_on(self) -> dict[str, Any]:
        """All keys but the limits, where the models are served, and how the calibration came
        about: its content counts.
        """
        return flatten(
            self.model_dump(
                mode="json",
                exclude={
                    "limits": True,
                    "calibration": True,
                    "take_over": {"calibration", "certificate"},
                    "problems": {"folder"},  # the problems themselves are compared
                    "draft": _WHERE_IT_IS_SERVED,
                    "target": _WHERE_IT_IS_SERVED,
                },
            )
        )

    def calibration_fingerprint(self) -> dict[str, Any]:
        """The keys that a calibration is bound to: pair, prompt, sampling, turns, take-over."""
        return flatten(
            self.model_dump(
                mode="json",
                include={
                    "draft": {"model", "dtype", "thinking"},
                    "target": {"model", "dtype", "thinking"},
                    "prompt": True,
                    "sampling": True,
                    "turns": True,
                    "take_over": {
                        "rate": True,
                        "mode": True,
                        "coverage": True,
                        "by_turn": True,
                        "budget": {"per_turn"},
                        "score": True,
                    },
                },
            )
        )


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys.

    >>> flatten({"a": {"b": 1, "c": {"d": 2}}})
    {'a.b': 1, 'a.c.d': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def differing_keys(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Keys of two flat mappings whose values differ or that only one has, sorted.

    >>> differing_keys({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4})
    ['b', 'c']
    """
    missing = object()
    return sorted(
        key
        for key in ours.keys() | theirs.keys()
        if ours.get(key, missing) != theirs.get(key, missing)
    )


def load_config(path: Path | None = None, settings: list[str] | None = None) -> Config:
    """Read a YAML file (none: the defaults) and apply ``key=value`` settings to it.

    Values of settings are YAML too: ``take_over.rate=0.3``, ``problems.count=null``.

    Raises:
        ConfigError: the file or a setting cannot be read, or a key or value is wrong.
    """
    tree = _read_yaml(path) if path else {}
    for setting in settings or []:
        _apply(tree, setting)
    return parse_config(tree, source=str(path) if path else "the command line")


def parse_config(tree: dict[str, Any], source: str) -> Config:
    """Validate a nested mapping; what it leaves out, at any depth, is as in ``Config()``.

    Raises:
        ConfigError: naming each wrong key, what is wrong with it, and ``source``.
    """
    try:
        return Config.model_validate(_merge(Config().model_dump(), tree))
    except ValidationError as error:
        problems = [_explain(detail["loc"], detail["msg"]) for detail in error.errors()]
        raise ConfigError(f"wrong configuration in {source}:\n  " + "\n  ".join(problems)) from None


def _merge(defaults: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    # Validating a part of a group by itself would take the defaults of the group's class, which
    # are not those of the place where it stands: of draft and target, or calibration.problems.
    return defaults | {
        key: _merge(defaults[key], value)
        if isinstance(value, dict) and isinstance(defaults.get(key), dict)
        else value
        for key, value in tree.items()
    }


def _explain(location: tuple[int | str, ...], message: str) -> str:
    key = ".".join(map(str, location))
    if message == "Extra inputs are not permitted":
        known = [name for name in flatten(Config().model_dump()) if name != key]
        leaf = key.rpartition(".")[2]
        close = [name for name in known if name.rpartition(".")[2] == leaf]
        close = close or difflib.get_close_matches(key, known, n=1)
        return f"{key}: unknown key" + (f"; did you mean {' or '.join(close)}?" if close else "")
    return f"{key}: {message}"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    except _BAD_YAML as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold keys and values, not a {type(tree).__name__}")
    return tree


def _apply(tree: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set takes key=value, e.g. --set take_over.rate=0.3; got {setting!r}")
    try:
        value = yaml.safe_load(text)
    except _BAD_YAML as error:
        raise ConfigError(f"--set {setting}: the value is not valid YAML: {error}") from error
    *parents, leaf = key.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {setting}: {parent} is a value, not a group of keys")
        tree = child
    tree[leaf] = value
