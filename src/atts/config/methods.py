"""The options of single methods: one group each, named after the method.

A result depends on the group of its own method alone, so the others are no part of its digest.
"""

from pydantic import Field

from atts.config.options import Options


class SyncRankingOptions(Options):
    """How many of a problem's chains ``method=sync-ranking`` takes over in a turn."""

    take_overs: int | None = Field(default=None, ge=0)
    """The B worst of each turn; null takes as many as keep to ``take_over.rate``."""
