"""A calibration out of perplexities that somebody else has measured."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from atts.config import Config
from atts.conformal.calibration import Calibration
from atts.errors import CalibrationError
from atts.store.npy import Perplexities
from atts.types import Problem

POOLED = "imported"
"""Stands for the problems of pooled scores, which are not known."""


def calibration_from(
    perplexities: NDArray[np.float64] | Perplexities,
    problems: Sequence[Problem],
    config: Config,
    source: str,
) -> tuple[Calibration, int]:
    """A calibration for a configuration, and how many perplexities were not usable.

    A score is the logarithm of a perplexity, in nats per token. A perplexity that is 0, infinite
    or not a number says that there were no log-probabilities; it is left out.

    Args:
        perplexities: pooled, shape (scores,), for marginal coverage; or by problem number.
        problems: what the numbers count; needed by conditional coverage only.
        config: what the perplexities were measured under; the calibration is bound to it.
        source: names the perplexities in messages.

    Raises:
        CalibrationError: nothing usable is there, or a number has no problem.
    """
    coverage = "conditional" if isinstance(perplexities, dict) else "marginal"
    by_problem = (
        {_named(key, problems, source): values for key, values in perplexities.items()}
        if isinstance(perplexities, dict)
        else {POOLED: [float(value) for value in perplexities]}
    )
    scores: dict[str, tuple[tuple[float | None, ...], ...]] = {
        # Each was measured on the first turn of a chain.
        name: tuple((math.log(value),) for value in values if 0.0 < value < math.inf)
        for name, values in by_problem.items()
    }
    usable = {name: values for name, values in scores.items() if values}
    if not usable:
        raise CalibrationError(f"{source} holds no usable perplexity")
    bound = config.model_copy(
        update={"take_over": config.take_over.model_copy(update={"coverage": coverage})}
    )
    calibration = Calibration(
        version=2,
        fingerprint=bound.calibration_fingerprint(),
        coverage=bound.take_over.coverage,
        scores=usable,
    )
    dropped = sum(map(len, by_problem.values())) - sum(map(len, usable.values()))
    return calibration, dropped


def _named(key: str | int, problems: Sequence[Problem], source: str) -> str:
    if not str(key).isdecimal() or int(key) >= len(problems):
        raise CalibrationError(
            f"{source} has scores for question {key!r}, but {len(problems)} problems are known; "
            "name the set that it was made on by --problems"
        )
    return problems[int(key)].id
