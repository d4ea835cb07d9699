"""The configuration of a run: every option, with its default.

The options of a single method stand with that method, as a group of its name.

A configuration is a YAML file, changed by ``--set key=value`` on the command line. Unknown
keys are errors. ``preset`` sets many keys at once, below all others. ``atts run --show-config``
prints all keys.
"""

from atts.config.loading import (
    FORMER_DEFAULTS,
    PRESETS,
    apply_setting,
    load_config,
    method_and_settings,
    parse_config,
)
from atts.config.options import (
    IN_THIS_PROCESS,
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
    Overlap,
    OwnSamplingOptions,
    ProblemsOptions,
    PromptOptions,
    SamplingOptions,
    ScoreName,
    ScoreOptions,
    ServerOptions,
    Split,
    StopOptions,
    StopRule,
    TakeOverMode,
    TakeOverOptions,
    Thinking,
    Track,
    TurnsOptions,
)
from atts.config.run import Config, differing_keys, flatten

__all__ = [
    "FORMER_DEFAULTS",
    "IN_THIS_PROCESS",
    "PRESETS",
    "AdaptiveOptions",
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
    "Overlap",
    "OwnSamplingOptions",
    "ProblemsOptions",
    "PromptOptions",
    "SamplingOptions",
    "ScoreName",
    "ScoreOptions",
    "ServerOptions",
    "Split",
    "StopOptions",
    "StopRule",
    "TakeOverMode",
    "TakeOverOptions",
    "Thinking",
    "Track",
    "TurnsOptions",
    "apply_setting",
    "differing_keys",
    "flatten",
    "load_config",
    "method_and_settings",
    "parse_config",
]
