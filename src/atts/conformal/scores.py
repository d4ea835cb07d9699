"""Nonconformity of a segment, from its log-probabilities under the target.

To add a score: write its function and a ``Score`` of it, here or in another package, which
registers it by an entry point (docs/extending.md). Every kind is recorded with every decision, so
``atts replay`` can compare it with the others.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from atts import registry
from atts.config import ScoreOptions

Logprobs = NDArray[np.floating]
"""Log-probabilities of a segment's tokens under the target, shape (tokens,), in nats."""


class Score(NamedTuple):
    """A kind of score."""

    name: str
    of: Callable[[Logprobs, ScoreOptions], float]
    """Higher = less conforming."""


def mean_nll(logprobs: Logprobs, options: ScoreOptions) -> float:  # noqa: ARG001
    """Mean negative log-likelihood per token: the logarithm of the perplexity.

    s = -(1/n) sum_i log q(y_i | x, y_<i) (arXiv 2509.15148, section 3).

    >>> mean_nll(np.array([-1.0, -3.0]), ScoreOptions())
    2.0
    """
    return -float(logprobs.mean())


def worst_window(logprobs: Logprobs, options: ScoreOptions) -> float:
    """The largest mean negative log-likelihood of ``window`` tokens in a row.

    One bad step does not drown in a long segment. A segment shorter than the window is one.

    >>> worst_window(np.array([-1.0, -3.0, -5.0, -1.0]), ScoreOptions(window=2))
    4.0
    """
    window = min(options.window, len(logprobs))
    sums = np.cumsum(np.concatenate([[0.0], logprobs.astype(np.float64)]))
    return -float((sums[window:] - sums[:-window]).min()) / window


def unlikely_share(logprobs: Logprobs, options: ScoreOptions) -> float:
    """The share of tokens whose log-probability is under ``floor``.

    >>> unlikely_share(np.array([-1.0, -3.0, -5.0, -1.0]), ScoreOptions(floor=-2.0))
    0.5
    """
    return float((logprobs < options.floor).mean())


MEAN = Score("mean", mean_nll)
WORST_WINDOW = Score("worst-window", worst_window)
UNLIKELY_SHARE = Score("unlikely-share", unlikely_share)


def all_scores(logprobs: Logprobs, options: ScoreOptions) -> dict[str, float]:
    """A segment's score by every kind; the one decided by is ``options.kind``.

    >>> all_scores(np.array([-1.0, -3.0]), ScoreOptions(floor=-2.0))
    {'mean': 2.0, 'worst-window': 2.0, 'unlikely-share': 0.5}
    """
    return {name: score.of(logprobs, options) for name, score in registry.SCORES.found.items()}
