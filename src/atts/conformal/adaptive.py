"""Adaptive control: a threshold that follows the take-overs, and holds the rate for any scores."""

import math
from collections import Counter, defaultdict

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
    r"""Moves the threshold on the p-values of another control, after every decision.

    With err_t = 1 where the t-th p-value is at most the threshold q_t, and the nominal rate eps,

        q_{t+1} = q_t + eta_t (eps - err_t),    q_1 = eps

    A take-over lowers the threshold and a decision without one raises it. No assumption is made
    on the scores, which may drift, switch, or be chosen by an adversary that knows q_t.

    *One tracker, constant step eta.* Above 1 everything is taken over, below 0 nothing, so q stays
    in [-eta, 1 + eta], and the sum of the updates telescopes: after T decisions

        |rate - eps| <= (max(eps, 1 - eps) + eta) / (eta T)

    (adaptive conformal inference: Gibbs and Candes, arXiv 2106.00170, proposition 4.1; the
    quantile tracker of arXiv 2307.16895 in the scale of p-values, which are bounded as it needs).

    *One tracker, decaying steps* eta_t = eta t^-decay, which settle if the scores do:

        |rate - eps| <= (1 + eta) / (eta_T T)

    (Angelopoulos, Barber and Bates, arXiv 2402.01139, the bound for arbitrary sequences).

    With a tracker for each turn or each problem this holds for each, with T its own decisions.

    *Turns and problems at the same time*: q_t = eps + a[turn] + b[problem], and every decision
    moves both by eta (eps - err_t). This is gradient descent on the quantile loss with indicator
    features, whose iterates stay small because the loss is restorative (gradient equilibrium:
    Angelopoulos, Jordan and Tibshirani, arXiv 2501.08330). Here, each step adds at most
    2 eta eps (1 - eps) + 2 eta^2 m^2 to the squared length of (a, b), with m = max(eps, 1 - eps),
    and the deviations of a group add up to -a / eta. So for each turn and each problem, with T_g
    decisions out of all T,

        |rate_g - eps| <= sqrt(T (2 eps (1 - eps) / eta + 2 m^2)) / T_g

    ``tracked`` gives these bounds, and where each group stands.

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
        self._offsets: dict[str, float] = defaultdict(float)
        self._decisions: Counter[str] = Counter()
        self._taken: Counter[str] = Counter()

    def decide(self, problem_id: str, turn: int, score: float, u: float) -> Verdict:
        """Compare the p-value with the threshold as it stands, then move the threshold.

        Raises:
            CalibrationError: see the control whose p-values these are.
        """
        p = self._ranks.decide(problem_id, turn, score, u).p_value
        groups = self._groups(problem_id, turn)
        threshold = self._rate
        for group in groups:
            threshold += self._offsets[group]
        verdict = Verdict.of(p, threshold)
        self._follow(groups, verdict.take_over)
        return verdict

    def restore(self, problem_id: str, turn: int, decision: Decision) -> None:
        """Move the threshold as the recorded decision did.

        What counts is what the threshold said, which a budget may have refused.
        """
        self._ranks.restore(problem_id, turn, decision)
        threshold = self._rate if decision.threshold is None else decision.threshold
        take_over = Verdict.of(decision.p_value, threshold).take_over
        self._follow(self._groups(problem_id, turn), take_over)

    def tracked(self) -> list[Tracked]:
        """Where all decisions together stand against the guarantee, and each group."""
        total, taken = self._decisions["all"], self._taken["all"]
        if not total:
            return []
        groups = sorted(self._decisions.keys() - {"all"})
        overall = taken / total - self._rate
        rows = [
            Tracked(group="all", decisions=total, deviation=overall, bound=self._overall_bound())
        ]
        for group in groups:
            count = self._decisions[group]
            deviation = self._taken[group] / count - self._rate
            bound = self._most(count) / count
            rows.append(Tracked(group=group, decisions=count, deviation=deviation, bound=bound))
        return rows

    def _groups(self, problem_id: str, turn: int) -> list[str]:
        """The trackers that a decision belongs to."""
        track = self._options.track
        if track == "all":
            return ["all"]
        groups = []
        if track != "problem":
            groups.append(f"turn {turn}")
        if track != "turn":
            groups.append(f"problem {problem_id}")
        return groups

    def _follow(self, groups: list[str], take_over: bool) -> None:
        step, decay = self._options.step, self._options.decay
        for group in groups:
            self._decisions[group] += 1
            self._taken[group] += take_over
            if decay:
                step = self._options.step * math.pow(self._decisions[group], -decay)
            self._offsets[group] += step * (self._rate - take_over)
        if groups != ["all"]:
            self._decisions["all"] += 1
            self._taken["all"] += take_over

    def _most(self, count: int) -> float:
        """Most that the deviations of a group of ``count`` decisions can add up to."""
        step, decay, rate = self._options.step, self._options.decay, self._rate
        most = max(rate, 1.0 - rate)
        if self._options.track == "turn+problem":
            return math.sqrt(
                self._decisions["all"] * (2.0 * rate * (1.0 - rate) / step + 2.0 * most**2)
            )
        if decay:
            return (1.0 + step) / step * math.pow(count, decay)
        return (most + step) / step

    def _overall_bound(self) -> float:
        """The same for all decisions: what the groups of one kind can add up to."""
        groups = self._decisions.keys() - {"all"}
        total = self._decisions["all"]
        if self._options.track == "all":
            return self._most(total) / total
        if self._options.track == "turn+problem":
            # By Cauchy and Schwarz over the turns, or over the problems.
            turns = sum(group.startswith("turn ") for group in groups)
            return self._most(total) * math.sqrt(min(turns, len(groups) - turns)) / total
        return sum(self._most(self._decisions[group]) for group in groups) / total
