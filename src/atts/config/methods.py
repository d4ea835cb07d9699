"""The options of single methods: one group each, named after the method.

A result depends on the group of its own method alone, so the others are no part of its digest.
"""

from typing import Literal

from pydantic import Field

from atts.config.options import Options

RatingKind = Literal["greedy", "average"]
Writer = Literal["draft", "target"]


class SyncRankingOptions(Options):
    """How many of a problem's chains ``method=sync-ranking`` takes over in a turn."""

    take_overs: int | None = Field(default=None, ge=0)
    """The B worst of each turn; null takes as many as keep to ``take_over.rate``."""


class SpecReasonOptions(Options):
    """``method=specreason``; the defaults are those of its authors."""

    threshold: float = Field(default=7.0, ge=0.0)
    """A step that the target rates lower, from 0 to 9, is written again by the target."""
    rating: RatingKind = "greedy"
    """``greedy`` takes the digit that the target writes; ``average`` the mean of the ten digits by
    their probabilities."""
    first_target_steps: int = Field(default=0, ge=0)
    """The target writes so many steps before the draft begins."""
    step_tokens: int = Field(default=512, ge=1)
    """Longest step, where no blank line ends it."""
    token_budget: int = Field(default=8192, ge=1)
    """Tokens of a chain, after which it is given up; steps that were rejected do not count."""
    request: str = Field(
        default="Rate the last step of the reasoning so far. Judge only whether it is factually "
        "right and follows logically from the steps before it; style and usefulness do not "
        "matter. Give a score from 0 to 9.",
        min_length=1,
    )
    """The message that asks the target for its rating; it never becomes part of the chain."""
    reply: str = "I think the quality score is: "
    """How the target's reply to it begins; the digit follows."""


class SpeculativeThinkingOptions(Options):
    """``method=speculative-thinking``; the defaults are those of its authors."""

    triggers: tuple[str, ...] = Field(default=("\n\n",), min_length=1)
    """Where the draft stops, so that the target may take over."""
    draft_tokens: int = Field(default=1024, ge=1)
    """Most tokens that the draft writes without a trigger."""
    target_tokens: int = Field(default=20, ge=1)
    """Tokens that both models write after a trigger, and of which one text is kept."""
    choose_target: bool = True
    """Keep the target's text whenever it is asked; otherwise only if it disagrees with the draft's:
    one affirms, the other reflects."""
    always_ask: bool = False
    """Ask the target at every trigger, not only where the draft affirms, reflects or verifies; for
    drafts that were not trained to reason."""
    affirm: tuple[str, ...] = ("yeah", "yes", "final answer", "confident")
    """Words of affirmation; also within others, and in whatever case."""
    reflect: tuple[str, ...] = ("wait", "alternatively", "hold on", "another")
    """Words of reflection."""
    verify: tuple[str, ...] = ("verify", "think again", "recap", "check")
    """Words of verification; after a text that has one the target writes on."""
    think_words: str = ""
    """What is put before the text that follows a trigger."""
    verify_tokens: int = Field(default=125, ge=1)
    """Tokens that the target writes after a verification."""
    begin: bool = False
    """The target begins the chain."""
    begin_tokens: int = Field(default=100, ge=1)
    """Tokens that it begins with."""
    recap_words: str = "Let me check whether there are some wrong steps:"
    """How the target begins a recap, after too many reflections."""
    recap_tokens: int = Field(default=125, ge=1)
    """Tokens of the first recap."""
    recap_tokens_step: int = Field(default=25, ge=0)
    """How much longer each recap is than the one before."""
    recap_tokens_most: int = Field(default=200, ge=1)
    """Tokens of the longest recap."""
    recap_after: int = Field(default=15, ge=1)
    """Reflections before the first recap."""
    recap_after_step: int = Field(default=5, ge=0)
    """How many more reflections there are before each further recap."""
    recap_after_most: int = Field(default=30, ge=1)
    """Most reflections before a recap."""
    time_out_seconds: float | None = Field(default=None, gt=0.0)
    """A chain that has taken so long is given up as it stands, when its request has come back;
    null sets no limit. With one, results depend on the speed of the machine."""


class BestOfNOptions(Options):
    """``method=best-of-n``."""

    author: Writer = "draft"
    """Who writes the chains; the target rates them in either case."""


class SelfConsistencyOptions(Options):
    """``method=self-consistency``."""

    author: Writer = "target"
    """Who writes the chains; the other model is not needed."""
