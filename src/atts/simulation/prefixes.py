"""The key-value cache of a simulated server: who uses how much, and what is kept of whom.

A chain only ever appends to its token ids, save that its last piece may be thrown away (replaced,
or aborted). So what two requests of a chain have in common is known from where that piece began,
where it ended, and its last id; the ids themselves need not be kept.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class Prefix:
    """What is kept of a chain, or of the prompt that the chains of a problem share."""

    branch: int
    """Tokens before the last piece."""
    length: int
    """Tokens with the last piece."""
    last_id: int | None
    """The last id of that piece; None where the next request surely begins like this."""


class PrefixCache:
    """Holds ``capacity`` tokens, of which ``in_use`` belong to running requests.

    What is left keeps prefixes of others, the longest unused of which are dropped first, from their
    ends. A prompt that several running requests share is counted for each of them.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.in_use = 0
        self._kept: OrderedDict[int, Prefix] = OrderedDict()
        self._kept_tokens = 0

    @property
    def kept(self) -> int:
        """Tokens that are kept for requests to come."""
        return self._kept_tokens

    def find(self, chain: int, problem: int, prompt: int, ids: Sequence[int], length: int) -> int:
        """How many of a request's first tokens are kept, and let go of the chain's own: it runs.

        Args:
            chain: names the chain.
            problem: names the prompt of the chain's problem; another number than any chain's.
            prompt: tokens of that prompt.
            ids: what the request was sent with.
            length: tokens that it needs, which are more than ``ids`` if it was put back.
        """
        if own := self._kept.pop(chain, None):
            self._kept_tokens -= own.length
            same = own.last_id is None or (
                len(ids) >= own.length and ids[own.length - 1] == own.last_id
            )
            return min(own.length if same else own.branch, length)
        if problem in self._kept:
            self._kept.move_to_end(problem)
            return min(self._kept[problem].length, prompt, length)
        return 0

    def keep(self, chain: int, problem: int, prompt: int, prefix: Prefix) -> None:
        """Keep what a request leaves behind, as far as it fits."""
        if problem not in self._kept:
            self._put(problem, Prefix(prompt, prompt, None))
        if old := self._kept.pop(chain, None):
            self._kept_tokens -= old.length
        self._put(chain, prefix)
        self.drop_excess()

    def drop_excess(self) -> None:
        """Drop what no longer fits beside the running requests."""
        excess = self.in_use + self._kept_tokens - self.capacity
        while excess > 0 and self._kept:
            name, prefix = next(iter(self._kept.items()))
            dropped = min(excess, prefix.length)
            prefix.length -= dropped
            if prefix.length <= prefix.branch:
                prefix.branch, prefix.last_id = prefix.length, None
            if prefix.length == 0:
                del self._kept[name]
            self._kept_tokens -= dropped
            excess -= dropped

    def _put(self, name: int, prefix: Prefix) -> None:
        self._kept[name] = prefix
        self._kept_tokens += prefix.length
