"""Who decides whether the target takes over: one interface, one class per kind of control."""

from bisect import bisect_left, bisect_right
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from atts.config import Coverage
from atts.conformal.calibration import Calibration
from atts.conformal.pvalues import p_value, require_finite, smoothed_rank
from atts.errors import CalibrationError


class Verdict(NamedTuple):
    """A conformal decision: ``take_over`` is ``p_value <= rate``, and never at rate 0."""

    p_value: float
    take_over: bool


class Control(Protocol):
    """Decides, for one chain alone and at once, from the score of its newest segment."""

    def decide(self, problem_id: str, turn: int, score: float, u: float) -> Verdict:
        """``u`` is uniform on [0, 1) and breaks ties; it derives from the chain's identity."""
        ...


class SplitControl:
    """Compares each score with a fixed set of calibration scores, gathered beforehand.

    Marginal: with all of them, pooled. Conditional: with those of the score's own problem.
    What is compared does not change during a run, so a chain's decisions do not depend on what
    the other chains do.

    >>> calibration = Calibration(
    ...     version=1, fingerprint={}, coverage="marginal", scores={"a": (0.2, 0.4), "b": (0.6,)}
    ... )
    >>> SplitControl(calibration, rate=0.4).decide("c", turn=0, score=0.5, u=0.5)
    Verdict(p_value=0.375, take_over=True)
    """

    def __init__(self, calibration: Calibration, rate: float) -> None:
        """``rate`` is the nominal take-over rate, in [0, 1]; 0 never and 1 always takes over.

        Raises:
            ValueError: the rate lies outside [0, 1].
        """
        self._rate = _checked(rate)
        groups: dict[str | None, list[float]] = {}
        for problem_id, scores in calibration.scores.items():
            group = None if calibration.coverage == "marginal" else problem_id
            groups.setdefault(group, []).extend(scores)
        self._coverage = calibration.coverage
        self._sorted: dict[str | None, NDArray[np.float64]] = {
            group: np.sort(np.array(scores)) for group, scores in groups.items()
        }

    def decide(
        self,
        problem_id: str,
        turn: int,  # noqa: ARG002 - one group holds the scores of all turns
        score: float,
        u: float,
    ) -> Verdict:
        """Compare the score with its group's calibration scores.

        Raises:
            CalibrationError: the score is not a finite number, or the problem has no scores
                (conditional only).
        """
        scores = self._sorted.get(None if self._coverage == "marginal" else problem_id)
        if scores is None:
            raise CalibrationError(
                f"the calibration has no scores for problem {problem_id}, and coverage is "
                "conditional; calibrate on the problems that are evaluated"
            )
        return _verdict(p_value(scores, score, u), self._rate)


class SequentialRanks:
    """The control of the calibration pass: each score is compared with those seen before it.

    A score gets its smoothed p-value against the earlier scores of its group (marginal: all;
    conditional: its problem's), then joins them. While the scores of a group are exchangeable,
    these p-values are exactly uniform and independent (Vovk, Nouretdinov and Gammerman, *Testing
    Exchangeability On-Line*, ICML 2003), with no calibration before them; the very first is
    ``u`` itself. So the
    calibration pass takes over at the nominal rate, and the scores that it collects, of all
    turns, come from the policy that they will control. That is why calibration runs the method
    itself: scores of turn 0 alone would say nothing of later turns, which follow take-overs.

    Scores rank in the order in which they arrive. The p-values of a pass that runs chains side
    by side thus depend on that order; their distribution does not, under exchangeability.

    >>> ranks = SequentialRanks(rate=0.4, coverage="marginal")
    >>> ranks.decide("a", turn=0, score=0.5, u=0.75)
    Verdict(p_value=0.75, take_over=False)
    >>> ranks.decide("a", turn=1, score=0.9, u=0.75)
    Verdict(p_value=0.375, take_over=True)
    """

    def __init__(self, rate: float, coverage: Coverage) -> None:
        """``rate`` is the nominal take-over rate, in [0, 1]; 0 never and 1 always takes over.

        Raises:
            ValueError: the rate lies outside [0, 1].
        """
        self._rate = _checked(rate)
        self._coverage = coverage
        self._sorted: dict[str | None, list[float]] = {}

    def decide(
        self,
        problem_id: str,
        turn: int,  # noqa: ARG002 - one group holds the scores of all turns
        score: float,
        u: float,
    ) -> Verdict:
        """Rank the score among the earlier ones of its group, then add it to them.

        Raises:
            CalibrationError: the score is not a finite number; it does not join the others.
        """
        require_finite(score)
        group = None if self._coverage == "marginal" else problem_id
        seen = self._sorted.setdefault(group, [])
        first_equal, first_above = bisect_left(seen, score), bisect_right(seen, score)
        p = smoothed_rank(
            above=len(seen) - first_above, equal=first_above - first_equal, count=len(seen), u=u
        )
        seen.insert(first_above, score)
        return _verdict(p, self._rate)


def _verdict(p: float, rate: float) -> Verdict:
    # p is 0 where u is 0 and no score is larger; rate 0 must not take over even then.
    return Verdict(p, rate > 0.0 and p <= rate)


def _checked(rate: float) -> float:
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"the take-over rate must lie in [0, 1], got {rate}")
    return rate
