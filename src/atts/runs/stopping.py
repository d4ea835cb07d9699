"""Ends the chains of a problem whose answer is settled; see ``StopOptions``."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from math import comb
from types import TracebackType
from typing import Self

from atts.config import StopOptions
from atts.grading.equivalence import compare_exactly
from atts.grading.grader import Grader
from atts.grading.programs.extract import as_vote
from atts.types import Chain, Problem

_log = logging.getLogger(__name__)


def is_decided(votes: Sequence[int], remaining: int) -> bool:
    """Whether the leading answer has the most votes whatever the remaining chains answer.

    Args:
        votes: how many chains gave each different answer, in any order.
        remaining: chains that may still answer.

    >>> is_decided([3, 1], remaining=1), is_decided([3, 1], remaining=2)
    (True, False)
    """
    first, second = _leaders(votes)
    return first > second + remaining


def certainty(votes: Sequence[int]) -> float:
    """The posterior probability that the leading answer is likelier than the runner-up.

    Of the chains that give one of the two, a share q gives the leader; with a uniform prior and
    v and w votes, q is Beta(v + 1, w + 1), and what is returned is P(q > 1/2): the stopping rule
    of adaptive consistency (Aggarwal et al. 2023, arXiv 2305.11860, section 3). By the identity
    of Beta and binomial tails that is P(Binomial(v + w + 1, 1/2) <= v), without any integral.

    >>> certainty([3]), certainty([4]), certainty([2, 2]), certainty([])
    (0.9375, 0.96875, 0.5, 0.5)
    """
    first, second = _leaders(votes)
    trials = first + second + 1
    return float(Fraction(sum(comb(trials, k) for k in range(first + 1)), 2**trials))


def _leaders(votes: Sequence[int]) -> tuple[int, int]:
    first, second = sorted([0, 0, *votes], reverse=True)[:2]
    return first, second


class _Ballot:
    """The votes of one problem."""

    def __init__(self) -> None:
        self.answers: list[str] = []
        """One of each kind, and below how many chains gave it."""
        self.votes: list[int] = []
        self.recorded = 0
        self.counting = asyncio.Lock()


class Settled:
    """The problems whose further chains are not needed; those under way end."""

    def __init__(self) -> None:
        self._settled: set[str] = set()
        self._running: dict[str, set[asyncio.Timeout]] = defaultdict(set)

    def is_settled(self, problem_id: str) -> bool:
        """Whether further chains of a problem are not needed."""
        return problem_id in self._settled

    @contextmanager
    def may_end(self, problem_id: str, scope: asyncio.Timeout) -> Iterator[None]:
        """While inside, ``scope`` expires when the problem is settled."""
        running = self._running[problem_id]
        running.add(scope)
        try:
            yield
        finally:
            running.discard(scope)

    def settle(self, problem_id: str) -> None:
        """Further chains of a problem are not needed."""
        self._settled.add(problem_id)
        for scope in self._running.pop(problem_id, ()):
            scope.reschedule(0.0)


class Stopping(Settled):
    """Counts the votes of a run's problems, and ends the chains that are not needed any more.

    Answers are the same here where grading's majority vote says so. Most are compared at once;
    the others by algebra in processes of their own, for which a thread waits and not the event
    loop. The gold answer is never looked at.

    A context manager, because of that thread.
    """

    def __init__(
        self,
        options: StopOptions,
        samples: int,
        grader: Grader,
        problems: Iterable[Problem] = (),
    ) -> None:
        """``grader`` compares answers; nobody else may use it meanwhile. Of ``problems``, those
        count whose answers are programs: these are the same only where their texts are.
        """
        super().__init__()
        self.tell: Callable[[str], None] = lambda _: None
        """Is told of each problem that is settled."""
        self._programs = {problem.id for problem in problems if problem.tests}
        self._options = options
        self._samples = samples
        self._ballots: dict[str, _Ballot] = defaultdict(_Ballot)
        self._grader = grader
        self._thread = ThreadPoolExecutor(1, "atts-votes")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    async def chains_done(self, chains: Iterable[Chain]) -> None:
        """Count chains that have been recorded; those of before an interruption too."""
        for chain in chains:
            ballot = self._ballots[chain.problem_id]
            async with ballot.counting:
                ballot.recorded += 1
                if chain.answer is not None and chain.is_finished:
                    try:
                        is_program = chain.problem_id in self._programs
                        await self._vote(ballot, chain.answer, is_program)
                    except Exception as error:  # one vote less, and the run goes on
                        _log.warning(
                            "a vote could not be counted: problem %s, sample %d: %s: %s",
                            *(chain.problem_id, chain.sample, type(error).__name__, error),
                        )
                if not self.is_settled(chain.problem_id) and self._settles(ballot):
                    self.settle(chain.problem_id)
                    self.tell(chain.problem_id)

    def _settles(self, ballot: _Ballot) -> bool:
        remaining = self._samples - ballot.recorded
        if is_decided(ballot.votes, remaining):
            return True
        adaptive = self._options.when == "adaptive"
        return adaptive and certainty(ballot.votes) >= self._options.confidence

    async def _vote(self, ballot: _Ballot, answer: str, is_program: bool) -> None:
        verdicts: list[bool | None]
        if is_program:
            verdicts = [as_vote(known) == as_vote(answer) for known in ballot.answers]
        else:
            verdicts = [compare_exactly(known, answer) for known in ballot.answers]
        if True not in verdicts and None in verdicts:
            verdicts = await self._by_algebra(ballot.answers, answer)
        if True in verdicts:
            ballot.votes[verdicts.index(True)] += 1
        else:
            ballot.answers.append(answer)
            ballot.votes.append(1)

    async def _by_algebra(self, known: list[str], answer: str) -> list[bool | None]:
        pairs = [(each, answer) for each in known]
        loop = asyncio.get_running_loop()
        # One thread, because the grader is not made for more.
        verdicts = await loop.run_in_executor(self._thread, self._grader.compare, pairs)
        return [verdicts[pair] for pair in pairs]
