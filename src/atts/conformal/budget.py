"""Budget: hard caps on take-overs, on top of any control."""

from collections import Counter

from atts.config import BudgetOptions
from atts.conformal.control import Control, Verdict
from atts.types import Decision


class BudgetControl(Control):
    """Refuses take-overs beyond a budget, at once: the chain goes on with the draft.

    - ``per_turn``: at most so many take-overs of one problem's chains in one turn. They go to the
      chains that come first. What is recorded counts when a run is resumed.
    - ``in_flight``: at most so many take-overs at a time on the target. Whether one is refused
      depends on how fast the target is, so such runs do not repeat exactly.

    Both hold always, whatever the scores. The realised rate can only be lower than that of the
    control below, whose own guarantee is about what it asks for: ``p_value <= threshold``.

    >>> from atts.conformal.online import OnlineControl
    >>> control = BudgetControl(OnlineControl(1.0, "marginal"), BudgetOptions(per_turn=1))
    >>> control.decide("a", turn=0, score=0.5, u=0.75)
    Verdict(p_value=0.75, threshold=1.0, take_over=True)
    >>> control.decide("a", turn=0, score=0.9, u=0.75)
    Verdict(p_value=0.375, threshold=1.0, take_over=False)
    """

    def __init__(self, control: Control, budget: BudgetOptions) -> None:
        self._control = control
        self._budget = budget
        self._spent: Counter[tuple[str, int]] = Counter()
        self._in_flight = 0

    def decide(self, problem_id: str, turn: int, score: float, u: float) -> Verdict:
        """Ask the control below, and refuse its take-over where the budget is spent.

        Raises:
            CalibrationError: see the control below.
        """
        verdict = self._within(problem_id, turn, self._control.decide(problem_id, turn, score, u))
        self._spent[problem_id, turn] += verdict.take_over
        self._in_flight += verdict.take_over
        return verdict

    def look(self, problem_id: str, turn: int, score: float, u: float) -> Verdict:
        """What the control below would say, within the budget as it stands.

        Raises:
            CalibrationError: see the control below.
        """
        return self._within(problem_id, turn, self._control.look(problem_id, turn, score, u))

    def _within(self, problem_id: str, turn: int, verdict: Verdict) -> Verdict:
        per_turn, in_flight = self._budget.per_turn, self._budget.in_flight
        spent = per_turn is not None and self._spent[problem_id, turn] >= per_turn
        busy = in_flight is not None and self._in_flight >= in_flight
        return verdict._replace(take_over=False) if spent or busy else verdict

    def restore(self, problem_id: str, turn: int, decision: Decision) -> None:
        """Count a recorded take-over; it is no longer in flight."""
        self._control.restore(problem_id, turn, decision)
        self._spent[problem_id, turn] += decision.take_over

    def take_over_done(self) -> None:
        """One take-over fewer is in flight on the target."""
        self._in_flight -= 1
