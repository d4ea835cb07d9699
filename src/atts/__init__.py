"""Asynchronous test-time scaling with conformal prediction.

The names of ``__all__`` are what programs may rely on; docs/python.md shows each in use. They are
loaded when they are first asked for, so that importing ``atts`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atts.api.advise import advise
    from atts.api.jobs import compare, regrade, report, same_answer, simulate, tune
    from atts.api.solve import asolve, solve
    from atts.config import Config, load_config
    from atts.conformal.calibration import Calibration
    from atts.conformal.factory import make_control
    from atts.conformal.pvalues import p_value
    from atts.engines.base import (
        Completion,
        Engine,
        GenerateRequest,
        Sampling,
        Scored,
        ScoreRequest,
    )
    from atts.errors import AttsError
    from atts.exchange.tables import read_records
    from atts.grading.extract import extract_answer
    from atts.methods.chain import Model
    from atts.models.prompts import Tokenizer
    from atts.runs.jobs import calibrate, run
    from atts.runs.setup import open_models
    from atts.solving.solution import Solution
    from atts.solving.solver import Solver
    from atts.store.run_directory import read_run
    from atts.types import Chain, Message, Problem, Timings

__all__ = [
    "AttsError",
    "Calibration",
    "Chain",
    "Completion",
    "Config",
    "Engine",
    "GenerateRequest",
    "Message",
    "Model",
    "Problem",
    "Sampling",
    "ScoreRequest",
    "Scored",
    "Solution",
    "Solver",
    "Timings",
    "Tokenizer",
    "advise",
    "asolve",
    "calibrate",
    "compare",
    "extract_answer",
    "load_config",
    "make_control",
    "open_models",
    "p_value",
    "read_records",
    "read_run",
    "regrade",
    "report",
    "run",
    "same_answer",
    "simulate",
    "solve",
    "tune",
]

_HOMES = {
    "atts.api.advise": ("advise",),
    "atts.api.jobs": ("compare", "regrade", "report", "same_answer", "simulate", "tune"),
    "atts.api.solve": ("asolve", "solve"),
    "atts.config": ("Config", "load_config"),
    "atts.conformal.calibration": ("Calibration",),
    "atts.conformal.factory": ("make_control",),
    "atts.conformal.pvalues": ("p_value",),
    "atts.engines.base": (
        "Completion",
        "Engine",
        "GenerateRequest",
        "Sampling",
        "ScoreRequest",
        "Scored",
    ),
    "atts.errors": ("AttsError",),
    "atts.grading.extract": ("extract_answer",),
    "atts.methods.chain": ("Model",),
    "atts.models.prompts": ("Tokenizer",),
    "atts.runs.jobs": ("calibrate", "run"),
    "atts.runs.setup": ("open_models",),
    "atts.exchange.tables": ("read_records",),
    "atts.store.run_directory": ("read_run",),
    "atts.solving.solution": ("Solution",),
    "atts.solving.solver": ("Solver",),
    "atts.types": ("Chain", "Message", "Problem", "Timings"),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  (whatever has that name)
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
