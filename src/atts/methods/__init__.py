"""Ways to solve a problem with one or two engines. Each writes to one chain."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from atts.config import Config, MethodName
from atts.methods.atts import atts
from atts.methods.chain import OpenChain
from atts.methods.selection import best_of_n, self_consistency
from atts.methods.single_model import draft_only, target_only
from atts.methods.specreason import specreason
from atts.methods.speculative_thinking import speculative_thinking
from atts.methods.sync_ranking import sync_ranking
from atts.types import Author, ChainEnd


class Method(NamedTuple):
    """A method and the models that it needs."""

    solve: Callable[[OpenChain], Awaitable[ChainEnd]]
    authors: tuple[Author, ...]
    """Where an option names one of them, ``authors_of`` knows whether the other is needed."""
    needs_calibration: bool = False
    """Whether it decides by p-values."""
    takes_over: bool = False
    """Whether the target may write on where the draft has written."""
    together: bool = False
    """Whether the chains of a problem wait for each other, so that all must be under way."""


METHODS: dict[MethodName, Method] = {
    "atts": Method(atts, ("draft", "target"), needs_calibration=True, takes_over=True),
    "target-only": Method(target_only, ("target",)),
    "draft-only": Method(draft_only, ("draft",)),
    "sync-ranking": Method(sync_ranking, ("draft", "target"), takes_over=True, together=True),
    "specreason": Method(specreason, ("draft", "target"), takes_over=True),
    "speculative-thinking": Method(speculative_thinking, ("draft", "target"), takes_over=True),
    "best-of-n": Method(best_of_n, ("draft", "target")),
    "self-consistency": Method(self_consistency, ("draft", "target")),
}


def authors_of(config: Config) -> tuple[Author, ...]:
    """The models that a run needs.

    >>> authors_of(Config(method="best-of-n")), authors_of(Config(method="self-consistency"))
    (('draft', 'target'), ('target',))
    """
    if config.method == "self-consistency":
        return (config.self_consistency.author,)
    if config.method == "best-of-n" and config.best_of_n.author == "target":
        return ("target",)
    return METHODS[config.method].authors
