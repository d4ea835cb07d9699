"""Synchronous ranking, the counterpart of ATTS (arXiv 2509.15148, section 3) with a barrier.

Every turn waits for all open chains of the problem, and the worst of them are taken over.
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from pydantic import Field

from atts.config import Config, Options
from atts.conformal.control import Verdict
from atts.methods.atts import take_turns
from atts.methods.decider import Ruling, Scores, Siblings, first_token
from atts.methods.method import Method
from atts.seeds import tie_breaker, uniform_at
from atts.types import Chain


class SyncRankingOptions(Options):
    """How many of a problem's chains ``method=sync-ranking`` takes over in a turn."""

    take_overs: int | None = Field(default=None, ge=0)
    """The B worst of each turn; null takes as many as keep to ``take_over.rate``."""


class _Standing(NamedTuple):
    """What a chain is ranked by; the largest is the worst."""

    score: float
    tie_breaker: float
    sample: int


class Ranking:
    """Ranks the scores of one problem's chains, turn by turn, when all open ones have come.

    The worst B of a turn are taken over. Unless ``sync_ranking.take_overs`` fixes it, B keeps the
    problem's share of take-overs at the nominal rate e: of the first N decisions, turn after
    turn, floor(e N + o) are taken over, with an offset o in [0, 1) that is drawn for the problem
    from the seed. So the share is off by less than 1/N, and by nothing in the mean over o.

    Chains that finished before a run was interrupted take part with the scores that they have on
    record, and nobody waits for them: the others are ranked as if nothing had happened.

    >>> from atts.config import Config
    >>> async def two_chains():
    ...     ranking = Ranking("p", Config(), open_samples=[0, 1])
    ...     return await asyncio.gather(
    ...         *(ranking.decide(n, 0, Scores(1.5 + n), u=0.5) for n in range(2))
    ...     )
    >>> [ruling.verdict.take_over for ruling in asyncio.run(two_chains())]
    [False, True]
    """

    has_barrier = True

    def __init__(
        self,
        problem_id: str,
        config: Config,
        open_samples: Iterable[int],
        finished: Iterable[Chain] = (),
    ) -> None:
        """Begin to wait for the chains ``open_samples``, which must all be under way soon.

        ``finished`` are the problem's chains that nobody has to wait for.
        """
        self._config = config
        self._offset = uniform_at(config.seed, "run", problem_id, "take-overs")
        self._open = set(open_samples)
        self._turn = 0
        self._standings: dict[int, list[_Standing]] = defaultdict(list)  # by turn
        self._waiting: set[int] = set()
        self._verdicts: dict[int, Verdict] = {}  # by sample, of the turn that was ranked last
        self._ranked = asyncio.Event()
        for chain in finished:
            for number, decision in chain.decisions:
                u = tie_breaker(config.seed, "run", problem_id, chain.sample, number)
                self._standings[number].append(_Standing(decision.score, u, chain.sample))

    async def gate(self, sample: int, turn: int, surprise: float | None, u: float) -> None:
        """No chain passes: they are ranked by their scores."""

    async def decide(self, sample: int, turn: int, scores: Scores, u: float) -> Ruling:
        """Wait until all open chains have their score of this turn; whether this one is taken over.

        The verdict's p-value is the chain's rank from the worst, over the number ranked; ``u``,
        in [0, 1), breaks ties.
        """
        if sample not in self._open or turn != self._turn:
            raise ValueError(
                f"chain {sample} cannot be ranked in turn {turn}: it has left, or is not in turn "
                f"{self._turn} with the others"
            )
        self._standings[turn].append(_Standing(scores.score, u, sample))
        self._waiting.add(sample)
        ranked = self._ranked
        self._rank_if_all_are_here()
        await ranked.wait()
        verdict = self._verdicts[sample]
        if not scores.running or not verdict.take_over:
            return Ruling(verdict)
        others = [each for each in self._standings[turn] if each.sample != sample]
        most = round(verdict.threshold * (len(others) + 1))

        def takes_over(score: float) -> bool:
            standing = _Standing(score, u, sample)
            return sum(other > standing for other in others) < most

        return Ruling(verdict, first_token(scores.running, takes_over))

    def leave(self, sample: int) -> None:
        """Nobody waits any longer for a chain that has ended, however it did."""
        self._open.discard(sample)
        self._waiting.discard(sample)
        self._rank_if_all_are_here()

    def take_over_done(self) -> None:
        """No budget counts those in flight."""

    def _rank_if_all_are_here(self) -> None:
        if not self._waiting or self._waiting != self._open:
            return
        worst_first = sorted(self._standings[self._turn], reverse=True)
        count = len(worst_first)
        worst = min(self._take_overs(count), count)
        self._verdicts = {
            standing.sample: Verdict(rank / count, worst / count, rank <= worst)
            for rank, standing in enumerate(worst_first, 1)
        }
        self._turn += 1
        self._waiting.clear()
        self._ranked.set()
        self._ranked = asyncio.Event()

    def _take_overs(self, count: int) -> int:
        """B of the present turn, in which ``count`` chains are ranked."""
        if (fixed := self._config.of(SyncRankingOptions).take_overs) is not None:
            return fixed
        rate = self._config.take_over.rate
        before = sum(len(ranked) for turn, ranked in self._standings.items() if turn < self._turn)
        return math.floor(rate * (before + count) + self._offset) - math.floor(
            rate * before + self._offset
        )


def _decider(siblings: Siblings) -> Ranking:
    return Ranking(siblings.problem_id, siblings.config, siblings.samples, siblings.finished)


METHOD = Method(
    name="sync-ranking",
    solve=take_turns,
    scores=True,
    options=SyncRankingOptions,
    decider=_decider,
    aims_at_rate=True,
    takes_over=True,
    together=True,
    can_follow=True,
)
"""The turns of ``atts``, with a wait for the others in place of a decision by itself."""
