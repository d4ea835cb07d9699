"""The nouns of the system: problems, and what is recorded of the chains that solve them.

All of these are written to and read from JSON lines, so they are validated models; the
types that only pass between a method and an engine live in ``atts.engines.base``.
"""

from collections.abc import Iterator
from math import inf
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from atts.errors import is_passing

Author = Literal["draft", "target"]
FinishReason = Literal["stop", "length"]
"""Why a model stopped writing: it wrote its end-of-sequence token, or reached the limit."""

ChainEnd = Literal[
    "answer", "stop", "turns", "time-out", "context", "repeats", "failed", "not-needed"
]
"""Why a chain ended: an answer in ``\\boxed{}``, an end-of-sequence without one, the last
turn or the last token that it may have, a method's time-out, a full context window, a text that had
run into a loop, an error, or because its problem's answer was settled without it."""


# Figures are sums and ratios of these, which a single absurd one in a damaged file would spoil.
Count = Annotated[int, Field(ge=0, le=10**12)]
"""How many there are of something."""

Seconds = Annotated[float, Field(ge=-1e12, le=1e12)]
"""A moment on a clock, or a duration."""

Number = Annotated[float, Field(ge=-inf)]
"""May be infinite, but is a number."""


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""What the options of a multiple-choice question are called, in order."""


class Record(BaseModel):
    """Base of everything that is stored: immutable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Case(Record):
    """What a program is given, and what has to come of it."""

    input: str
    output: str


class ProgramTests(Record):
    """What a program must do, where the answer to a problem is one: either of two kinds."""

    check: str | None = None
    """Python that defines ``check(candidate)``, which raises where ``entry_point`` is wrong."""
    cases: tuple[Case, ...] = ()
    """Of the whole program, what it reads and prints; of ``entry_point``, if there is one, its
    arguments, each as a line of JSON, and what it returns, as JSON."""
    entry_point: str | None = None
    """The function that is tested, or the method of a class ``Solution``."""
    before: str = ""
    """Python that the program may rely on: imports, other functions."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.check is None) == (not self.cases):
            raise ValueError("tests are either a check or cases")
        if self.check is not None and not self.entry_point:
            raise ValueError("a check needs an entry_point")
        return self


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Problem(Record):
    """A question, with its gold answer where one is known."""

    id: str = Field(min_length=1)
    question: str = Field(min_length=1)
    answer: str | None = Field(default=None, min_length=1)
    """Without one, its chains vote like any others and are not graded."""
    choices: tuple[str, ...] = ()
    """The options of a multiple-choice question, in the order shown; empty if open."""
    messages: tuple[Message, ...] = ()
    """A conversation that ends with the question, which the models are shown as it stands; empty:
    the question alone, in the words of ``prompt``."""
    tests: ProgramTests | None = None
    """Makes the answer a program, which is right if it passes them."""

    @property
    def is_graded(self) -> bool:
        """Whether it is known what is right."""
        return self.answer is not None or self.tests is not None

    @model_validator(mode="after")
    def _user_has_the_last_word(self) -> Self:
        if self.messages and self.messages[-1].role != "user":
            raise ValueError("the last of the messages must be the user's")
        return self

    @model_serializer(mode="wrap")
    def _what_there_is(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        tree: dict[str, Any] = handler(self)
        for key in ("answer", "messages", "tests"):
            if not tree.get(key):
                tree.pop(key, None)
        return tree


class ChainKey(NamedTuple):
    """What identifies a chain within a run."""

    problem_id: str
    sample: int


class Timings(Record):
    """Moments in the life of one request, in seconds on the process's monotonic clock."""

    queued: Seconds
    """The request was made."""
    started: Seconds
    """The engine began to work on it."""
    first_token: Seconds
    """The first token (or the scores) existed."""
    done: Seconds


class Segment(Record):
    """The text that one model added to a chain in one request."""

    author: Author
    text: str
    tokens: Count
    """Number of tokens, in the author's own vocabulary."""
    finish_reason: FinishReason
    cached_tokens: Count
    """Length of the prefix whose key-value cache the author's engine still held."""
    timings: Timings
    kept: bool = True
    """False if this did not become part of the chain, because another text took its place."""
    cut: str = ""
    """What was cut off behind ``text``, because the target found its beginning too surprising, or
    because segments that had come with it are of no use any more."""
    cut_tokens: Count = 0
    """How many of ``tokens`` that was."""
    with_former: bool = False
    """Whether it came with the segment of the turn before, in one request, whose timings these
    are."""

    @property
    def kept_tokens(self) -> int:
        """Tokens that became part of the chain."""
        return max(0, self.tokens - self.cut_tokens) if self.kept else 0


class Gate(Record):
    """What the draft's own confidence said of a segment, before the target was asked."""

    surprise: Number | None
    """The draft's largest -log p of a token, in nats; None where a coin decides."""
    p_value: Number
    threshold: Number
    """It may pass where the p-value is at most this."""


class Decision(Record):
    """The conformal decision on one draft segment."""

    score: Number
    """Nonconformity by ``take_over.score``; by default the largest surprise of a target token, in
    nats. Of a segment that passed the gate, the least that a number can be."""
    p_value: Number
    take_over: bool
    threshold: Number | None = None
    """What the p-value was compared with. A take-over below it that did not happen was refused by
    a budget."""
    order: Count | None = None
    """Number of the decision in its run, from 0, in the order in which scores arrived. Chains that
    were lost with a killed process leave gaps."""
    scores: dict[str, Number] = {}
    """The segment's score by every kind of score, so that kinds can be compared."""
    surprises: tuple[Number, ...] = ()
    """Of each token of the segment, -log q in nats, to two digits; see
    ``take_over.record_surprises``."""
    scored_tokens: Count
    """Number of tokens, in the target's vocabulary, that were scored; where the target takes over,
    with those of the segments that had come with it and are of no use any more."""
    cached_tokens: Count
    timings: Timings
    with_former: bool = False
    """Whether it was scored with the segment of the turn before, in one request, whose timings
    these are."""
    gate: Gate | None = None
    """What let the segment pass, or not; None where there is no gate."""
    passed: bool = False
    """Whether it passed the gate, and so counts as conforming: it was not scored."""

    @property
    def is_request(self) -> bool:
        """Whether the target was asked for it alone, or first of several."""
        return self.scored_tokens > 0 and not self.with_former


class Discarded(Record):
    """What the draft had begun ahead of a decision, and what was then not needed."""

    tokens: Count | None
    """None where the request was aborted: engines do not tell how far it had come."""
    seconds: Seconds
    """For how long it ran, or waited to run."""


class Rating(Record):
    """What the target thinks of a text of the chain, where a method asks it."""

    value: Number
    """Higher is better: 0 to 9 of a step (``specreason``), or the mean log-likelihood of a chain's
    tokens, in nats (``best-of-n``)."""
    read_tokens: Count
    """Tokens that the target read for it, in its own vocabulary: the text, and the request."""
    written_tokens: Count = 0
    """Tokens that the target wrote for it; they are no part of the chain."""
    cached_tokens: Count
    timings: Timings


class Speculation(Record):
    """How a server's speculative decoding went, over many requests."""

    passes: Count = 0
    """Of the model, each over the tokens that were proposed."""
    proposed: Count = 0
    accepted: Count = 0
    """Of those proposed; each pass adds one more of the model's own."""

    def __add__(self, other: "Speculation") -> "Speculation":
        return Speculation(
            passes=self.passes + other.passes,
            proposed=self.proposed + other.proposed,
            accepted=self.accepted + other.accepted,
        )

    def since(self, before: "Speculation") -> "Speculation":
        """What came after a moment; all, if the server was started again meanwhile.

        >>> Speculation(passes=9, proposed=36, accepted=18).since(Speculation(passes=4))
        Speculation(passes=5, proposed=36, accepted=18)
        """
        if before.passes > self.passes:
            before = Speculation()
        return Speculation(
            passes=self.passes - before.passes,
            proposed=self.proposed - before.proposed,
            accepted=self.accepted - before.accepted,
        )

    @property
    def tokens_a_pass(self) -> float:
        """Tokens that each pass of the model brought; 1 without speculation."""
        return 1.0 + self.accepted / self.passes if self.passes else 1.0


class Turn(Record):
    """One round of a chain: what was written, and what was decided about it."""

    segments: tuple[Segment, ...]
    decision: Decision | None = None
    """None where nothing was decided by a score: other methods, or an empty segment."""
    rating: Rating | None = None
    waited_seconds: Seconds = 0.0
    """Time that the chain spent waiting for other chains; always 0 where none waits for another."""
    discarded: Discarded | None = None
    """The draft's next segment, begun during this turn and thrown away with its decision."""

    def written(self, author: Author) -> int:
        """Tokens of an author's segments, kept or not."""
        return sum(segment.tokens for segment in self.segments if segment.author == author)

    @property
    def take_over(self) -> bool | None:
        """Whether the target wrote on where the draft had written; None if the draft did not."""
        if self.decision:
            return self.decision.take_over
        if all(segment.author == "target" for segment in self.segments):
            return None
        return any(segment.author == "target" and segment.kept for segment in self.segments)


class Chain(Record):
    """One finished line of reasoning: a line of ``chains.jsonl``."""

    problem_id: str
    sample: Count
    end: ChainEnd
    answer: str | None
    """What ``grading.answers`` finds in the text: the last box as written, a letter, a program."""
    turns: tuple[Turn, ...]
    started: Seconds
    """Seconds since the run's clock started."""
    done: Seconds
    error: str | None = None

    @property
    def key(self) -> ChainKey:
        return ChainKey(self.problem_id, self.sample)

    @property
    def is_needed(self) -> bool:
        """Whether the chain came to an end of its own; only then is it right or wrong."""
        return self.end != "not-needed"

    @property
    def is_finished(self) -> bool:
        """Whether it neither failed nor was ended because it was not needed."""
        return self.is_needed and self.end != "failed"

    @property
    def is_lost(self) -> bool:
        """Whether it failed in a passing way: that is no result, and the same command makes it
        again.
        """
        return self.end == "failed" and is_passing(self.error)

    @property
    def seconds(self) -> float:
        """From its start to its end."""
        return self.done - self.started

    @property
    def segments(self) -> Iterator[Segment]:
        """All that was written, in order."""
        return (segment for turn in self.turns for segment in turn.segments)

    @property
    def text(self) -> str:
        """The chain's reasoning as it stands, without segments that were replaced."""
        return "".join(segment.text for segment in self.segments if segment.kept)

    def written(self, author: Author) -> int:
        """Tokens of an author's segments, kept or not."""
        return sum(turn.written(author) for turn in self.turns)

    def kept(self, author: Author) -> int:
        """Tokens of an author's that are part of the chain: neither replaced nor cut off."""
        return sum(each.kept_tokens for each in self.segments if each.author == author)

    @property
    def decisions(self) -> Iterator[tuple[int, Decision]]:
        """Each decision with the number of its turn, from 0."""
        return ((n, turn.decision) for n, turn in enumerate(self.turns) if turn.decision)

    @property
    def scores(self) -> tuple[float | None, ...]:
        """The score of each turn's draft segment; None where nothing was decided by one."""
        return tuple(
            turn.decision.score if turn.decision and not turn.decision.passed else None
            for turn in self.turns
        )

    @property
    def scored_tokens(self) -> int:
        """Tokens that the target read in order to decide."""
        return sum(decision.scored_tokens for _, decision in self.decisions)

    @property
    def take_overs(self) -> int:
        """In how many turns the target took over."""
        return sum(bool(turn.take_over) for turn in self.turns)

    @property
    def waited_seconds(self) -> float:
        """Time spent waiting for other chains."""
        return sum(turn.waited_seconds for turn in self.turns)
