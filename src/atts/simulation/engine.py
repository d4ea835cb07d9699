"""The simulated engine: writes what a script says, in the time that a simulated server takes.

Each chain follows a ``Script``: how long its segments are, how they score, and when it ends. A
request says of which turn it is, and its token ids of which chain, so the engine keeps nothing of a
chain and a request may be repeated, aborted, or made ahead. The first id of a prompt is the number
of the script; all ids of a segment are the same number, which stands for its turn and author.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from atts.config import PromptOptions
from atts.engines.base import Completion, GenerateRequest, Load, Scored, ScoreRequest
from atts.errors import ContextLengthError, EmptyInputError, EngineError
from atts.models.prompts import Tokenizer
from atts.simulation.server import Server, SimulatedRequest
from atts.types import Author, FinishReason, Problem, Timings

_PROMPT_ID = 0
_FIRST_CHARACTER = 0xE000
"""Of those that mean nothing: a token is one of them, so that a text can be cut anywhere."""
_LAST_CHARACTER = 0xF8FF
_POSITIONS = "".join(map(chr, range(0xF0000, 0xFFFFE)))
"""What stands behind the tokens of a segment, so that no text repeats itself."""


class ScriptTurn(NamedTuple):
    """What happens in a turn of a chain, whoever writes it."""

    draft_tokens: int
    target_tokens: int
    """Of the target's segment, should it take over."""
    score: float
    """Of the draft's segment: mean negative log-likelihood, in nats."""
    surprises: tuple[float, ...] = ()
    """Of each of its tokens, in nats; empty where they were not recorded."""
    alone: int = 0
    """Tokens that the target writes in its place where it goes on by itself; 0: as it takes
    over."""

    def logprobs(self, tokens: int) -> NDArray[np.float64]:
        """What the target thinks of the segment's first tokens; shape (tokens,)."""
        if self.surprises:
            return -np.array(self.surprises)[:tokens]
        return np.full(tokens, -self.score)


class Script(NamedTuple):
    """The course of a chain. It ends in its last turn."""

    number: int
    problem: int
    """Number of the problem."""
    prompt_tokens: int
    """At least 2."""
    turns: tuple[ScriptTurn, ...]
    answer: str | None
    """What stands in the box that ends the chain; None: it ends without."""

    def left(self, turn: int) -> int:
        """Tokens from a turn on, where the target writes them all."""
        return sum(each.alone for each in self.turns[turn:])

    def ends_with(self, segment: int) -> bool:
        """Whether a segment is one of the last turn."""
        return place_of(segment)[0] == len(self.turns) - 1


def segment_id(turn: int, author: Author) -> int:
    """The id that all tokens of a segment have."""
    return 1 + 2 * turn + (author == "target")


def place_of(segment: int) -> tuple[int, Author]:
    """The turn and the author of a segment."""
    turn, by_target = divmod(segment - 1, 2)
    return turn, "target" if by_target else "draft"


class ScriptTokenizer(Tokenizer):
    """The prompts and texts of one chain: each token is a character, which stands for its segment,
    and one for its position.

    >>> script = Script(7, 0, 3, (ScriptTurn(4, 5, 0.1),), "42")
    >>> tokenizer = ScriptTokenizer(script)
    >>> ids, text = tokenizer.decode_whole_characters([1, 1, 1, 1])
    >>> text
    '\ue001\U000f0000\ue001\U000f0001\ue001\U000f0002\ue001\U000f0003 \\\\boxed{42}'
    >>> tokenizer.encode(text)
    [1, 1, 1, 1]
    >>> tokenizer.decode([1, 1])
    '\ue001\U000f0000\ue001\U000f0001'
    """

    def __init__(self, script: Script) -> None:
        self.name = "script"
        self._script = script
        self._written: dict[int, int] = {}  # by segment: its length, which is decoded first

    def prompt(self, problem: Problem, options: PromptOptions) -> list[int]:  # noqa: ARG002
        """The number of the script, and as many further ids as the prompt had."""
        return [self._script.number, *[_PROMPT_ID] * (self._script.prompt_tokens - 1)]

    def encode(self, text: str) -> list[int]:
        """The ids of a segment; both models' tokenizers cut a text into equally many."""
        codes = map(ord, text)
        return [c - _FIRST_CHARACTER for c in codes if _FIRST_CHARACTER <= c <= _LAST_CHARACTER]

    def decode(self, token_ids: list[int]) -> str:
        """The text of a segment, with the answer if the chain ends with it and nothing is cut."""
        if not token_ids:
            return ""
        segment, length = token_ids[0], len(token_ids)
        character = chr(_FIRST_CHARACTER + segment)
        positions = _POSITIONS * (1 + length // len(_POSITIONS))
        text = character + character.join(positions[:length])
        whole = length >= self._written.setdefault(segment, length)
        if whole and self._script.answer is not None and self._script.ends_with(segment):
            text += f" \\boxed{{{self._script.answer}}}"
        return text

    def is_in_thought(self, prompt: list[int]) -> bool:  # noqa: ARG002
        """Never: a script ends where its recording did."""
        return False

    def decode_whole_characters(self, token_ids: list[int]) -> tuple[list[int], str]:
        """As ``decode``: no segment ends in the middle of a character."""
        return token_ids, self.decode(token_ids)


class SimulatedClient:
    """The one core of the client, which has so many seconds of work with each request."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._free = 0.0  # from when on

    async def work(self) -> None:
        """Wait for one's turn, and for the work."""
        if self._seconds:
            now = asyncio.get_running_loop().time()
            self._free = max(now, self._free) + self._seconds
            await asyncio.sleep(self._free - now)


class SimulatedEngine:
    """Serves one model to many chains by a simulated server; see ``Engine``."""

    def __init__(
        self,
        author: Author,
        server: Server,
        scripts: Mapping[int, Script],
        client: SimulatedClient | None = None,
    ) -> None:
        """``scripts`` holds, by number, those of all chains in flight."""
        self._author = author
        self._server = server
        self._scripts = scripts
        self._client = client or SimulatedClient(0.0)

    async def generate(self, request: GenerateRequest) -> Completion:
        token_ids, sampling, number = request.token_ids, request.sampling, request.turn
        if not token_ids:
            raise EmptyInputError("no tokens to continue")
        script = self._scripts[token_ids[0]]
        if number >= len(script.turns):
            raise EngineError(f"the chain has only {len(script.turns)} turns to follow")
        turn = script.turns[number]
        whole = turn.draft_tokens if self._author == "draft" else turn.target_tokens
        tokens = min(whole, sampling.max_tokens)
        segment = segment_id(number, self._author)
        ends = script.ends_with(segment) and tokens == whole
        if self._author == "target" and request.purpose == "write" and turn.alone:
            left = script.left(number)
            ends = sampling.max_tokens >= left
            tokens = left if ends else min(turn.alone, sampling.max_tokens)
        finish: FinishReason = "stop" if ends else "length"
        done = await self._serve(script, token_ids, None, tokens, sampling.max_tokens, segment)
        return Completion((segment,) * tokens, finish, done.cached, _timings(done))

    async def score(self, request: ScoreRequest) -> Scored:
        token_ids, start = request.token_ids, request.start
        if not 1 <= start < len(token_ids):
            raise EmptyInputError(f"cannot score from token {start} of {len(token_ids)}")
        script = self._scripts[token_ids[0]]
        number, _ = place_of(token_ids[start])
        done = await self._serve(script, token_ids, start, 0, 1, token_ids[-1])
        logprobs = script.turns[number].logprobs(len(token_ids) - start)
        return Scored(logprobs, done.cached, _timings(done))

    async def meter(self) -> Load:
        """The server's load."""
        return self._server.load()

    async def aclose(self) -> None:
        """Nothing is held."""

    async def _serve(
        self,
        script: Script,
        token_ids: Sequence[int],
        scored_from: int | None,
        write: int,
        max_tokens: int,
        last_id: int,
    ) -> SimulatedRequest:
        capacity = self._server.options.cache_tokens
        if len(token_ids) + write > capacity:
            raise ContextLengthError(
                f"{len(token_ids) + write} tokens do not fit a key-value cache of {capacity}"
            )
        await self._client.work()
        loop = asyncio.get_running_loop()
        request = SimulatedRequest(
            chain=script.number,
            problem=-1 - script.problem,
            prompt=script.prompt_tokens,
            ids=token_ids,
            scored_from=scored_from,
            write=write,
            max_tokens=max_tokens,
            last_id=last_id,
            future=loop.create_future(),
            queued=loop.time(),
        )
        self._server.submit(request)
        try:
            await request.future
        except asyncio.CancelledError:
            self._server.abort(request)
            raise
        return request


def _timings(request: SimulatedRequest) -> Timings:
    return Timings(
        queued=request.queued,
        started=request.started,
        first_token=request.first_token,
        done=request.done,
    )
