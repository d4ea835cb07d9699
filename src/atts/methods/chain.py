"""One chain while it is being written: what the methods read and write.

The chain keeps its past as token ids per model and only ever appends to them, so the prefix
that a model is sent in one turn begins with exactly the ids of the turn before, and the
model's prefix cache hits.
"""

from collections import Counter
from typing import NamedTuple, Protocol

from atts.config import Config
from atts.engines.base import (
    ChainMark,
    Engine,
    GenerateRequest,
    Prefetch,
    Purpose,
    Sampling,
    Scored,
    ScoreRequest,
    all_finite,
)
from atts.errors import EngineError
from atts.grading.answers import find_answer
from atts.methods.decider import Decider
from atts.models.prompts import Tokenizer
from atts.models.thought import united_ends
from atts.seeds import seed_at
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


class Written(NamedTuple):
    """What a model wrote, before it is part of the chain."""

    segment: Segment
    token_ids: dict[Author, list[int]]
    """The segment as each model of the chain sees it."""
    stop: tuple[str, ...] = ()
    """The texts at which its author was to stop for a while."""
    logprobs: tuple[float, ...] | None = None
    """Of its token ids under its author, in nats, where they were asked for."""

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


class ChainOverError(Exception):
    """Ends a chain where it stands, whatever its method would do next."""

    def __init__(self, end: ChainEnd) -> None:
        super().__init__(end)
        self.end = end


class Watcher(Protocol):
    """Is told what a chain does, as it does it."""

    def decided(self, take_over: bool) -> None:
        """It was decided by a score whether the target takes over."""
        ...

    def turn_done(self, turn: Turn) -> None:
        """A turn has ended."""
        ...

    def appended(self, segment: Segment) -> None:
        """A segment has become part of the chain, and stays.

        Raises:
            ChainOverError: the chain is to end with it.
        """
        ...


class OpenChain:
    """A chain in the making: its text, its tokens as each model sees them, and its record.

    ``stream`` tells apart chains that have the same problem and sample number but must not
    be the same, such as those of a calibration and of the run that uses it.
    """

    def __init__(
        self,
        problem: Problem,
        sample: int,
        models: Models,
        config: Config,
        decider: Decider | None = None,
        stream: str = "run",
    ) -> None:
        self.problem = problem
        self.sample = sample
        self.models = models
        self.config = config
        self.decider = decider
        self.seed_path = (config.seed, stream, problem.id, sample)
        """Where its random draws come from."""
        self.mark = ChainMark()
        self.watcher: Watcher | None = None
        self.text = ""
        self.token_ids = {
            author: model.tokenizer.prompt(problem, config.prompt)
            for author, model in models.items()
        }
        """The prompt and the text, as each model sees them."""
        self.prompt_tokens = {author: len(ids) for author, ids in self.token_ids.items()}
        self.most_tokens: int | None = None
        """Most tokens that it may have; None: as many as its method lets it."""
        self.tokens = 0
        """Tokens written that became part of the chain, each in its author's vocabulary."""
        self._doubted = 0  # up to here, no answer ends the chain
        self._ends = united_ends(config.options_of(author).thought_ends for author in models)
        first: Author = "draft" if "draft" in models else "target"
        self.begins_in_thought = models[first].tokenizer.is_in_thought(self.token_ids[first])
        """Whether the prompt has opened a thought."""
        self._turns: list[Turn] = []
        # Of the present turn:
        self._segments: list[Segment] = []
        self._requests: Counter[Author] = Counter()
        self.decision: Decision | None = None
        self.rating: Rating | None = None
        self.discarded: Discarded | None = None
        self.waited_seconds = 0.0

    @property
    def turn(self) -> int:
        """The number of the present turn, from 0."""
        return len(self._turns)

    @property
    def one_vocabulary(self) -> bool:
        """Whether all its models can read each other's token ids."""
        return len({model.tokenizer.vocabulary for model in self.models.values()}) == 1

    @property
    def tokens_left(self) -> int:
        """What is left of the tokens that ``atts`` may use in all its turns."""
        turns = self.config.turns
        most = turns.max_turns * (turns.draft_tokens + turns.target_tokens)
        return max(0, most - self.tokens)

    def within_limit(self, max_tokens: int, after: int = 0) -> int:
        """So many tokens, or what ``most_tokens`` leaves of them once ``after`` more are there."""
        if self.most_tokens is None:
            return max_tokens
        return min(max_tokens, max(0, self.most_tokens - self.tokens - after))

    @property
    def answer(self) -> str | None:
        """What the chain has come to so far, if anything; grading uses the same function."""
        return find_answer(self.problem, self.text, self._ends, self.begins_in_thought)

    @property
    def has_concluded(self) -> bool:
        """Whether there is an answer that is not in doubt."""
        return self._concludes(self.text, finished=False)

    def would_conclude(self, text: str) -> bool:
        """Whether there will be such an answer once all its text is this."""
        return self._concludes(text, finished=False)

    def _concludes(self, text: str, finished: bool) -> bool:
        answer = find_answer(
            self.problem,
            text,
            self._ends,
            self.begins_in_thought,
            since=self._doubted,
            finished=finished,
        )
        return answer is not None

    def doubt_answer(self) -> None:
        """Let what the chain now holds as its answer no longer end it; a later one will.

        For where the target takes over: it has just found that answer improbable, and may need
        more than one turn to put another in its place.
        """
        if self._concludes(self.text, finished=True):
            self._doubted = len(self.text)

    def stopped(self) -> ChainEnd:
        """How the chain ended, where a model wrote its end-of-sequence."""
        return "stop" if self.answer is None else "answer"

    def sampling(
        self, author: Author, max_tokens: int, seed: int, stop: tuple[str, ...] = ()
    ) -> Sampling:
        """How a model samples; ``stop`` are texts beside those of the configuration."""
        options = self.config.sampling
        own = self.config.options_of(author).sampling
        temperature = options.temperature if own.temperature is None else own.temperature
        top_p = options.top_p if own.top_p is None else own.top_p
        return Sampling(max_tokens, temperature, top_p, seed, options.stop + stop)

    def next_seed(self, author: Author) -> int:
        """The seed of a model's next request, from the run's seed and the position in the chain."""
        again = self._requests[author]
        self._requests[author] += 1
        purpose = f"{author} {again}" if again else author
        return seed_at(*self.seed_path, self.turn, purpose)

    async def generate(
        self,
        author: Author,
        max_tokens: int,
        *,
        stop: tuple[str, ...] = (),
        begin_with: str = "",
        purpose: Purpose = "write",
        ahead: Prefetch | None = None,
        logprobs: bool = False,
    ) -> Written:
        """Have a model continue the chain; the result is not part of it yet.

        Args:
            author: the model.
            max_tokens: most tokens that it writes.
            stop: texts at which it stops for a while, beside those of the configuration.
            begin_with: what is put before its text, as the beginning of it.
            purpose: what for.
            ahead: may have made this very request already.
            logprobs: ask for those of what it writes, too. Models of one vocabulary then all see
                the tokens that were written.

        Raises:
            ChainOverError: the chain has all the tokens that it may have.
        """
        most = self.within_limit(max_tokens)
        if not most:
            raise ChainOverError("turns")
        engine, tokenizer = self.models[author]
        begun = tokenizer.encode(begin_with) if begin_with else []
        sampling = self.sampling(author, most, self.next_seed(author), stop)
        request = GenerateRequest(
            self.token_ids[author] + begun,
            sampling,
            self.mark,
            self.turn,
            purpose,
            logprobs=logprobs,
        )
        completion = await ahead.take(request) if ahead else None
        if completion is None:
            completion = await engine.generate(request)
        ids, text = tokenizer.decode_whole_characters(list(completion.token_ids))
        segment = Segment(
            author=author,
            text=begin_with + text,
            tokens=len(completion.token_ids),
            finish_reason=completion.finish_reason,
            cached_tokens=completion.cached_tokens,
            timings=completion.timings,
        )
        if logprobs:
            found = None if completion.logprobs is None else completion.logprobs[: len(ids)]
            if self.one_vocabulary:
                return Written(segment, dict.fromkeys(self.models, ids), stop, found)
            return Written(segment, self._for_all_models(segment, begun + ids), stop, found)
        return Written(segment, self._for_all_models(segment, begun + ids), stop)

    async def score(
        self, ids: list[int], start: int, purpose: Purpose = "score", top: int = 0
    ) -> Scored:
        """The target's log-probabilities of ``ids[start:]``, one each and all finite; and the
        ``top`` largest at each position, if its engine gives them.

        Raises:
            EngineError: the target gave no usable log-probabilities.
        """
        request = ScoreRequest(ids, start, self.mark, self.turn, purpose, top=top)
        scored = await self.models["target"].engine.score(request)
        if len(scored.logprobs) != len(ids) - start or not all_finite(scored.logprobs):
            raise EngineError(
                f"the target scored {len(scored.logprobs)} of {len(ids) - start} tokens, mean "
                f"{scored.logprobs.mean()}: these are not usable log-probabilities"
            )
        return scored

    def with_text(self, written: Written, text: str) -> Written:
        """The segment with another text in place of its own."""
        segment = written.segment.model_copy(update={"text": text})
        return written._replace(segment=segment, token_ids=self._for_all_models(segment))

    def _for_all_models(
        self, segment: Segment, ids: list[int] | None = None
    ) -> dict[Author, list[int]]:
        """A segment's token ids as each model sees them; ``ids`` are its author's, if known."""
        return {
            author: ids
            if ids is not None and author == segment.author
            else model.tokenizer.encode(segment.text)
            for author, model in self.models.items()
        }

    def append(self, written: Written) -> None:
        """Make a segment part of the chain, for all models."""
        self.tokens += written.segment.kept_tokens
        self._segments.append(written.segment)
        self.text += written.segment.text
        for author, ids in written.token_ids.items():
            self.token_ids[author] += ids
        if self.watcher:
            self.watcher.appended(written.segment)

    def discard(self, written: Written) -> None:
        """Record a segment that does not become part of the chain."""
        self._segments.append(written.segment.model_copy(update={"kept": False}))

    def end_turn(self) -> None:
        """Put what was written, decided and rated since the last turn into the record."""
        turn = Turn(
            segments=tuple(self._segments),
            decision=self.decision,
            rating=self.rating,
            waited_seconds=self.waited_seconds,
            discarded=self.discarded,
        )
        self._turns.append(turn)
        self._segments, self._requests = [], Counter()
        self.decision = self.rating = self.discarded = None
        self.waited_seconds = 0.0
        if self.watcher:
            self.watcher.turn_done(turn)

    def record(self, end: ChainEnd, started: float, done: float, error: str | None = None) -> Chain:
        """The chain as it stands, an unfinished turn included; times are the run's seconds."""
        if self._segments or self.decision or self.rating:
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
