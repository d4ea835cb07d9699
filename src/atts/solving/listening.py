"""What a chain has decided on, piece by piece, as it is written.

A segment that is part of a chain stays part of it, so its text can be handed on at once.
"""

from collections.abc import Callable
from typing import NamedTuple

from atts.methods.chain import ChainOverError, OpenChain, Watcher
from atts.models.thought import Divider, united_ends
from atts.types import Author, Chain, Segment, Turn


class Piece(NamedTuple):
    """Text that a chain has come to hold, and that stays."""

    sample: int
    """The chain."""
    author: Author
    in_thought: bool
    """Whether it is part of the chain's thought, and not of its answer. The marks between the two
    are in no piece."""
    text: str


class ChainDone(NamedTuple):
    """A chain has ended; no piece of it follows."""

    sample: int
    chain: Chain
    thought: str
    """Its pieces of thought together."""
    reply: str
    """Its other pieces together. What follows a text of ``sampling.stop``, and that text, are in no
    piece."""
    stopped_at: str | None = None
    """The text of ``sampling.stop`` that has ended it."""


Event = Piece | ChainDone


class Listener:
    """Hears what becomes part of a chain, and ends the chain at a text to stop at, which models see
    only within a segment. The chain's watcher, before another one.
    """

    def __init__(
        self,
        chain: OpenChain,
        hear: Callable[[Piece], None],
        turn_done: Callable[[Turn], None],
        beneath: Watcher | None,
    ) -> None:
        authors = list(chain.models)
        ends = united_ends(chain.config.options_of(author).thought_ends for author in authors)
        self._chain = chain
        self._hear = hear
        self._turn_done = turn_done
        self._beneath = beneath
        self._stop = chain.config.sampling.stop
        self._divider = Divider(ends, chain.begins_in_thought)
        self._held = ""  # may be the beginning of a text to stop at
        self._author: Author = authors[0]
        self._parts: dict[bool, list[str]] = {True: [], False: []}
        self.stopped_at: str | None = None

    def appended(self, segment: Segment) -> None:
        """Hand on what is decided.

        Raises:
            ChainOverError: the chain is to end here.
        """
        if self._beneath:
            self._beneath.appended(segment)
        self._author = segment.author
        text = self._held + segment.text
        found = [(place, stop) for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            place, self.stopped_at = min(found)
            self._held = ""
            self._tell(self._divider.feed(text[:place]))
            raise ChainOverError(self._chain.stopped())
        known = len(text) - _overlap(text, self._stop)
        self._held = text[known:]
        self._tell(self._divider.feed(text[:known]))

    def decided(self, take_over: bool) -> None:
        """See ``Watcher``."""
        if self._beneath:
            self._beneath.decided(take_over)

    def turn_done(self, turn: Turn) -> None:
        """See ``Watcher``."""
        if self._beneath:
            self._beneath.turn_done(turn)
        self._turn_done(turn)

    def done(self, chain: Chain) -> ChainDone:
        """Hand on what was held back, when the chain has ended."""
        held, self._held = self._held, ""
        self._tell(self._divider.feed(held))
        self._tell(self._divider.close())
        thought, reply = ("".join(self._parts[kind]) for kind in (True, False))
        return ChainDone(chain.sample, chain, thought, reply, self.stopped_at)

    def _tell(self, parts: list[tuple[bool, str]]) -> None:
        for in_thought, text in parts:
            self._parts[in_thought].append(text)
            self._hear(Piece(self._chain.sample, self._author, in_thought, text))


def _overlap(text: str, stops: tuple[str, ...]) -> int:
    """How many characters at the end of a text begin one of others.

    >>> _overlap("So 4.\\n", ("\\n\\n", "END")), _overlap("So 4.", ("\\n\\n",))
    (1, 0)
    """
    longest = min(max(map(len, stops), default=1) - 1, len(text))
    return next(
        (n for n in range(longest, 0, -1) if any(stop.startswith(text[-n:]) for stop in stops)), 0
    )
