"""Who decides for the chains of a problem whether the target takes over.

A control decides for each chain alone and at once; others may let chains wait for each other
(``atts.methods.sync_ranking``). A method's turns are the same with either.
"""

import sys
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from atts.config import Config
from atts.conformal.control import Control, Verdict
from atts.conformal.gate import GatedControl
from atts.types import Chain, Gate


class Scores(NamedTuple):
    """What is decided by: of a segment, higher = less conforming."""

    score: float
    running: Sequence[float] = ()
    """The score of the segment up to each of its tokens, where it can only grow from one to the
    next; empty: nobody asks at which token the decision was made."""


class Ruling(NamedTuple):
    """A decision."""

    verdict: Verdict
    first: int | None = None
    """The first token of ``running`` at which the target would have taken over; None where it does
    not take over, nobody asked, or it would have whatever the score."""
    order: int | None = None
    """Number of the decision in its run; None where the order is of no use."""


class Decider(Protocol):
    """Decides for the chains of one problem."""

    has_barrier: bool
    """Whether chains wait for each other."""

    async def gate(
        self, sample: int, turn: int, surprise: float | None, u: float
    ) -> tuple[Gate, Ruling | None] | None:
        """What is said of a segment before it is scored: the decision, where it passes unscored.

        None: there is no gate, and none passes.

        Args:
            sample: its chain.
            turn: of its chain, from 0.
            surprise: the draft's largest of a token, in nats, where it is asked for.
            u: that of ``decide``.
        """
        ...

    async def decide(self, sample: int, turn: int, scores: Scores, u: float) -> Ruling:
        """Whether the target takes over after a segment of a chain.

        Args:
            sample: the chain.
            turn: its turn, from 0.
            scores: of the segment.
            u: uniform on [0, 1); breaks ties. It derives from the chain's identity.
        """
        ...

    def take_over_done(self) -> None:
        """The target has finished the segment of one take-over, or failed to."""
        ...

    def leave(self, sample: int) -> None:
        """A chain has ended, however it did."""
        ...


class Siblings(NamedTuple):
    """The chains of one problem, which are about to be made, and what they may decide by."""

    problem_id: str
    config: Config
    control: Control | None
    samples: Sequence[int]
    """Those to be made."""
    finished: Sequence[Chain] = ()
    """Those that are on record already."""
    elsewhere: "Callable[[str], Decider] | None" = None
    """Gives what asks the run's control for a problem, where that is in another process."""


class ControlDecider:
    """Each chain is decided by a control, which serves the whole run; see ``Decider``."""

    has_barrier = False

    def __init__(self, control: Control, problem_id: str) -> None:
        self._control = control
        self._problem_id = problem_id

    async def gate(
        self,
        sample: int,  # noqa: ARG002
        turn: int,
        surprise: float | None,
        u: float,
    ) -> tuple[Gate, Ruling | None] | None:
        return self.pass_or_not(turn, surprise, u)

    def pass_or_not(
        self, turn: int, surprise: float | None, u: float
    ) -> tuple[Gate, Ruling | None] | None:
        """The same, at once; no control asks which of a problem's chains it is."""
        if not isinstance(self._control, GatedControl):
            return None
        gate, verdict = self._control.ask(self._problem_id, turn, surprise, u)
        if verdict is None:
            return gate, None
        return gate, Ruling(verdict, order=self._control.next_order())

    async def decide(self, sample: int, turn: int, scores: Scores, u: float) -> Ruling:  # noqa: ARG002
        return self.rule(turn, scores, u)

    def rule(self, turn: int, scores: Scores, u: float) -> Ruling:
        """What ``decide`` gives, at once."""

        def takes_over(score: float) -> bool:
            return self._control.look(self._problem_id, turn, score, u).take_over

        # Before the decision, from which a control may learn.
        first = None
        if scores.running and takes_over(scores.score):
            first = first_token(scores.running, takes_over)
        verdict = self._control.decide(self._problem_id, turn, scores.score, u)
        return Ruling(verdict, first, self._control.next_order())

    def take_over_done(self) -> None:
        self._control.take_over_done()

    def leave(self, sample: int) -> None:
        """Nobody waits for it."""


def first_token(running: Sequence[float], takes_over: Callable[[float], bool]) -> int | None:
    """The first token whose running score has the target take over; None if any score would.

    ``takes_over`` must be monotone, and true of the last: a few looks find it.

    >>> first_token([0.1, 0.1, 2.5, 2.5, 7.0], lambda score: score > 2.0)
    2
    """
    if takes_over(-sys.float_info.max):
        return None
    return bisect_left(range(len(running)), True, key=lambda token: takes_over(running[token]))
