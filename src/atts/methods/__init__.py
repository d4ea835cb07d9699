"""Ways to solve a problem with one or two engines. Each writes to one chain."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from atts.config import MethodName
from atts.methods.atts import atts
from atts.methods.chain import OpenChain
from atts.methods.single_model import draft_only, target_only
from atts.methods.sync_ranking import sync_ranking
from atts.types import Author, ChainEnd


class Method(NamedTuple):
    """A method and the models that it needs."""

    solve: Callable[[OpenChain], Awaitable[ChainEnd]]
    authors: tuple[Author, ...]
    needs_calibration: bool = False
    """Whether it decides by p-values."""
    together: bool = False
    """Whether the chains of a problem wait for each other, so that all must be under way."""


METHODS: dict[MethodName, Method] = {
    "atts": Method(atts, ("draft", "target"), needs_calibration=True),
    "target-only": Method(target_only, ("target",)),
    "draft-only": Method(draft_only, ("draft",)),
    "sync-ranking": Method(sync_ranking, ("draft", "target"), together=True),
}
