"""Who decides whether the target takes over: one interface, one class per kind of control."""

import math
import struct
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from atts.config import BudgetOptions
from atts.types import Chain, Decision


class Verdict(NamedTuple):
    """A conformal decision."""

    p_value: float
    threshold: float
    """What the p-value is compared with: the nominal rate, unless a control moves it."""
    take_over: bool
    """``p_value <= threshold``, and never at threshold 0; or False, where a budget is spent."""

    @classmethod
    def of(cls, p_value: float, threshold: float) -> "Verdict":
        """Take over iff the p-value is at most the threshold.

        >>> Verdict.of(0.3, 0.4)
        Verdict(p_value=0.3, threshold=0.4, take_over=True)
        """
        # A p-value is 0 where u is 0 and no score is larger; rate 0 must not take over even then.
        return cls(p_value, threshold, threshold > 0.0 and p_value <= threshold)


class Control(ABC):
    """Decides, for one chain alone and at once, from the score of its newest segment."""

    learns = True
    """Whether a decision depends on those before it; if not, several copies decide as one does."""
    _made = 0
    _step = 1

    @abstractmethod
    def decide(self, problem_id: str, turn: int, score: float, u: float) -> Verdict:
        """Whether the target takes over after a segment.

        Args:
            problem_id: the chain's problem.
            turn: the chain's turn, from 0.
            score: nonconformity of the segment; higher = less conforming.
            u: uniform on [0, 1); breaks ties. It derives from the chain's identity.

        Raises:
            CalibrationError: the score is not a finite number, or there is nothing to compare
                it with.
        """

    def look(self, problem_id: str, turn: int, score: float, u: float) -> Verdict:
        """What ``decide`` would say now, with nothing changed by it; arguments and errors are its.

        A control that learns from its decisions overrides this.
        """
        return self.decide(problem_id, turn, score, u)

    def score_threshold(self, problem_id: str, turn: int, u: float) -> float:
        """The smallest score after which the target would take over now.

        ``decide`` with the same problem, turn and u takes over iff the score is at least this:
        ties count as they do there. It is infinite if no finite score would be taken over, minus
        infinite if every one. Found by bisection over all doubles, 64 looks.

        Raises:
            CalibrationError: there is nothing to compare a score with.
        """
        low, high = -_LARGEST - 1, _LARGEST + 1  # refused, taken over
        while high - low > 1:
            middle = (low + high) // 2
            if self.look(problem_id, turn, _double(middle), u).take_over:
                high = middle
            else:
                low = middle
        return -math.inf if high == -_LARGEST else _double(high)

    def restore(self, problem_id: str, turn: int, decision: Decision) -> None:  # noqa: B027
        """Take up a decision that was made before a run was interrupted, as it was made."""

    def take_over_done(self) -> None:  # noqa: B027
        """The target has finished the segment of one take-over, or failed to."""

    def forget(self, problem_id: str) -> None:  # noqa: B027
        """Drop what is held for one problem alone: no chain of it will follow."""

    def state(self) -> dict[str, Any]:
        """What it has learnt, as JSON; without what is held for single problems."""
        return {"made": self._made}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` gave, of a control of the same kind.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        self._made = int(state["made"])

    def next_order(self) -> int:
        """The number of the next decision of the run, from 0; counts on."""
        self._made += self._step
        return self._made - self._step

    def number_apart(self, copy: int, copies: int) -> None:
        """Let one of several copies count on by numbers that no other one gives.

        Args:
            copy: which one it is, from 0.
            copies: how many there may be.
        """
        self._made += -self._made % copies + copy
        self._step = copies

    def take_overs_begun(self, count: int) -> None:  # noqa: B027
        """So many take-overs of a state that was restored are not done yet."""

    def restore_all(self, chains: Iterable[Chain]) -> None:
        """Bring the control to the state in which these chains left it.

        Decisions are taken up in the order in which they were made, which is recorded with them.
        So the state follows from the record alone. Chains that were in flight when a process was
        killed left no record; they are done again, and then count once.
        """
        self.restore_decisions(
            (chain.problem_id, number, decision)
            for chain in chains
            for number, decision in chain.decisions
        )

    def restore_decisions(self, recorded: Iterable[tuple[str, int, Decision]]) -> None:
        """The same, of decisions, each with its problem and the number of its turn."""

        def order(entry: tuple[str, int, Decision]) -> int:
            return -1 if entry[2].order is None else entry[2].order

        for problem_id, number, decision in sorted(recorded, key=order):
            self.restore(problem_id, number, decision)
            self._made = max(self._made, (decision.order or 0) + 1)


def _double(rank: int) -> float:
    """The double that stands ``rank`` places above zero among all of them."""
    value: float = struct.unpack("<d", struct.pack("<q", abs(rank)))[0]
    return math.copysign(value, rank)


_LARGEST: int = struct.unpack("<q", struct.pack("<d", sys.float_info.max))[0]
"""The rank of the largest finite double."""


def checked_rate(rate: float) -> float:
    """A take-over rate, if it is one.

    Raises:
        ValueError: the rate lies outside [0, 1].
    """
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"the take-over rate must lie in [0, 1], got {rate}")
    return rate


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

    def forget(self, problem_id: str) -> None:
        """Drop what a problem's turns have spent, too."""
        self._control.forget(problem_id)
        for key in [key for key in self._spent if key[0] == problem_id]:
            del self._spent[key]

    def state(self) -> dict[str, Any]:
        """That of the control below: nothing is in flight when it is taken up."""
        return super().state() | {"within": self._control.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See ``Control``."""
        super().load_state(state)
        self._control.load_state(state["within"])

    def take_over_done(self) -> None:
        """One take-over fewer is in flight on the target."""
        self._in_flight -= 1

    def take_overs_begun(self, count: int) -> None:
        """So many more are."""
        self._in_flight += count
