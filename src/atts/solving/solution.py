"""What the chains of a question have come to."""

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from types import TracebackType
from typing import Self

from atts.grading.grader import Grader, Pair, VerdictCache, Verdicts
from atts.grading.votes import Vote, count_votes
from atts.methods import METHODS
from atts.methods.method import GradedChain, Method
from atts.solving.listening import ChainDone
from atts.solving.notebook import as_html
from atts.solving.question import Question
from atts.types import Author, Chain, Problem

MOST_KNOWN = 10_000
"""Pairs of answers that a process remembers: its memory is bounded."""


@dataclass(frozen=True, repr=False)
class Solution:
    """What the chains of a question have come to; a notebook shows it as a table."""

    problem: Problem
    method: str
    answer: str | None
    """The most frequent one, the first given of those that tie; or what the method selects. None
    where no chain has an answer."""
    votes: tuple[Vote, ...]
    """The different answers, the most frequent first."""
    done: tuple[ChainDone, ...]
    """The chains as they were heard, in the order of their samples."""
    seconds: float
    """From being asked to the last chain's end."""

    @property
    def chains(self) -> tuple[Chain, ...]:
        """The records of the chains."""
        return tuple(done.chain for done in self.done)

    @property
    def tokens(self) -> dict[Author, int]:
        """Tokens that each model wrote, kept or not."""
        return {
            author: sum(chain.written(author) for chain in self.chains)
            for author in ("draft", "target")
        }

    @property
    def take_over_rate(self) -> float | None:
        """The share of decisions after which the target took over; None where nothing was."""
        decisions = [decision for chain in self.chains for _, decision in chain.decisions]
        taken = sum(decision.take_over for decision in decisions)
        return taken / len(decisions) if decisions else None

    @property
    def errors(self) -> list[str]:
        """Why chains failed."""
        return [chain.error or "" for chain in self.chains if chain.end == "failed"]

    @property
    def chosen(self) -> ChainDone | None:
        """The first of the chains that have the answer; where none has one, the first that has not
        failed, and None where all have.
        """
        for vote in self.votes:
            if vote.answer == self.answer:
                return self.done[vote.chains[0]]
        return next((done for done in self.done if done.chain.is_finished), None)

    def __repr__(self) -> str:
        """Short, as it is what a shell shows."""
        votes = {vote.answer: len(vote.chains) for vote in self.votes}
        return f"<Solution {self.answer!r}: votes {votes}, {self.seconds:.1f} s>"

    def __str__(self) -> str:
        """The answer, and how it came about."""
        votes = ", ".join(f"{vote.answer} ({len(vote.chains)})" for vote in self.votes)
        written = " + ".join(f"{count} by the {author}" for author, count in self.tokens.items())
        return (
            f"{self.answer}    [{votes or 'no answer'}; {len(self.done)} chains, "
            f"{written} tokens, {self.seconds:.1f} s]"
        )

    def _repr_html_(self) -> str:
        return as_html(self)


class _SharedGrader(Grader):
    """For several threads, one at a time."""

    def __init__(self, cache: VerdictCache | None) -> None:
        super().__init__(workers=1, cache=cache)
        self._turn = Lock()

    def compare(self, pairs: Iterable[Pair]) -> Verdicts:
        with self._turn:
            if len(self._known) > MOST_KNOWN:  # what matters is in the cache of the user
                self._known.clear()
            return super().compare(pairs)


class Counting:
    """Counts the votes of questions, away from the event loop; a context manager."""

    def __init__(self, cache: VerdictCache | None = None) -> None:
        self.grader: Grader = _SharedGrader(cache)
        """Compares answers; for several threads."""
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
        self.grader.close()

    async def conclude(
        self, question: Question, done: Sequence[ChainDone], seconds: float
    ) -> Solution:
        """Count the votes of chains that have ended."""
        answers = [each.chain.answer if each.chain.is_finished else None for each in done]
        loop = asyncio.get_running_loop()
        votes = await loop.run_in_executor(
            self._thread, count_votes, question.problem, answers, self.grader
        )
        method = METHODS[question.config.method]
        answer = selected([each.chain for each in done], votes, method)
        return Solution(question.problem, method.name, answer, votes, tuple(done), seconds)


def selected(chains: Sequence[Chain], votes: Sequence[Vote], method: Method) -> str | None:
    """The answer that a method selects of the votes: by default the most frequent."""
    if method.select is None or len(votes) < 2:
        return votes[0].answer if votes else None
    most = len(votes[0].chains)
    answered = {number for vote in votes for number in vote.chains}

    def share(vote: Vote) -> float:
        """What the method's selection would score if this answer were the right one."""
        graded = [
            GradedChain(chain, number in answered, number in vote.chains)
            for number, chain in enumerate(chains)
        ]
        leaders = sum(len(other.chains) == most for other in votes)
        majority = 1.0 / leaders if len(vote.chains) == most else 0.0
        return method.select(graded, majority) if method.select else majority

    return max(votes, key=share).answer
