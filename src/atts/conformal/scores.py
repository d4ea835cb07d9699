"""Nonconformity of a segment, from the log-probabilities of its tokens.

To add a score: write its function and a ``Score`` of it, here or in another package, which
registers it by an entry point (docs/extending.md). Every kind is recorded with every decision, so
``atts replay`` can compare it with the others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from atts import registry
from atts.config import ScoreOptions
from atts.errors import EngineError

Floats = NDArray[np.floating]
TOP = 20
"""How many of the target's log-probabilities at each position an entropy is estimated from."""


class SegmentLogprobs(NamedTuple):
    """What is known of a segment's n tokens, in nats."""

    target: Floats
    """Log-probability of each under the target, log q(y_i | x, y_<i); shape (n,)."""
    draft: Floats | None = None
    """The same under the draft, log p; shape (n,). None where it was not asked for; it can be only
    where both models have one vocabulary."""
    top: Floats | None = None
    """The ``TOP`` largest log-probabilities under the target at each position, in falling order;
    shape (n, TOP). None where they were not asked for."""


Tokens = Callable[[SegmentLogprobs, ScoreOptions], Floats]
"""A value for each token, shape (n,)."""


def before_unlikely(segment: SegmentLogprobs, options: ScoreOptions) -> int:
    """Where a segment is cut: before its first token under ``floor``, or else its least likely one.

    >>> before_unlikely(SegmentLogprobs(np.array([-1.0, -4.0, -5.0])), ScoreOptions(floor=-3.0))
    1
    >>> before_unlikely(SegmentLogprobs(np.array([-1.0, -0.5, -2.0])), ScoreOptions(floor=-3.0))
    2
    """
    unlikely = segment.target < options.floor
    return int(unlikely.argmax() if unlikely.any() else segment.target.argmin())


@dataclass(frozen=True, kw_only=True)
class Score:
    """A kind of score."""

    name: str
    of: Callable[[SegmentLogprobs, ScoreOptions], float]
    """Higher = less conforming."""
    tokens: Tokens | None = None
    """Given where the score is the largest of these values: a segment is then cut before the first
    token whose value alone would have had the target take over, so that decision and cut are one
    threshold."""
    cut: Callable[[SegmentLogprobs, ScoreOptions], int] = before_unlikely
    """The token before which a segment is cut otherwise (``take_over.mode=rewind``)."""
    needs_draft: bool = False
    """Whether it needs the draft's log-probabilities."""
    needs_top: bool = False
    """Whether it needs the target's largest log-probabilities."""


def mean_nll(segment: SegmentLogprobs, options: ScoreOptions) -> float:  # noqa: ARG001
    """Mean negative log-likelihood per token: the logarithm of the perplexity.

    s = -(1/n) sum_i log q(y_i | x, y_<i) (arXiv 2509.15148, section 3).

    >>> mean_nll(SegmentLogprobs(np.array([-1.0, -3.0])), ScoreOptions())
    2.0
    """
    return -float(np.add.reduce(segment.target) / len(segment.target))


def worst_window(segment: SegmentLogprobs, options: ScoreOptions) -> float:
    """The largest mean negative log-likelihood of ``window`` tokens in a row.

    One bad step does not drown in a long segment. A segment shorter than the window is one.

    >>> logprobs = SegmentLogprobs(np.array([-1.0, -3.0, -5.0, -1.0]))
    >>> worst_window(logprobs, ScoreOptions(window=2))
    4.0
    """
    sums = _window_sums(segment, options)
    return -float(np.minimum.reduce(sums)) / min(options.window, len(segment.target))


def worst_window_begins(segment: SegmentLogprobs, options: ScoreOptions) -> int:
    """Where the worst window begins.

    >>> logprobs = SegmentLogprobs(np.array([-1.0, -3.0, -5.0, -1.0]))
    >>> worst_window_begins(logprobs, ScoreOptions(window=2))
    1
    """
    return int(_window_sums(segment, options).argmin())


def _window_sums(segment: SegmentLogprobs, options: ScoreOptions) -> Floats:
    window = min(options.window, len(segment.target))
    sums = np.zeros(len(segment.target) + 1)
    sums[1:] = segment.target
    np.add.accumulate(sums, out=sums)
    return sums[window:] - sums[:-window]


def unlikely_share(segment: SegmentLogprobs, options: ScoreOptions) -> float:
    """The share of tokens whose log-probability is under ``floor``.

    >>> logprobs = SegmentLogprobs(np.array([-1.0, -3.0, -5.0, -1.0]))
    >>> unlikely_share(logprobs, ScoreOptions(floor=-2.0))
    0.5
    """
    return int(np.count_nonzero(segment.target < options.floor)) / len(segment.target)


def surprises(segment: SegmentLogprobs, options: ScoreOptions) -> Floats:  # noqa: ARG001
    """-log q(y_i | x, y_<i)."""
    return -segment.target


def log_ratios(segment: SegmentLogprobs, options: ScoreOptions) -> Floats:  # noqa: ARG001
    """Log p(y_i | x, y_<i) - log q(y_i | x, y_<i).

    Speculative sampling (arXiv 2211.17192) keeps y_i with probability min(1, q/p), so it rejects
    where this exceeds -log U with U uniform on [0, 1].
    """
    return _of_draft(segment) - segment.target


def draft_surprises(segment: SegmentLogprobs, options: ScoreOptions) -> Floats:  # noqa: ARG001
    """-log p(y_i | x, y_<i): where the draft itself took an unlikely way."""
    return -_of_draft(segment)


def excess_surprises(segment: SegmentLogprobs, options: ScoreOptions) -> Floats:  # noqa: ARG001
    """-log q(y_i) - H_i, with the entropy H_i of the target's distribution at that position.

    Where the target itself would have many ways to go on, one of them is no surprise. H is taken
    from the largest probabilities, and all others as if they were one token, so it is too small
    rather than too large.

    >>> sure, unsure = np.log([[0.98, 0.02], [0.5, 0.5]])
    >>> segment = SegmentLogprobs(np.log([0.02, 0.5]), top=np.stack([sure, unsure]))
    >>> (excess_surprises(segment, ScoreOptions()).round(2) + 0.0).tolist()
    [3.81, 0.0]
    """
    if segment.top is None:
        raise EngineError(
            "the score needs the largest log-probabilities at each position, and the target's "
            "engine gave none: take another take_over.score.kind"
        )
    rest = np.clip(1.0 - np.exp(segment.top).sum(axis=1), 1e-12, None)
    entropy = -(np.exp(segment.top) * segment.top).sum(axis=1) - rest * np.log(rest)
    excess: Floats = -segment.target - entropy
    return excess


def _of_draft(segment: SegmentLogprobs) -> Floats:
    if segment.draft is None:
        raise EngineError(
            "the score needs the log-probabilities of what the draft wrote, and its engine gave "
            "none: take another take_over.score.kind"
        )
    return segment.draft


def largest(tokens: Tokens) -> Callable[[SegmentLogprobs, ScoreOptions], float]:
    """The score that is the largest value of a token."""

    def of(segment: SegmentLogprobs, options: ScoreOptions) -> float:
        return float(np.maximum.reduce(tokens(segment, options)))

    return of


MEAN = Score(name="mean", of=mean_nll)
WORST_WINDOW = Score(name="worst-window", of=worst_window, cut=worst_window_begins)
UNLIKELY_SHARE = Score(name="unlikely-share", of=unlikely_share)
LARGEST_SURPRISE = Score(name="largest-surprise", of=largest(surprises), tokens=surprises)
RATIO = Score(name="ratio", of=largest(log_ratios), tokens=log_ratios, needs_draft=True)
EXCESS_SURPRISE = Score(
    name="excess-surprise", of=largest(excess_surprises), tokens=excess_surprises, needs_top=True
)
DRAFT_SURPRISE = Score(
    name="draft-surprise", of=largest(draft_surprises), tokens=draft_surprises, needs_draft=True
)


def all_scores(segment: SegmentLogprobs, options: ScoreOptions) -> dict[str, float]:
    """A segment's score by every kind that can be computed; the one decided by is ``options.kind``.

    Raises:
        EngineError: that one cannot.

    >>> all_scores(SegmentLogprobs(np.array([-1.0, -3.0])), ScoreOptions(floor=-2.0))
    {'mean': 2.0, 'worst-window': 2.0, 'unlikely-share': 0.5, 'largest-surprise': 3.0}
    """

    def can_be(score: Score) -> bool:
        without_draft = score.needs_draft and segment.draft is None
        return not without_draft and not (score.needs_top and segment.top is None)

    return {
        name: score.of(segment, options)
        for name, score in registry.SCORES.found.items()
        if name == options.kind or can_be(score)
    }
