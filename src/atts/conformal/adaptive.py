"""Adaptive control: a threshold that follows the take-overs, and holds the rate for any scores."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atts.config import AdaptiveOptions
from atts.conformal.control import Control, Verdict, checked_rate
from atts.types import Decision, Record


class Tracked(Record):
    """How a group of decisions stands against the guarantee."""

    group: str
    """``all``, ``turn 3`` or ``problem x``."""
    decisions: int
    deviation: float
    """Share of them that the threshold took over, less the nominal rate."""
    bound: float
    """Most that the deviation can be, in absolute value, whatever the scores."""


class AdaptiveControl(Control):
    """Moves the threshold on the p-values of another control, after every decision.

    With err_t = 1 where the t-th p-value is at most the threshold q_t, and the nominal rate eps,

        q_{t+1} = q_t + eta_t (eps - err_t),    q_1 = eps

    A take-over lowers the threshold and a decision without one raises it. No assumption is made
    on the scores, which may drift, switch, or be chosen by an adversary that knows q_t: ``tracked``
    gives the bound on how far off the rate can be, and where each group stands. With a tracker for
    each turn or problem it holds for each; for both at once q_t = eps + a[turn] + b[problem], and
    every decision moves both. docs/statistics.md has the bounds and where they come from (arXiv
    2106.00170, 2307.16895, 2402.01139, 2501.08330).

    >>> from atts.conformal.online import OnlineControl
    >>> control = AdaptiveControl(OnlineControl(0.5, "marginal"), 0.5, AdaptiveOptions(track="all"))
    >>> control.decide("a", turn=0, score=0.5, u=0.75)
    Verdict(p_value=0.75, threshold=0.5, take_over=False)
    >>> control.decide("a", turn=0, score=0.9, u=0.75)
    Verdict(p_value=0.375, threshold=0.55, take_over=True)
    >>> control.tracked()
    [Tracked(group='all', decisions=2, deviation=0.0, bound=2.9999999999999996)]
    """

    def __init__(self, ranks: Control, rate: float, options: AdaptiveOptions) -> None:
        """Track on the p-values of ``ranks``.

        Raises:
            ValueError: the rate lies outside [0, 1], or steps decay though turns and problems are
                tracked together, for which there is no bound.
        """
        if options.decay and options.track == "turn+problem":
            raise ValueError(
                "decaying steps have no guarantee over turns and problems together: set "
                "adaptive.decay=0, or adaptive.track to all, turn or problem"
            )
        self._ranks = ranks
        self._rate = checked_rate(rate)
        self._options = options
        self._all = _Tracker()
        self._turns: dict[int, _Tracker] = defaultdict(_Tracker)
        self._problems: dict[str, _Tracker] = defaultdict(_Tracker)

    def decide(self, problem_id: str, turn: int, score: float, u: float) -> Verdict:
        """Compare the p-value with the threshold as it stands, then move the threshold.

        Raises:
            CalibrationError: see the control whose p-values these are.
        """
        p = self._ranks.decide(problem_id, turn, score, u).p_value
        trackers = self._trackers(problem_id, turn)
        verdict = Verdict.of(p, self._threshold(trackers))
        self._follow(trackers, verdict.take_over)
        return verdict

    def look(self, problem_id: str, turn: int, score: float, u: float) -> Verdict:
        """Compare the p-value with the threshold as it stands, and leave it there.

        Raises:
            CalibrationError: see the control whose p-values these are.
        """
        p = self._ranks.look(problem_id, turn, score, u).p_value
        return Verdict.of(p, self._threshold(self._trackers(problem_id, turn)))

    def restore(self, problem_id: str, turn: int, decision: Decision) -> None:
        """Move the threshold as the recorded decision did.

        What counts is what the threshold said, which a budget may have refused.
        """
        self._ranks.restore(problem_id, turn, decision)
        threshold = self._rate if decision.threshold is None else decision.threshold
        take_over = Verdict.of(decision.p_value, threshold).take_over
        self._follow(self._trackers(problem_id, turn), take_over)

    def forget(self, problem_id: str) -> None:
        """Drop a problem's tracker, too."""
        self._ranks.forget(problem_id)
        self._problems.pop(problem_id, None)

    def state(self) -> dict[str, Any]:
        """Where the trackers of all decisions and of the turns stand, and the ranks below."""
        return super().state() | {
            "ranks": self._ranks.state(),
            "all": self._all.state(),
            "turns": {str(turn): tracker.state() for turn, tracker in self._turns.items()},
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See ``Control``."""
        super().load_state(state)
        self._ranks.load_state(state["ranks"])
        self._all = _Tracker.of(state["all"])
        self._turns.clear()
        self._turns |= {int(turn): _Tracker.of(each) for turn, each in state["turns"].items()}

    def tracked(self) -> list[Tracked]:
        """Where all decisions together stand against the guarantee, and each group."""
        total = self._all.decisions
        if not total:
            return []
        groups = [(f"turn {turn}", tracker) for turn, tracker in sorted(self._turns.items())]
        groups += [(f"problem {name}", tracker) for name, tracker in sorted(self._problems.items())]
        return [
            Tracked(
                group=group,
                decisions=tracker.decisions,
                deviation=tracker.taken / tracker.decisions - self._rate,
                bound=most / tracker.decisions,
            )
            for group, tracker, most in (
                ("all", self._all, self._most_overall()),
                *((group, tracker, self._most(tracker.decisions)) for group, tracker in groups),
            )
        ]

    def _trackers(self, problem_id: str, turn: int) -> list["_Tracker"]:
        """Those whose offsets make the threshold of a decision."""
        track = self._options.track
        if track == "turn+problem":
            return [self._turns[turn], self._problems[problem_id]]
        if track == "turn":
            return [self._turns[turn]]
        return [self._problems[problem_id]] if track == "problem" else [self._all]

    def _threshold(self, trackers: list["_Tracker"]) -> float:
        threshold = self._rate
        for tracker in trackers:
            threshold += tracker.offset
        return threshold

    def _follow(self, trackers: list["_Tracker"], take_over: bool) -> None:
        step, decay = self._options.step, self._options.decay
        missed = self._rate - take_over
        for tracker in trackers:
            tracker.decisions += 1
            tracker.taken += take_over
            if decay:
                step = self._options.step * math.pow(tracker.decisions, -decay)
            tracker.offset += step * missed
        if trackers[0] is not self._all:
            self._all.decisions += 1
            self._all.taken += take_over

    def _most(self, count: int) -> float:
        """Most that the deviations of a group of ``count`` decisions can add up to.

        Turns and problems together: q = eps + a[turn] + b[problem]. Let V be the squared length of
        all a and b. A decision moves both by eta (eps - err), and so adds to V

            2 eta (eps - err) (q - eps) + 2 eta^2 (eps - err)^2

        An err of 1 needs q > 0 and an err of 0 needs q < 1, so the first term is at most
        2 eta eps (1 - eps), and the second at most 2 eta^2 max(eps, 1 - eps)^2. The deviations of a
        group add up to -a / eta exactly, and |a| <= sqrt(V): the argument of gradient equilibrium
        (arXiv 2501.08330), with the constants worked out.
        """
        step, decay, rate = self._options.step, self._options.decay, self._rate
        most = max(rate, 1.0 - rate)
        if self._options.track == "turn+problem":
            return math.sqrt(
                self._all.decisions * (2.0 * rate * (1.0 - rate) / step + 2.0 * most**2)
            )
        if decay:
            return (1.0 + step) / step * math.pow(count, decay)
        return (most + step) / step

    def _most_overall(self) -> float:
        """The same for all decisions: what the groups of one kind can add up to."""
        total = self._all.decisions
        if self._options.track == "all":
            return self._most(total)
        if self._options.track == "turn+problem":
            # By Cauchy and Schwarz over the turns, or over the problems.
            return self._most(total) * math.sqrt(min(len(self._turns), len(self._problems)))
        groups = [*self._turns.values(), *self._problems.values()]
        return sum(self._most(tracker.decisions) for tracker in groups)


@dataclass(slots=True)
class _Tracker:
    """The state of one group of decisions."""

    offset: float = 0.0
    """What it adds to the threshold."""
    decisions: int = 0
    taken: int = 0

    def state(self) -> list[float]:
        return [self.offset, self.decisions, self.taken]

    @classmethod
    def of(cls, state: Sequence[float]) -> "_Tracker":
        offset, decisions, taken = state
        if not math.isfinite(offset):
            raise ValueError(f"a threshold cannot be moved by {offset}")
        return cls(float(offset), int(decisions), int(taken))
