"""What a model wrote, on its way into a chain."""

from typing import NamedTuple

from atts.types import Author, FinishReason, Segment


class Written(NamedTuple):
    """What a model wrote, before it is part of the chain."""

    segment: Segment
    token_ids: dict[Author, list[int]]
    """The segment as each model of the chain sees it."""
    stop: tuple[str, ...] = ()
    """The texts at which its author was to stop for a while."""

    @property
    def at_stop_string(self) -> bool:
        """Whether its author stopped at one of them, and would go on."""
        return self.finish_reason == "stop" and any(text in self.segment.text for text in self.stop)

    @property
    def is_last(self) -> bool:
        """Whether its author wrote its end-of-sequence."""
        return self.finish_reason == "stop" and not self.at_stop_string

    @property
    def is_empty(self) -> bool:
        return not all(self.token_ids.values())

    @property
    def finish_reason(self) -> FinishReason:
        return self.segment.finish_reason
