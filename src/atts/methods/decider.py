"""Who decides for the chains of a problem whether the target takes over.

A control decides for each chain alone and at once; others may let chains wait for each other
(``atts.methods.sync_ranking``). A method's turns are the same with either.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from atts.config import Config
from atts.conformal.control import Control, Verdict
from atts.types import Chain


class Decider(Protocol):
    """Decides for the chains of one problem."""

    has_barrier: bool
    """Whether chains wait for each other."""

    async def decide(self, sample: int, turn: int, score: float, u: float) -> Verdict:
        """Whether the target takes over after a segment of a chain.

        Args:
            sample: the chain.
            turn: its turn, from 0.
            score: nonconformity of the segment; higher = less conforming.
            u: uniform on [0, 1); breaks ties. It derives from the chain's identity.
        """
        ...

    def next_order(self) -> int | None:
        """The number of the decision just made in its run; None where the order is of no use."""
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


class ControlDecider:
    """Each chain is decided by a control, which serves the whole run; see ``Decider``."""

    has_barrier = False

    def __init__(self, control: Control, problem_id: str) -> None:
        self._control = control
        self._problem_id = problem_id

    async def decide(self, sample: int, turn: int, score: float, u: float) -> Verdict:  # noqa: ARG002
        return self._control.decide(self._problem_id, turn, score, u)

    def next_order(self) -> int:
        return self._control.next_order()

    def take_over_done(self) -> None:
        self._control.take_over_done()

    def leave(self, sample: int) -> None:
        """Nobody waits for it."""
