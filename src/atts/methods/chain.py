"""One chain while it is being written: what the methods read and write.

The chain keeps its past as token ids per model and only ever appends to them, so the prefix
that a model is sent in one turn begins with exactly the ids of the turn before, and the
model's prefix cache hits.
"""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from atts.config import Config
from atts.conformal.control import Control
from atts.conformal.scores import all_scores
from atts.engines.base import Engine, Sampling
from atts.errors import EngineError
from atts.grading.extract import extract_answer
from atts.prompts import Tokenizer
from atts.types import Author, Chain, ChainEnd, Decision, FinishReason, Problem, Segment, Turn


class Model(NamedTuple):
    """A served model and its tokenizer."""

    engine: Engine
    tokenizer: Tokenizer


Models = dict[Author, Model]


class Written(NamedTuple):
    """What a model wrote, before it is part of the chain."""

    segment: Segment
    token_ids: dict[Author, list[int]]
    """The segment as each model of the chain sees it."""

    @property
    def is_empty(self) -> bool:
        return not all(self.token_ids.values())

    @property
    def finish_reason(self) -> FinishReason:
        return self.segment.finish_reason


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
    ) -> None:
        self.problem = problem
        self.sample = sample
        self.config = config
        self._models = models
        self._control = control
        self._stream = stream
        self.on_turn: Callable[[Turn], None] | None = None
        """Is told of each turn as it ends."""
        self._turns: list[Turn] = []
        self._segments: list[Segment] = []
        self._decision: Decision | None = None
        self._taking_over = False
        self._text = ""
        self._doubted = 0  # up to here, no box ends the chain
        self._token_ids = {
            author: model.tokenizer.prompt(problem, config.prompt)
            for author, model in models.items()
        }

    @property
    def answer(self) -> str | None:
        """What the chain has come to so far, if anything; grading uses the same function."""
        return extract_answer(self._text, self.problem.choices)

    @property
    def has_concluded(self) -> bool:
        """Whether there is an answer that is not in doubt."""
        rest = self._text[self._doubted :]
        return extract_answer(rest, self.problem.choices) is not None

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

    async def generate(self, author: Author, max_tokens: int) -> Written:
        """Have a model continue the chain; the result is not part of it yet."""
        engine, tokenizer = self._models[author]
        sampling = Sampling(
            max_tokens=max_tokens,
            temperature=self.config.sampling.temperature,
            top_p=self.config.sampling.top_p,
            seed=self._seed(author),
            stop=self.config.sampling.stop,
        )
        try:
            completion = await engine.generate(self._token_ids[author], sampling)
        finally:
            if self._taking_over and self._control is not None and author == "target":
                self._taking_over = False
                self._control.take_over_done()
        ids, text = tokenizer.decode_whole_characters(list(completion.token_ids))
        token_ids = {
            other: ids if other == author else model.tokenizer.encode(text)
            for other, model in self._models.items()
        }
        segment = Segment(
            author=author,
            text=text,
            tokens=len(completion.token_ids),
            finish_reason=completion.finish_reason,
            cached_tokens=completion.cached_tokens,
            timings=completion.timings,
        )
        return Written(segment, token_ids)

    async def decide(self, written: Written) -> bool:
        """Have the target score a segment; whether it takes over.

        The score is by default s = -(1/n) sum_i log q(y_i | x, y_<i), in nats per target token
        (arXiv 2509.15148, section 3); ``atts.conformal.scores`` has the others.

        Raises:
            EngineError: the target gave no usable log-probabilities.
        """
        if self._control is None:
            raise ValueError("this chain has no control to decide by")
        prefix, new = self._token_ids["target"], written.token_ids["target"]
        scored = await self._models["target"].engine.score(prefix + new, len(prefix))
        if len(scored.logprobs) != len(new) or not np.isfinite(scored.logprobs).all():
            raise EngineError(
                f"the target scored {len(scored.logprobs)} of {len(new)} tokens, mean "
                f"{scored.logprobs.mean()}: these are not usable log-probabilities"
            )
        options = self.config.take_over.score
        scores = all_scores(scored.logprobs, options)
        score = scores[options.kind]
        verdict = self._control.decide(
            self.problem.id,
            len(self._turns),
            score,
            tie_breaker(
                self.config.seed, self._stream, self.problem.id, self.sample, len(self._turns)
            ),
        )
        self._taking_over = verdict.take_over
        self._decision = Decision(
            score=score,
            p_value=verdict.p_value,
            take_over=verdict.take_over,
            threshold=verdict.threshold,
            order=self._control.next_order(),
            scores=scores,
            scored_tokens=len(new),
            cached_tokens=scored.cached_tokens,
            timings=scored.timings,
        )
        return verdict.take_over

    def append(self, written: Written) -> None:
        """Make a segment part of the chain, for all models."""
        self._segments.append(written.segment)
        self._text += written.segment.text
        for author, ids in written.token_ids.items():
            self._token_ids[author] += ids

    def discard(self, written: Written) -> None:
        """Record a segment that does not become part of the chain."""
        self._segments.append(written.segment.model_copy(update={"kept": False}))

    def end_turn(self) -> None:
        turn = Turn(segments=tuple(self._segments), decision=self._decision)
        self._turns.append(turn)
        self._segments, self._decision = [], None
        if self.on_turn:
            self.on_turn(turn)

    def record(self, end: ChainEnd, started: float, done: float, error: str | None = None) -> Chain:
        """The chain as it stands, an unfinished turn included; times are the run's seconds."""
        if self._segments or self._decision:
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

    def _seed(self, purpose: str) -> int:
        """A seed from the run's seed and this place in this chain, below ``_SEEDS``."""
        return seed_at(
            self.config.seed,
            self._stream,
            self.problem.id,
            self.sample,
            len(self._turns),
            purpose,
        )


def seed_at(*place: int | str) -> int:
    """A seed below ``_SEEDS``, uniform and the same for the same place."""
    digest = hashlib.blake2b(repr(place).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _SEEDS


def tie_breaker(seed: int, stream: str, problem_id: str, sample: int, turn: int) -> float:
    """The draw, uniform on [0, 1), that breaks ties in a chain's decision."""
    return seed_at(seed, stream, problem_id, sample, turn, "p-value") / _SEEDS


_SEEDS = 2**53
"""So that a seed is exact as a float and in the JSON of any server."""
