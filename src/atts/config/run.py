"""The whole configuration of a run, and which of its keys a result depends on."""

import hashlib
from typing import Any

import yaml
from pydantic import Field

from atts.config.methods import (
    BestOfNOptions,
    SelfConsistencyOptions,
    SpecReasonOptions,
    SpeculativeThinkingOptions,
    SyncRankingOptions,
)
from atts.config.options import (
    CalibrationOptions,
    LimitsOptions,
    MethodName,
    ModelOptions,
    Options,
    ProblemsOptions,
    PromptOptions,
    SamplingOptions,
    ServerOptions,
    StopOptions,
    TakeOverOptions,
    TurnsOptions,
)

_WHERE_IT_IS_SERVED = {"urls", "api_key_env", "served_as", "timeout_seconds", "server"}
"""Keys of a model that change no result, so that a run may go on with other servers."""

_OF_ONE_METHOD = {
    "sync_ranking",
    "specreason",
    "speculative_thinking",
    "best_of_n",
    "self_consistency",
}
"""Groups that only the method of their name reads."""


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
    stop: StopOptions = StopOptions()
    take_over: TakeOverOptions = TakeOverOptions()
    calibration: CalibrationOptions = CalibrationOptions()
    sync_ranking: SyncRankingOptions = SyncRankingOptions()
    specreason: SpecReasonOptions = SpecReasonOptions()
    speculative_thinking: SpeculativeThinkingOptions = SpeculativeThinkingOptions()
    best_of_n: BestOfNOptions = BestOfNOptions()
    self_consistency: SelfConsistencyOptions = SelfConsistencyOptions()
    limits: LimitsOptions = LimitsOptions()

    @property
    def overlaps(self) -> bool:
        """Whether the draft writes ahead while the target scores; see ``limits.overlap``."""
        if self.limits.overlap == "auto":
            return not (self.draft.engine == self.target.engine == "inprocess")
        return self.limits.overlap == "on"

    def digest(self) -> str:
        """Hash of everything that a result depends on: 16 hexadecimal digits."""
        text = yaml.safe_dump(self.what_results_depend_on(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def what_results_depend_on(self) -> dict[str, Any]:
        """All keys but the limits, where the models are served, the groups of other methods, and
        how the calibration came about: its content counts.
        """
        of_others = _OF_ONE_METHOD - {self.method.replace("-", "_")}
        return flatten(
            self.model_dump(
                mode="json",
                exclude={
                    **dict.fromkeys(of_others, True),
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
