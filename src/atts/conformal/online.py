"""Online control: each score is compared with those before it, without a calibration."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from atts.config import Coverage
from atts.conformal.control import Control, Verdict, checked_rate
from atts.conformal.pvalues import Counts, SortedScores, require_finite, smoothed_rank, two_draws
from atts.types import Decision

PRIOR = 4.0
"""How many scores of its own weigh as much for a problem as the pool of all problems.

A large value lets problems with high scores have more take-overs for longer; a small one gives
coarse p-values of few scores to their first chains.
"""


class OnlineControl(Control):
    """Sequential smoothed ranks within a group.

    A score gets its smoothed p-value against the earlier scores of its group, then joins them:
    those of its turn (``by_turn``), or all. While the scores of a group are exchangeable, these
    p-values are exactly uniform and independent (Vovk, Nouretdinov and Gammerman, *Testing
    Exchangeability On-Line*, ICML 2003), with no calibration before them; the very first is ``u``
    itself. So P(take-over) = rate for each score, from the first on.

    Conditional: the group is that of the problem (and turn). Its n earlier scores are few at
    first, so with probability ``PRIOR`` / (``PRIOR`` + n) the score is compared with the group of
    all problems instead. Which one it is follows from ``u`` alone, so the p-value is a mixture of
    two uniform ones, and uniform again, where the scores of all problems are exchangeable; where
    only those of each problem are, it becomes so as the group fills.

    Scores rank in the order in which they arrive. The p-values of a run with chains side by side
    depend on that order; under exchangeability their distribution does not.

    >>> ranks = OnlineControl(rate=0.4, coverage="marginal")
    >>> ranks.decide("a", turn=0, score=0.5, u=0.75)
    Verdict(p_value=0.75, threshold=0.4, take_over=False)
    >>> ranks.decide("a", turn=0, score=0.9, u=0.75)
    Verdict(p_value=0.375, threshold=0.4, take_over=True)
    """

    def __init__(
        self, rate: float, coverage: Coverage, by_turn: bool = True, window: int | None = None
    ) -> None:
        """``rate`` is the nominal take-over rate, in [0, 1]; 0 never and 1 always takes over.

        With a ``window`` each group holds only so many scores, the newest: a p-value against them
        is as uniform as one against all, but those near each other are no longer independent.

        Raises:
            ValueError: the rate lies outside [0, 1].
        """
        self._rate = checked_rate(rate)
        self._conditional = coverage == "conditional"
        self._by_turn = by_turn
        self._window = window
        self._seen: dict[tuple[str | None, int | None], SortedScores] = defaultdict(
            lambda: SortedScores(most=window)
        )

    def decide(self, problem_id: str, turn: int, score: float, u: float) -> Verdict:
        """Rank the score among the earlier ones of its group, then add it to them.

        Raises:
            CalibrationError: the score is not a finite number; it does not join the others.
        """
        require_finite(score)
        return self._verdict([group.add(score) for group in self._groups(problem_id, turn)], u)

    def look(self, problem_id: str, turn: int, score: float, u: float) -> Verdict:
        """Rank the score among the earlier ones of its group, without adding it to them.

        Raises:
            CalibrationError: the score is not a finite number.
        """
        require_finite(score)
        return self._verdict([group.counts(score) for group in self._groups(problem_id, turn)], u)

    def _verdict(self, counts: list[Counts], u: float) -> Verdict:
        """The verdict by how a score stands in each of ``_groups``."""
        pool, *own = counts
        if own:
            coin, u = two_draws(u)
            if coin >= PRIOR / (PRIOR + own[0].total):
                pool = own[0]
        return Verdict.of(smoothed_rank(*pool, u), self._rate)

    def restore(self, problem_id: str, turn: int, decision: Decision) -> None:
        """Let a recorded score join the others."""
        for scores in self._groups(problem_id, turn):
            scores.add(decision.score)

    def forget(self, problem_id: str) -> None:
        """Drop the scores that are held of a problem alone."""
        for key in [key for key in self._seen if key[0] == problem_id]:
            del self._seen[key]

    def state(self) -> dict[str, Any]:
        """The scores of all problems, by turn."""
        pooled = [
            [turn, scores.arrived()] for (name, turn), scores in self._seen.items() if name is None
        ]
        return super().state() | {"scores": pooled}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See ``Control``."""
        super().load_state(state)
        self._seen.clear()
        for turn, scores in state["scores"]:
            for score in scores:
                require_finite(score)
                self._seen[None, turn].add(score)

    def _groups(self, problem_id: str, turn: int) -> list[SortedScores]:
        """The scores to compare with: of all problems, and then of this one, if conditional."""
        own_turn = turn if self._by_turn else None
        names = [None, problem_id] if self._conditional else [None]
        return [self._seen[name, own_turn] for name in names]
