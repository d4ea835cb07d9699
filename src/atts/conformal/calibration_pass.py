"""The calibration pass: in which rounds its chains are made, and what decides in them."""

from collections.abc import Sequence

from atts.conformal.calibration import Calibration
from atts.conformal.control import Control, Verdict, checked_rate
from atts.conformal.pvalues import require_finite
from atts.conformal.split import SplitControl
from atts.types import ChainKey


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
