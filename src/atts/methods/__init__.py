"""Ways to solve a problem with one or two engines. Each writes to one chain."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from atts.config import MethodName
from atts.methods.atts import atts
from atts.methods.chain import OpenChain
from atts.methods.single_model import draft_only, target_only
from atts.types import Author, ChainEnd


class Method(NamedTuple):
    """A method and the models that it needs."""

    solve: Callable[[OpenChain], Awaitable[ChainEnd]]
    authors: tuple[Author, ...]

    @property
    def needs_calibration(self) -> bool:
        return len(self.authors) == 2


METHODS: dict[MethodName, Method] = {
    "atts": Method(atts, ("draft", "target")),
    "target-only": Method(target_only, ("target",)),
    "draft-only": Method(draft_only, ("draft",)),
}
