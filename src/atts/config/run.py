"""The whole configuration of a run, and which of its keys a result depends on."""

import hashlib
from collections.abc import Mapping
from typing import Any, Self, TypeVar

import yaml
from pydantic import (
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from atts import registry
from atts.config.options import (
    IN_THIS_PROCESS,
    CalibrationOptions,
    LimitsOptions,
    MethodName,
    ModelOptions,
    Options,
    ProblemsOptions,
    PromptOptions,
    SamplingOptions,
    ServerOptions,
    SpeculativeOptions,
    StopOptions,
    TakeOverOptions,
    TurnsOptions,
)
from atts.errors import ConfigError
from atts.types import Author

_WHERE_IT_IS_SERVED: dict[str, Any] = {
    **dict.fromkeys(("urls", "api_key_env", "served_as", "timeout_seconds"), True),
    "server": dict.fromkeys(
        ServerOptions.model_fields.keys() - {"speculative", "quantization", "cache_dtype"}, True
    ),
}
"""Keys of a model that change no result, so that a run may go on with other servers. Speculative
decoding changes none, either, but what it is worth is what two runs are compared for."""

_WHAT_A_CALIBRATION_IS_BOUND_TO: dict[str, Any] = {
    **dict.fromkeys(("model", "gguf", "dtype", "thinking", "thought_ends", "sampling"), True),
    **dict.fromkeys(("chat_template_kwargs", "chat_format"), True),
    "server": {"quantization": True, "cache_dtype": True},
}

OFTEN_IN_VAIN = 0.5
"""Take-over rate above which the draft does not write ahead: less than half of it would stay."""

_WHAT_TURNS_ARE = TurnsOptions.model_fields.keys() - {"draft_segments"}

Group = TypeVar("Group", bound=Options)


def _groups_of_methods() -> dict[str, type[Options]]:
    """The groups that single methods have, and that stand in every configuration."""
    return {m.group: m.options for m in registry.METHODS.found.values() if m.options}


_ADDED = {
    "draft.gguf": None,
    "target.gguf": None,
    "draft.chat_format": "template",
    "target.chat_format": "template",
    "draft.thought_ends": None,
    "target.thought_ends": None,
    "draft.sampling.temperature": None,
    "draft.sampling.top_p": None,
    "target.sampling.temperature": None,
    "target.sampling.top_p": None,
    "prompt.program": PromptOptions().program,
    "prompt.program_system": PromptOptions().program_system,
    "turns.draft_tokens_max": None,
    "turns.draft_tokens_min": None,
    "turns.opening": "draft",
    "draft.server.quantization": None,
    "target.server.quantization": None,
    "draft.server.cache_dtype": "auto",
    "target.server.cache_dtype": "auto",
    "turns.draft_segments": 1,
    **{
        f"{author}.server.speculative.{key}": default
        for author in ("draft", "target")
        for key, default in SpeculativeOptions().model_dump().items()
    },
    "take_over.gate.share": 0.0,
    "take_over.gate.by": "draft-surprise",
}
"""Keys that came after the first runs, with the values that mean what was done before. With these
they are left out of digests and fingerprints, so that what is older is still found."""


class Config(Options):
    """All groups: those below, and one for each method that has options of its own; see ``of``."""

    model_config = ConfigDict(extra="allow")  # ``_with_methods`` refuses what is no such group

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
    stop: StopOptions = StopOptions()
    take_over: TakeOverOptions = TakeOverOptions()
    calibration: CalibrationOptions = CalibrationOptions()
    limits: LimitsOptions = LimitsOptions()

    @model_validator(mode="wrap")
    @classmethod
    def _with_methods(cls, tree: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Validate the groups of the methods, too; all that is wrong is told at once."""
        if not isinstance(tree, Mapping):
            return handler(tree)
        kinds = _groups_of_methods()
        own = {key: value for key, value in tree.items() if key in cls.model_fields}
        faults: list[InitErrorDetails] = []
        for name, kind in kinds.items():
            try:
                own[name] = kind.model_validate(tree.get(name, {}))
            except ValidationError as error:
                faults += _faults(error, name)
        for key in tree:
            if key not in own and key not in kinds:
                loc = (key if isinstance(key, str | int) else str(key),)
                faults.append(InitErrorDetails(type="extra_forbidden", loc=loc, input=tree[key]))
        try:
            config = handler(own)
        except ValidationError as error:
            faults = _faults(error) + faults
        if faults:
            raise ValidationError.from_exception_data(cls.__name__, faults)
        return config

    @model_serializer(mode="wrap")
    def _limits_last(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree: dict[str, Any] = handler(self)
        return tree | {"limits": tree.pop("limits")} if "limits" in tree else tree

    def of(self, kind: type[Group]) -> Group:
        """The group of a method's own options.

        Raises:
            ConfigError: no method has them.
        """
        for group in (self.model_extra or {}).values():
            if isinstance(group, kind):
                return group
        raise ConfigError(f"{kind.__name__} are the options of no method that is registered")

    def options_of(self, author: Author) -> ModelOptions:
        """Those of one of the two models."""
        return self.draft if author == "draft" else self.target

    @property
    def overlaps(self) -> bool:
        """Whether the draft writes ahead while the target scores; see ``limits.overlap``."""
        if self.limits.overlap == "auto":
            served = not {self.draft.engine, self.target.engine} <= IN_THIS_PROCESS
            return served and self.take_over.rate <= OFTEN_IN_VAIN
        return self.limits.overlap == "on"

    def digest(self) -> str:
        """Hash of everything that a result depends on: 16 hexadecimal digits."""
        text = yaml.safe_dump(self.what_results_depend_on(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def what_results_depend_on(self) -> dict[str, Any]:
        """All keys but the limits, where the models are served, the groups of other methods, and
        how the calibration came about: its content counts.
        """
        own = registry.METHODS.found[self.method].group
        of_others = _groups_of_methods().keys() - {own}
        return _without_added(
            self.model_dump(
                mode="json",
                exclude={
                    **dict.fromkeys(of_others, True),
                    "limits": True,
                    "calibration": True,
                    "take_over": {"calibration", "certificate", "record_surprises"},
                    "problems": {"folder"},  # the problems themselves are compared
                    "draft": _WHERE_IT_IS_SERVED,
                    "target": _WHERE_IT_IS_SERVED,
                },
            )
        )

    def calibration_fingerprint(self) -> dict[str, Any]:
        """The keys that a calibration is bound to: pair, prompt, sampling, turns, take-over.

        In how many requests segments are written is not among them: their scores are distributed
        alike.
        """
        return _without_added(
            self.model_dump(
                mode="json",
                include={
                    "draft": _WHAT_A_CALIBRATION_IS_BOUND_TO,
                    "target": _WHAT_A_CALIBRATION_IS_BOUND_TO,
                    "prompt": True,
                    "sampling": True,
                    "turns": _WHAT_TURNS_ARE,
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


def _without_added(tree: dict[str, Any]) -> dict[str, Any]:
    flat = flatten(tree)
    absent = object()
    return {key: value for key, value in flat.items() if value != _ADDED.get(key, absent)}


def _faults(error: ValidationError, *group: str) -> list[InitErrorDetails]:
    """What an error says, for another one; below ``group``."""
    return [
        InitErrorDetails(
            type=PydanticCustomError("fault", "{message}", {"message": each["msg"]}),
            loc=(*group, *each["loc"]),
            input=each["input"],
        )
        for each in error.errors(include_url=False)
    ]


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


def differing_keys(ours: dict[str, Any], *others: dict[str, Any]) -> list[str]:
    """Keys of flat mappings whose values differ or that only some have, sorted.

    >>> differing_keys({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4})
    ['b', 'c']
    """
    missing = object()
    return sorted(
        key
        for key in ours.keys() | {key for theirs in others for key in theirs}
        if any(ours.get(key, missing) != theirs.get(key, missing) for theirs in others)
    )
