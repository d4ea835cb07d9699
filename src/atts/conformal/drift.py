"""The drift alarm: whether a run's scores still look like those of its calibration."""

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable

from atts.conformal.calibration import Calibration
from atts.conformal.pvalues import SortedScores, TurnGroups, smoothed_rank
from atts.types import Chain, Record

LEVEL = 0.01
"""The chance of a false alarm in a whole run, at most."""
FEWEST = 20
"""Problems that a group of turns should have in the calibration."""
_STAY = 0.99
_BETS = (-1.0, 0.0, 1.0)


class Drift(Record):
    """What the alarm says, at the end of a run or so far."""

    alarm: bool
    evidence: float
    """The largest value that a test martingale of any group has had."""
    needed: float
    """The value that gives the alarm: groups / 0.01."""
    problems: int
    """How many problems have been seen."""
    since: str | None = None
    """The problem at which the alarm was given."""
    first_turn: int | None = None
    """The first turn of the group that gave it."""
    upwards: bool | None = None
    """Whether the scores had become larger, so that the target took over more often."""

    def message(self, calibrated: bool, holds: bool = False) -> str | None:
        """What to tell the user; None without an alarm.

        Args:
            calibrated: whether the run decides by a calibration.
            holds: whether its control holds the rate for any scores.
        """
        if not self.alarm:
            return None
        than = "of the calibration" if calibrated else "before"
        if holds:
            effect = "the control follows, so that the take-over rate holds all the same"
        else:
            effect = (
                "the take-over rate may miss the nominal one: calibrate on problems like these, or "
                "set take_over.control=adaptive, which holds the rate for any scores"
            )
        return (
            f"drift: from turn {self.first_turn} on, scores are "
            f"{'higher' if self.upwards else 'lower'} than those {than} (evidence "
            f"{self.evidence:,.0f}, alarm at {self.needed:,.0f}; given at problem {self.since}); "
            f"{effect}"
        )


class Martingale:
    """The simple jumper, a test martingale against uniform, independent p-values.

    Three bets start with a third of the capital each: f(p) = 1 + e (p - 1/2) for e of -1, 0, 1,
    on small p-values, on none, on large ones. Before each p-value a hundredth of the capital is
    spread anew over the three, so that it can turn when the scores do (Vovk, Petej, Nouretdinov,
    Ahlberg, Carlsson and Gammerman, *Retrain or not retrain: conformal test martingales for
    change-point detection*, COPA 2021). Each bet integrates to 1, so under the hypothesis the
    capital is a martingale with mean 1, and by Ville's inequality

        P(it ever reaches c) <= 1 / c

    whenever one looks, and however often.

    >>> martingale = Martingale()
    >>> for p in (0.01, 0.02, 0.01, 0.03):
    ...     martingale.bet(p)
    >>> round(martingale.capital, 2)
    1.95
    """

    def __init__(self) -> None:
        self._capitals = [1.0 / len(_BETS)] * len(_BETS)
        self.capital = 1.0

    def bet(self, p_value: float) -> None:
        """Take one more p-value into account."""
        share = (1.0 - _STAY) * self.capital / len(_BETS)
        self._capitals = [
            (_STAY * capital + share) * (1.0 + bet * (p_value - 0.5))
            for capital, bet in zip(self._capitals, _BETS, strict=True)
        ]
        self.capital = math.fsum(self._capitals)

    @property
    def leans_to_small(self) -> bool:
        """Whether most was won on small p-values, which are those of large scores."""
        return self._capitals[0] > self._capitals[-1]


class DriftAlarm:
    """Tests whether the problems of a run are exchangeable with those of its calibration.

    The chains of a problem are alike, and so are the turns of a chain: all scores together are
    exchangeable with nothing, and a test that took them so would give the alarm in every run. What
    may be exchangeable are *problems*. So of each problem one chain counts, the first sample that
    did not fail and has a score, and within a group of turns its first score. Against those of one
    chain of each problem of the calibration that score gets a smoothed sequential rank, then joins.
    If problems are exchangeable, these p-values are independent and uniform in each group, and a
    martingale bets against that. Conditional: a problem has its own calibration chains, so its
    p-value is among them, and p-values of different problems are independent as they stand.

    Groups of turns depend on each other, so the alarm of each is set at 0.01 over the number of
    groups: the chance of a false alarm is at most 0.01 in the whole run, whenever one looks.

    Problems count in the order of the run, not in that in which chains end, which depends on
    their scores. So what the alarm says follows from the chains alone.
    """

    def __init__(
        self,
        calibration: Calibration | None,
        problem_ids: Iterable[str],
        samples: int,
        draw: Callable[[str, int, int], float],
    ) -> None:
        """Without a calibration the problems of the run are compared with each other.

        Args:
            calibration: what the run decides by, if anything.
            problem_ids: the problems of the run, in its order.
            samples: the number of chains that each of them will have.
            draw: the tie-breaker in [0, 1) of a problem's sample in a turn.
        """
        problems = {} if calibration is None else calibration.scores
        # The last sample: the first ones may be of the round that was taken over at random.
        counted = {name: _scored_turns(chains[-1]) for name, chains in problems.items()}
        last = max((turn for scores in counted.values() for turn in scores), default=0)
        counts = [sum(turn in scores for scores in counted.values()) for turn in range(last + 1)]
        self._groups = TurnGroups(counts, FEWEST, turn_0_alone=False)
        self._own: dict[str, list[dict[int, float]]] | None = None
        self._seen: dict[int, SortedScores] = defaultdict(SortedScores)
        if calibration and calibration.coverage == "conditional":
            self._own = {
                name: [self._by_group(_scored_turns(chain)) for chain in chains]
                for name, chains in problems.items()
            }
        else:
            for scores in counted.values():
                for group, score in self._by_group(scores).items():
                    self._seen[group].add(score)
        self._martingales: dict[int, Martingale] = defaultdict(Martingale)
        self._samples = samples
        self._draw = draw
        self._done: dict[str, dict[int, Chain]] = defaultdict(dict)
        self._waiting = deque(dict.fromkeys(problem_ids))
        needed = len(self._groups.first_turns) / LEVEL
        self.drift = Drift(alarm=False, evidence=1.0, needed=needed, problems=0)

    def chain_done(self, chain: Chain) -> None:
        """Take note of a chain of the run; it may count later, or never."""
        self._done[chain.problem_id][chain.sample] = chain
        while self._waiting and self._counts(self._done[self._waiting[0]]):
            self._waiting.popleft()

    def _counts(self, done: dict[int, Chain]) -> bool:
        """Whether a problem's turn has come: if its first sample with a score is known."""
        for sample in range(self._samples):
            if sample not in done:
                return False
            # As in a calibration, which holds no chain that failed, and none without a score.
            if done[sample].end != "failed" and any(done[sample].decisions):
                self._count(done[sample])
                return True
        return True

    def _count(self, chain: Chain) -> None:
        turns = chain.scores
        evidence = self.drift.evidence
        for group, score in self._by_group(_scored_turns(turns)).items():
            first = next(turn for turn in range(group, len(turns)) if turns[turn] is not None)
            u = self._draw(chain.problem_id, chain.sample, first)
            seen = self._seen[group]
            if self._own is not None:
                own = self._own.get(chain.problem_id, [])
                seen = SortedScores(scores[group] for scores in own if group in scores)
            martingale = self._martingales[group]
            martingale.bet(smoothed_rank(*seen.add(score), u))
            evidence = max(evidence, martingale.capital)
            if martingale.capital >= self.drift.needed and not self.drift.alarm:
                self.drift = self.drift.model_copy(
                    update={
                        "alarm": True,
                        "since": chain.problem_id,
                        "first_turn": group,
                        "upwards": martingale.leans_to_small,
                    }
                )
        self.drift = self.drift.model_copy(
            update={"evidence": evidence, "problems": self.drift.problems + 1}
        )

    def _by_group(self, scores: dict[int, float]) -> dict[int, float]:
        """The first of a chain's scores in each group of turns."""
        firsts: dict[int, float] = {}
        for turn, score in scores.items():
            firsts.setdefault(self._groups.of(turn), score)
        return firsts


def _scored_turns(turns: Iterable[float | None]) -> dict[int, float]:
    return {turn: score for turn, score in enumerate(turns) if score is not None}
