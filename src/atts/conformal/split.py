"""Split conformal control, and the calibration pass that its scores come from.

Where whole problems are exchangeable, and the scores of a problem with each other, the rate eps is
nearly held: with N scores in all, those of the new problem included, and at most m of one problem,
the share of its scores that are taken over is, on average over problems, between
eps - eps (m - 1) / N and eps + (1 - eps) (m - 1) / N. For: let V be the smoothed rank of a score
among all N, divided by N, which is uniform over all scores. If its problem has n scores, p leaves
out the other n - 1, of which between none and all are larger, so
(N - n + 1) p <= N V <= (N - n + 1) p + n - 1.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from atts.conformal.calibration import Calibration, ProblemScores
from atts.conformal.control import Control, Verdict, checked_rate
from atts.conformal.pvalues import TurnGroups, p_value, require_finite
from atts.errors import CalibrationError
from atts.types import ChainKey

_SWEEPS = 10
"""Of the median polish; it moves little after three or four."""

_Chain = list[tuple[int, float]]
"""The first turn of the group, and the score, of each of a chain's scored turns."""
_Shares = tuple[NDArray[np.float64], NDArray[np.float64]]
"""P-values, ascending, and the share of scores with at most that."""


class SplitControl(Control):
    """Compares each score with a fixed set of calibration scores, gathered beforehand.

    Marginal: with those of all problems. By turn (Mondrian conformal prediction, Vovk, Gammerman
    and Shafer, *Algorithmic Learning in a Random World*, 2005, chapter 4): with those of the same
    turn, where sparse late turns are merged (``TurnGroups``). In each group P(take-over) = rate,
    if its scores are exchangeable.

    Conditional: with those of the score's own problem, which are too few for groups by turn. By
    turn, what the problems' turns have in common is therefore taken out, twice: the effect of each
    group of turns from the scores (median polish: Tukey, *Exploratory Data Analysis*, 1977, chapter
    11), and the spread of each from the p-values; docs/statistics.md has both. Both come from the
    calibration alone.

    What is compared does not change during a run, so a chain's decisions do not depend on what
    the other chains do.

    >>> calibration = Calibration(
    ...     version=2,
    ...     fingerprint={},
    ...     coverage="marginal",
    ...     scores={"a": ((0.2,), (0.4,)), "b": ((0.6,),)},
    ... )
    >>> SplitControl(calibration, rate=0.4).decide("c", turn=0, score=0.5, u=0.5)
    Verdict(p_value=0.375, threshold=0.4, take_over=True)
    """

    learns = False

    def __init__(self, calibration: Calibration, rate: float, by_turn: bool = True) -> None:
        """``rate`` is the nominal take-over rate, in [0, 1]; 0 never and 1 always takes over.

        Raises:
            ValueError: the rate lies outside [0, 1].
        """
        self._rate = checked_rate(rate)
        turns = calibration.by_turn()
        if not by_turn:
            turns = [[score for scores in turns for score in scores]]
        self._groups = TurnGroups([len(scores) for scores in turns])
        self._conditional = calibration.coverage == "conditional"
        self._effects = dict.fromkeys(self._groups.first_turns, 0.0)
        self._shares: dict[int, _Shares] = {}
        members: dict[int | str, list[float]] = {}
        if self._conditional:
            self._effects = _turn_effects(calibration, self._groups)
            problems = {name: self._adjusted(chains) for name, chains in calibration.scores.items()}
            for problem_id, chains in problems.items():
                members[problem_id] = [score for chain in chains for _, score in chain]
            self._shares = _shares(problems.values())
        else:
            for turn, scores in enumerate(turns):
                members.setdefault(self._groups.of(turn), []).extend(scores)
        self._sorted = {group: np.sort(np.array(scores)) for group, scores in members.items()}

    def decide(self, problem_id: str, turn: int, score: float, u: float) -> Verdict:
        """Compare the score with its group's calibration scores.

        Raises:
            CalibrationError: the score is not a finite number, or the problem has no scores
                (conditional only).
        """
        require_finite(score)
        first = self._groups.of(turn)
        scores = self._sorted.get(problem_id if self._conditional else first)
        if scores is None:
            raise CalibrationError(
                f"the calibration has no scores for problem {problem_id}, and coverage is "
                "conditional; calibrate on the problems that are evaluated"
            )
        p = p_value(scores, score - self._effects[first], u)
        if self._conditional and first in self._shares:
            p = float(np.interp(p, *self._shares[first]))
        return Verdict.of(p, self._rate)

    def _adjusted(self, chains: ProblemScores) -> list[_Chain]:
        """Each chain's scores, less the effect of their group of turns, which stands beside."""
        groups = [self._groups.of(turn) for turn in range(max(map(len, chains)))]
        return [
            [
                (group, score - self._effects[group])
                for group, score in zip(groups, chain, strict=False)
                if score is not None
            ]
            for chain in chains
        ]


def taken_over(
    calibration: Calibration, rate: float, by_turn: bool = True
) -> dict[str, tuple[float, int]]:
    """By problem, how many of a marginal calibration's own scores are taken over, and out of how
    many, where each is ranked among all of its group, itself included.

    Those of a group are ``rate`` of it, exactly; how they are spread over problems tells how well
    one calibration knows its thresholds. Of k tied scores the mean over their tie-breakers counts.

    >>> taken_over(
    ...     Calibration(
    ...         version=2,
    ...         fingerprint={},
    ...         coverage="marginal",
    ...         scores={"a": ((0.2,), (0.6,)), "b": ((0.6,), (0.9,))},
    ...     ),
    ...     rate=0.5,
    ... )
    {'a': (0.5, 2), 'b': (1.5, 2)}
    """
    turns = calibration.by_turn()
    groups = TurnGroups([len(scores) for scores in turns] if by_turn else [])
    members: dict[int, list[float]] = defaultdict(list)
    for turn, scores in enumerate(turns):
        members[groups.of(turn)].extend(scores)
    ordered = {first: np.sort(scores) for first, scores in members.items()}

    def share(turn: int, score: float) -> float:
        group = ordered[groups.of(turn)]
        not_below = len(group) - int(np.searchsorted(group, score, side="left"))
        above = len(group) - int(np.searchsorted(group, score, side="right"))
        return min(max((rate * len(group) - above) / (not_below - above), 0.0), 1.0)

    found = {}
    for problem_id, chains in calibration.scores.items():
        shares = [
            share(turn, score)
            for chain in chains
            for turn, score in enumerate(chain)
            if score is not None
        ]
        found[problem_id] = (math.fsum(shares), len(shares))
    return found


def _shares(problems: Iterable[list[_Chain]]) -> dict[int, _Shares]:
    """By group of turns, the share of the calibration's scores whose p-value is at most x.

    The p-value is that of ``p_value`` among the problem's other chains, and the share its mean over
    the tie-breaker, so a broken line: (above + U (1 + equal)) / (N + 1) is uniform on an interval.
    """
    ends: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for chains in problems:
        for number, chain in enumerate(chains):
            others = np.sort([s for n, c in enumerate(chains) if n != number for _, s in c])
            for group, score in chain:
                low, high = p_value(others, score, 0.0), _largest(others, score)
                ends[group].append((low, high))
    return {group: _mean_of_uniforms(np.array(pairs)) for group, pairs in ends.items()}


def _largest(others: NDArray[np.float64], score: float) -> float:
    """What the p-value of a score tends to as its tie-breaker tends to 1."""
    not_below = len(others) - int(np.searchsorted(others, score, side="left"))
    return (not_below + 1) / (len(others) + 1)


def _mean_of_uniforms(ends: NDArray[np.float64]) -> _Shares:
    """The mean distribution function of uniform ones on intervals, ``ends`` of shape (n, 2).

    Knots and values of a broken line, each of shape (knots,).
    """
    knots, index = np.unique(ends, return_inverse=True)
    density = 1.0 / (ends[:, 1] - ends[:, 0])
    index = index.reshape(ends.shape)
    slopes = np.zeros(len(knots))
    np.add.at(slopes, index[:, 0], density)
    np.subtract.at(slopes, index[:, 1], density)
    rise = np.cumsum(slopes)[:-1] * np.diff(knots) / len(ends)
    return knots, np.concatenate([[0.0], np.cumsum(rise)])


def _turn_effects(calibration: Calibration, groups: TurnGroups) -> dict[int, float]:
    """How much higher the scores of a group of turns are, all else of a problem being equal.

    Late turns are reached by hard problems, which have higher scores in every turn: so medians by
    turn and by problem are taken out in alternation, not those by turn alone.
    """
    effects = dict.fromkeys(groups.first_turns, 0.0)
    if len(effects) == 1:
        return effects
    rows = [
        (problem_id, groups.of(turn), score)
        for problem_id, chains in calibration.scores.items()
        for chain in chains
        for turn, score in enumerate(chain)
        if score is not None
    ]
    names = {problem_id: number for number, problem_id in enumerate(calibration.scores)}
    problem = np.array([names[problem_id] for problem_id, _, _ in rows])
    first = np.array([group for _, group, _ in rows])
    left = np.array([score for _, _, score in rows])
    for _ in range(_SWEEPS):
        for number in range(len(names)):
            left[problem == number] -= np.median(left[problem == number])
        for group in effects:
            shift = float(np.median(left[first == group]))
            effects[group] += shift
            left[first == group] -= shift
    return effects


def rounds(problem_ids: Sequence[str], samples: int) -> list[list[ChainKey]]:
    """The first quarter of a pass's chains, and the others: first samples first.

    >>> [[key.sample for key in keys] for keys in rounds(["a", "b"], samples=4)]
    [[0, 0], [1, 1, 2, 2, 3, 3]]
    """
    keys = [ChainKey(name, sample) for sample in range(samples) for name in problem_ids]
    first = -(-len(keys) // 4)
    return [each for each in (keys[:first], keys[first:]) if each]


class CalibratingControl(Control):
    """Decides a round of a calibration pass by the scores of the round before.

    A run's later scores depend on which chains were taken over before, so the chains that it is
    calibrated on have to be taken over by the same rule. That is split control with the scores of
    a calibration; the first round, which has none, takes over at random, with the nominal rate.
    Ranks among the scores that have arrived are no way round that: segments with high scores are
    often the long ones, which arrive together, late.

    Nothing here depends on the order in which chains end.

    >>> CalibratingControl(rate=0.4, by_turn=True, earlier=None).decide("a", 0, score=9.0, u=0.5)
    Verdict(p_value=0.5, threshold=0.4, take_over=False)
    """

    learns = False

    def __init__(self, rate: float, by_turn: bool, earlier: Calibration | None) -> None:
        """``earlier`` holds the scores of the round before.

        Raises:
            ValueError: the rate lies outside [0, 1].
        """
        self._rate = checked_rate(rate)
        self._split = SplitControl(earlier, rate, by_turn) if earlier else None
        # Conditional: a problem whose first chain failed, or is in this round, has none yet.
        conditional = earlier is not None and earlier.coverage == "conditional"
        self._known = set(earlier.scores) if earlier and conditional else None

    def decide(self, problem_id: str, turn: int, score: float, u: float) -> Verdict:
        """Compare the score with those of the round before, if there are any to compare with.

        Raises:
            CalibrationError: the score is not a finite number.
        """
        require_finite(score)
        if self._split is None or (self._known is not None and problem_id not in self._known):
            return Verdict.of(u, self._rate)
        return self._split.decide(problem_id, turn, score, u)
