"""What a method is: its name, its options, the models that it needs, its traits and its steps.

A module of this package that holds one is found by itself; other packages register theirs by an
entry point (docs/extending.md).
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from atts.config import Config, Options
from atts.methods.chain import OpenChain
from atts.methods.decider import Decider, Siblings
from atts.types import Author, Chain, ChainEnd


class GradedChain(NamedTuple):
    """A chain of a problem of whose answers one is to be selected."""

    chain: Chain
    answered: bool
    """Whether it has an answer."""
    correct: bool
    """Whether that is right."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to solve a problem with one or two engines; each call of ``solve`` writes to one chain.

    Traits say what the rest of the system has to know of it; nothing asks for its name.
    """

    name: str
    solve: Callable[[OpenChain], Awaitable[ChainEnd]]
    """Its steps; see ``OpenChain``."""
    authors: tuple[Author, ...] = ("draft", "target")
    """The models that it may need."""
    needs: Callable[[Config], tuple[Author, ...]] | None = None
    """Which of them a configuration needs; None: all."""
    options: type[Options] | None = None
    """Its own group of the configuration, which is named after it, with ``_`` for ``-``."""
    translate: Callable[[dict[str, Any], str], dict[str, Any] | None] | None = None
    """Makes a tree of our keys of a configuration file of the method's own project, with the file's
    name for messages; None where it is no such file. Raises ConfigError where it is a wrong one."""
    decider: Callable[[Siblings], Decider] | None = None
    """Makes what decides for a problem's chains; None: scores decide nothing."""
    select: Callable[[Sequence[GradedChain], float], float] | None = None
    """Whether the answer that it selects of a problem's chains is right, 1 or 0, or between where
    chance decides; given the share by which the majority's is. None: it selects none."""

    scores: bool = False
    """Whether it asks the target for the log-probabilities of given texts, always."""
    needs_calibration: bool = False
    """Whether it decides by p-values, of scores against those of a calibration or before them."""
    aims_at_rate: bool = False
    """Whether it keeps to ``take_over.rate``."""
    takes_over: bool = False
    """Whether the target may write on where the draft has written."""
    together: bool = False
    """Whether the chains of a problem wait for each other, so that all must be under way."""
    needs_all_chains: bool = False
    """Whether no chain may be left out, though the others settle the vote."""
    whole_problems: Callable[[Config], bool] | None = None
    """Whether all chains of a problem go by ATTS or all by the target alone, as is chosen before
    the first begins: a certificate of ``atts`` then holds, and one process must make them."""
    is_reference: bool = False
    """Whether others are measured against it: the target alone."""
    can_follow: bool = False
    """Whether its turns are those of a recording, so that a simulation can play them."""

    @property
    def group(self) -> str:
        """The key of its group of the configuration."""
        return self.name.replace("-", "_")
