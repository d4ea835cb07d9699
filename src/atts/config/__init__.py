"""The configuration of a run: every option, with its default, in this one place.

A configuration is a YAML file, changed by ``--set key=value`` on the command line. Unknown
keys are errors. ``atts run --show-config`` prints all keys.
"""

from atts.config.loading import load_config, parse_config
from atts.config.methods import (
    BestOfNOptions,
    SelfConsistencyOptions,
    SpecReasonOptions,
    SpeculativeThinkingOptions,
    SyncRankingOptions,
)
from atts.config.options import (
    AdaptiveOptions,
    BudgetOptions,
    CalibrationOptions,
    ControlName,
    Coverage,
    EngineName,
    LimitsOptions,
    MethodName,
    ModelOptions,
    Options,
    ProblemsOptions,
    PromptOptions,
    SamplingOptions,
    ScoreName,
    ScoreOptions,
    ServerOptions,
    Split,
    TakeOverMode,
    TakeOverOptions,
    Track,
    TurnsOptions,
)
from atts.config.run import Config, differing_keys, flatten

__all__ = [
    "AdaptiveOptions",
    "BestOfNOptions",
    "BudgetOptions",
    "CalibrationOptions",
    "Config",
    "ControlName",
    "Coverage",
    "EngineName",
    "LimitsOptions",
    "MethodName",
    "ModelOptions",
    "Options",
    "ProblemsOptions",
    "PromptOptions",
    "SamplingOptions",
    "ScoreName",
    "ScoreOptions",
    "SelfConsistencyOptions",
    "ServerOptions",
    "SpecReasonOptions",
    "SpeculativeThinkingOptions",
    "Split",
    "SyncRankingOptions",
    "TakeOverMode",
    "TakeOverOptions",
    "Track",
    "TurnsOptions",
    "differing_keys",
    "flatten",
    "load_config",
    "parse_config",
]
