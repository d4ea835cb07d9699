"""One chain while it is being written: what the methods read and write.

The chain keeps its past as token ids per model and only ever appends to them, so the prefix
that a model is sent in one turn begins with exactly the ids of the turn before, and the
model's prefix cache hits.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

from atts.config import Config
from atts.conformal.control import Control, Verdict
from atts.conformal.scores import all_scores
from atts.engines.base import Engine, Sampling, Scored
from atts.grading.extract import extract_answer
from atts.methods.ahead import Ahead
from atts.methods.rating import rate_likelihood, rate_step, score_tokens
from atts.methods.repetition import repeats
from atts.models.prompts import Tokenizer
from atts.seeds import seed_at, tie_breaker
from atts.types import (
    Author,
    Chain,
    ChainEnd,
    Decision,
    Discarded,
    FinishReason,
    Problem,
    Rating,
    Segment,
    Turn,
)

if TYPE_CHECKING:
    from atts.methods.sync_ranking import Ranking


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


class Model(NamedTuple):
    """A served model and its tokenizer."""

    engine: Engine
    tokenizer: Tokenizer


Models = dict[Author, Model]


class Watcher(Protocol):
    """Is told what a chain does, as it does it."""

    def decided(self, take_over: bool) -> None:
        """It was decided by a score whether the target takes over."""
        ...

    def turn_done(self, turn: Turn) -> None:
        """A turn has ended."""
        ...


class OpenChain:
    """A chain in the making.

    ``stream`` tells apart chains that have the same problem and sample number but must not
    be the same, such as those of a calibration and of the run that uses it.
    """

    def __init__(
        self,
        problem: Problem,
        sample: int,
        models: Models,
        config: Config,
        control: Control | None = None,
        stream: str = "run",
        ranking: "Ranking | None" = None,
    ) -> None:
        self.problem = problem
        self.sample = sample
        self.config = config
        self._models = models
        self._control = control
        self._ranking = ranking
        self._place = (config.seed, stream, problem.id, sample)  # where its draws come from
        self.watcher: Watcher | None = None
        self._turns: list[Turn] = []
        self._segments: list[Segment] = []
        self._decision: Decision | None = None
        self._ahead = Ahead()
        self._discarded: Discarded | None = None
        self._rating: Rating | None = None
        self._requests: Counter[Author] = Counter()  # of the present turn
        self._waited = 0.0
        self._taking_over = False
        self._text = ""
        self._doubted = 0  # up to here, no box ends the chain
        self._token_ids = {
            author: model.tokenizer.prompt(problem, config.prompt)
            for author, model in models.items()
        }
        self._prompt_tokens = {author: len(ids) for author, ids in self._token_ids.items()}
        self.tokens = 0
        """Tokens written that became part of the chain, each in its author's vocabulary."""

    @property
    def tokens_left(self) -> int:
        """What is left of the tokens that ``atts`` may use in all its turns."""
        turns = self.config.turns
        most = turns.max_turns * (turns.draft_tokens + turns.target_tokens)
        return max(0, most - self.tokens)

    @property
    def answer(self) -> str | None:
        """What the chain has come to so far, if anything; grading uses the same function."""
        return extract_answer(self._text, self.problem.choices)

    @property
    def has_concluded(self) -> bool:
        """Whether there is an answer that is not in doubt."""
        return self._concludes(self._text)

    def would_conclude(self, written: Written) -> bool:
        """Whether there will be such an answer with a segment that is not part of it yet."""
        return self._concludes(self._text + written.segment.text)

    def _concludes(self, text: str) -> bool:
        return extract_answer(text[self._doubted :], self.problem.choices) is not None

    @property
    def repeats_itself(self) -> bool:
        """Whether the text has run into a loop, if such chains are to be ended."""
        return self._repeats(self._text)

    def _repeats(self, text: str) -> bool:
        return self.config.stop.repeating and repeats(text)

    def doubt_answer(self) -> None:
        """Let what the chain now holds as its answer no longer end it; a later one will.

        For where the target takes over: it has just found that answer improbable, and may need
        more than one turn to put another in its place.
        """
        if self.has_concluded:
            self._doubted = len(self._text)

    def stopped(self) -> ChainEnd:
        """How the chain ended, where a model wrote its end-of-sequence."""
        return "stop" if self.answer is None else "answer"

    async def generate(
        self, author: Author, max_tokens: int, stop: tuple[str, ...] = (), begin_with: str = ""
    ) -> Written:
        """Have a model continue the chain; the result is not part of it yet.

        Args:
            author: the model.
            max_tokens: most tokens that it writes.
            stop: texts at which it stops for a while, beside those of the configuration.
            begin_with: what is put before its text, as the beginning of it.
        """
        engine, tokenizer = self._models[author]
        begun = tokenizer.encode(begin_with) if begin_with else []
        ids = self._token_ids[author] + begun
        sampling = self._sampling(max_tokens, self._seed(author), stop)
        try:
            completion = await self._ahead.take(ids, sampling)
            if completion is None:
                completion = await engine.generate(ids, sampling)
        finally:
            if self._taking_over and self._control is not None and author == "target":
                self._taking_over = False
                self._control.take_over_done()
        ids, text = tokenizer.decode_whole_characters(list(completion.token_ids))
        segment = Segment(
            author=author,
            text=begin_with + text,
            tokens=len(completion.token_ids),
            finish_reason=completion.finish_reason,
            cached_tokens=completion.cached_tokens,
            timings=completion.timings,
        )
        return Written(segment, self._for_all_models(segment, begun + ids), stop)

    def without(self, written: Written, text: str) -> Written:
        """The segment with every occurrence of a text taken out."""
        left = written.segment.text.replace(text, "")
        segment = written.segment.model_copy(update={"text": left})
        return written._replace(segment=segment, token_ids=self._for_all_models(segment))

    def _for_all_models(
        self, segment: Segment, ids: list[int] | None = None
    ) -> dict[Author, list[int]]:
        """A segment's token ids as each model sees them; ``ids`` are its author's, if known."""
        return {
            author: ids
            if ids is not None and author == segment.author
            else model.tokenizer.encode(segment.text)
            for author, model in self._models.items()
        }

    def _draft_ahead(self, written: Written) -> None:
        """Let the draft begin with the segment that comes next if ``written`` stays.

        What it writes is what ``generate`` would have had it write later, and waits for that
        call. Where the target takes over it is thrown away. Nothing is begun if the chain ends
        with ``written``, or by the configuration.
        """
        turns = self.config.turns
        if (
            not self.config.overlaps
            or len(self._turns) + 1 >= turns.max_turns
            or written.finish_reason == "stop"
            or self.would_conclude(written)
            or self._repeats(self._text + written.segment.text)
        ):
            return
        self._ahead.start(
            self._models["draft"].engine,
            self._token_ids["draft"] + written.token_ids["draft"],
            self._sampling(
                turns.draft_tokens, seed_at(*self._place, len(self._turns) + 1, "draft")
            ),
        )

    async def decide(self, written: Written) -> bool:
        """Have the target score a segment, while the draft writes ahead; whether it takes over.

        The score is by default s = -(1/n) sum_i log q(y_i | x, y_<i), in nats per target token
        (arXiv 2509.15148, section 3); ``atts.conformal.scores`` has the others.

        Raises:
            EngineError: the target gave no usable log-probabilities.
        """
        if self._control is None:
            raise ValueError("this chain has no control to decide by")
        self._draft_ahead(written)
        scored, scores = await self._scores(written)
        verdict = self._control.decide(
            self.problem.id,
            len(self._turns),
            scores[self.config.take_over.score.kind],
            tie_breaker(*self._place, len(self._turns)),
        )
        self._taking_over = verdict.take_over
        self._decided(verdict, scored, scores, self._control.next_order())
        if verdict.take_over:
            await self.drop_ahead()
        return verdict.take_over

    async def rank(self, written: Written) -> bool:
        """Have the target score a segment and wait for the problem's other chains; whether this
        one is among the worst, so that the target takes over.

        Raises:
            EngineError: the target gave no usable log-probabilities.
        """
        if self._ranking is None:
            raise ValueError("this chain has no others to be ranked with")
        scored, scores = await self._scores(written)
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            verdict = await self._ranking.decide(
                self.sample,
                len(self._turns),
                scores[self.config.take_over.score.kind],
                tie_breaker(*self._place, len(self._turns)),
            )
        finally:
            self._waited = clock() - began
        self._decided(verdict, scored, scores)
        return verdict.take_over

    async def rate_step(self, written: Written) -> float:
        """Have the target rate a segment as the next step of the chain, from 0 to 9.

        Raises:
            ConfigError: its chat template refuses the request.
        """
        engine, tokenizer = self._models["target"]
        new = written.token_ids["target"]
        self._rating = await rate_step(
            engine, tokenizer, self._token_ids["target"] + new, len(new), self.config.specreason
        )
        return self._rating.value

    async def rate_likelihood(self) -> None:
        """Have the target rate all that was written by its mean log-likelihood, if there is any.

        Raises:
            EngineError: the target gave no usable log-probabilities.
        """
        ids, start = self._token_ids["target"], self._prompt_tokens["target"]
        if len(ids) > start:
            self._rating = await rate_likelihood(self._models["target"].engine, ids, start)

    @contextmanager
    def waited_for(self) -> Iterator[None]:
        """The problem's other chains wait for this one inside, and no longer after, whatever
        ends it.
        """
        try:
            yield
        finally:
            if self._ranking:
                self._ranking.leave(self.sample)

    async def _scores(self, written: Written) -> tuple[Scored, dict[str, float]]:
        """What the target finds of a segment, and the segment's score by every kind."""
        prefix = self._token_ids["target"]
        scored = await score_tokens(
            self._models["target"].engine, prefix + written.token_ids["target"], len(prefix)
        )
        return scored, all_scores(scored.logprobs, self.config.take_over.score)

    def _decided(
        self,
        verdict: Verdict,
        scored: Scored,
        scores: dict[str, float],
        order: int | None = None,
    ) -> None:
        if self.watcher:
            self.watcher.decided(verdict.take_over)
        self._decision = Decision(
            score=scores[self.config.take_over.score.kind],
            p_value=verdict.p_value,
            take_over=verdict.take_over,
            threshold=verdict.threshold,
            order=order,
            scores=scores,
            scored_tokens=len(scored.logprobs),
            cached_tokens=scored.cached_tokens,
            timings=scored.timings,
        )

    async def drop_ahead(self) -> None:
        """Abort what the draft has begun ahead. To be called whatever way the chain ends."""
        self._discarded = await self._ahead.drop() or self._discarded

    def append(self, written: Written) -> None:
        """Make a segment part of the chain, for all models."""
        self.tokens += written.segment.tokens
        self._segments.append(written.segment)
        self._text += written.segment.text
        for author, ids in written.token_ids.items():
            self._token_ids[author] += ids

    def discard(self, written: Written) -> None:
        """Record a segment that does not become part of the chain."""
        self._segments.append(written.segment.model_copy(update={"kept": False}))

    def end_turn(self) -> None:
        turn = Turn(
            segments=tuple(self._segments),
            decision=self._decision,
            rating=self._rating,
            waited_seconds=self._waited,
            discarded=self._discarded,
        )
        self._turns.append(turn)
        self._segments, self._decision, self._rating, self._waited = [], None, None, 0.0
        self._discarded = None
        self._requests.clear()
        if self.watcher:
            self.watcher.turn_done(turn)

    def record(self, end: ChainEnd, started: float, done: float, error: str | None = None) -> Chain:
        """The chain as it stands, an unfinished turn included; times are the run's seconds."""
        if self._segments or self._decision or self._rating:
            self.end_turn()
        return Chain(
            problem_id=self.problem.id,
            sample=self.sample,
            end=end,
            answer=self.answer,
            turns=tuple(self._turns),
            started=started,
            done=done,
            error=error,
        )

    def _sampling(self, max_tokens: int, seed: int, stop: tuple[str, ...] = ()) -> Sampling:
        return Sampling(
            max_tokens=max_tokens,
            temperature=self.config.sampling.temperature,
            top_p=self.config.sampling.top_p,
            seed=seed,
            stop=self.config.sampling.stop + stop,
        )

    def _seed(self, author: Author) -> int:
        """The seed of a model's next request: from the run's seed and this place in this chain."""
        again = self._requests[author]
        self._requests[author] += 1
        purpose = f"{author} {again}" if again else author
        return seed_at(*self._place, len(self._turns), purpose)
