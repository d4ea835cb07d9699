"""How well a score tells wrong chains from right ones."""

import numpy as np
from numpy.typing import NDArray

from atts.analysis.recording import Recording
from atts.grading.metrics import Interval
from atts.types import Record


class Separation(Record):
    """The AUROC of one kind of score, with its interval (95 %, clustered by problem)."""

    kind: str
    auroc: Interval
    right: int
    """Right chains, each with the mean of its segments' scores."""
    wrong: int


def separations(recording: Recording, resamples: int = 2000) -> list[Separation]:
    """Each kind of score that is recorded for every segment, if right and wrong chains are known.

    The AUROC is the chance that a wrong chain has a higher mean score than a right one, ties
    counted half. Between chains of all problems: a score that only tells hard problems from easy
    ones separates too.
    """
    chains = [chain for chain in recording.chains if chain.steps and chain.right is not None]
    right = np.array([chain.right for chain in chains], dtype=bool)
    if not chains or right.all() or not right.any():
        return []
    kinds = sorted(set.intersection(*(set(step.scores) for c in chains for step in c.steps)))
    _, problems = np.unique([chain.problem_id for chain in chains], return_inverse=True)
    return [
        Separation(
            kind=kind,
            auroc=_auroc(
                np.array([np.mean([step.scores[kind] for step in c.steps]) for c in chains]),
                right,
                problems,
                resamples,
            ),
            right=int(right.sum()),
            wrong=int((~right).sum()),
        )
        for kind in kinds
    ]


def _auroc(
    scores: NDArray[np.float64],
    right: NDArray[np.bool_],
    problems: NDArray[np.int64],
    resamples: int,
) -> Interval:
    """With wins[a, b], the pairs of a wrong chain of problem a and a right one of b that are in
    order, drawing problem a w_a times gives w' wins w over (w' wrongs)(w' rights).
    """
    count = int(problems.max()) + 1
    rights, wrongs = (np.bincount(problems[side], minlength=count) for side in (right, ~right))
    wins = np.zeros((count, count))
    for score, problem in zip(scores[~right], problems[~right], strict=True):
        ordered = (score > scores[right]) + 0.5 * (score == scores[right])
        wins[problem] += np.bincount(problems[right], weights=ordered, minlength=count)
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=resamples)
    pairs = (draws @ wrongs) * (draws @ rights)
    drawn = ((draws @ wins) * draws).sum(axis=1)[pairs > 0] / pairs[pairs > 0]
    low, high = np.quantile(drawn, [0.025, 0.975])
    estimate = float(wins.sum() / (rights.sum() * wrongs.sum()))
    return Interval(estimate=estimate, low=float(low), high=float(high))
