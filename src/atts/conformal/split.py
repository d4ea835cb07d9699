"""Split conformal control: a calibration that was made before, and does not change."""

import numpy as np
from numpy.typing import NDArray

from atts.conformal.calibration import Calibration
from atts.conformal.control import Control, Verdict, checked_rate
from atts.conformal.groups import FEWEST, TurnGroups
from atts.conformal.pvalues import p_value
from atts.errors import CalibrationError


class SplitControl(Control):
    """Compares each score with a fixed set of calibration scores, gathered beforehand.

    Marginal: with those of all problems. Conditional: with those of the score's own problem.
    By turn (Mondrian conformal prediction, Vovk, Gammerman and Shafer, *Algorithmic Learning in a
    Random World*, 2005, chapter 4): with those of the same turn, where sparse late turns are
    merged (``TurnGroups``). In each group P(take-over) = rate, if its scores are exchangeable.

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
        coverage = calibration.coverage
        self._conditional = coverage == "conditional"
        problems = {"": calibration.by_turn()}
        if self._conditional:
            problems = {name: calibration.by_turn(name) for name in calibration.scores}
        self._groups: dict[str, TurnGroups] = {}
        self._sorted: dict[tuple[str, int], NDArray[np.float64]] = {}
        for problem_id, turns in problems.items():
            if not by_turn:
                turns = [[score for scores in turns for score in scores]]
            groups = TurnGroups([len(scores) for scores in turns], FEWEST[coverage])
            members: dict[int, list[float]] = {}
            for turn, scores in enumerate(turns):
                members.setdefault(groups.of(turn), []).extend(scores)
            self._groups[problem_id] = groups
            for first, merged in members.items():
                self._sorted[problem_id, first] = np.sort(np.array(merged))

    def decide(self, problem_id: str, turn: int, score: float, u: float) -> Verdict:
        """Compare the score with its group's calibration scores.

        Raises:
            CalibrationError: the score is not a finite number, or the problem has no scores
                (conditional only).
        """
        name = problem_id if self._conditional else ""
        groups = self._groups.get(name)
        if groups is None:
            raise CalibrationError(
                f"the calibration has no scores for problem {problem_id}, and coverage is "
                "conditional; calibrate on the problems that are evaluated"
            )
        return Verdict.of(p_value(self._sorted[name, groups.of(turn)], score, u), self._rate)
