"""Split conformal control: a calibration that was made before, and does not change."""

import numpy as np

from atts.conformal.calibration import Calibration
from atts.conformal.control import Control, Verdict, checked_rate
from atts.conformal.groups import TurnGroups
from atts.conformal.pvalues import p_value, require_finite
from atts.errors import CalibrationError

_SWEEPS = 10
"""Of the median polish; it moves little after three or four."""


class SplitControl(Control):
    """Compares each score with a fixed set of calibration scores, gathered beforehand.

    Marginal: with those of all problems. By turn (Mondrian conformal prediction, Vovk, Gammerman
    and Shafer, *Algorithmic Learning in a Random World*, 2005, chapter 4): with those of the same
    turn, where sparse late turns are merged (``TurnGroups``). In each group P(take-over) = rate,
    if its scores are exchangeable.

    Conditional: with those of the score's own problem, which are too few for groups by turn. By
    turn, what the problems' turns have in common is therefore taken out before: each group of
    turns has an effect, found by median polish over problems and turns (Tukey, *Exploratory Data
    Analysis*, 1977, chapter 11), and what is compared, over all turns of the problem, is the
    score less the effect of its turn. The effects come from the calibration alone.

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
        members: dict[int | str, list[float]] = {}
        if self._conditional:
            self._effects = _turn_effects(calibration, self._groups)
            for problem_id in calibration.scores:
                for turn, scores in enumerate(calibration.by_turn(problem_id)):
                    effect = self._effects[self._groups.of(turn)]
                    members.setdefault(problem_id, []).extend(s - effect for s in scores)
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
        return Verdict.of(p_value(scores, score - self._effects[first], u), self._rate)


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
