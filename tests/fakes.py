"""Stand-ins that many tests share: a scripted engine, a tokenizer of single bytes, a free port."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers

from atts.conformal.control import Control
from atts.engines.base import Completion, GenerateRequest, Sampling, Scored, ScoreRequest
from atts.methods.decider import ControlDecider
from atts.models.model_files import ChatTemplate
from atts.models.prompts import Tokenizer
from atts.types import FinishReason, Timings

NOW = Timings(queued=0.0, started=0.0, first_token=0.0, done=0.0)


class FakeEngine:
    """An engine whose text is given by a function of what it is sent; one id is one byte."""

    def __init__(
        self,
        write: Callable[[str], str] = lambda _: "",
        logprob: Callable[[str], float] = lambda _: -1.0,
        seconds: float = 0.0,
    ) -> None:
        self.write = write
        self.logprob = logprob
        self.seconds = seconds
        self.generated: list[tuple[str, Sampling]] = []
        self.scored: list[tuple[str, str]] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.aborted = 0
        self.closed = False

    async def generate(self, request: GenerateRequest) -> Completion:
        prompt, sampling = bytes(request.token_ids).decode(), request.sampling
        self.generated.append((prompt, sampling))
        await self._work()
        written = self.write(prompt)
        ends = [written.find(stop) + len(stop) for stop in sampling.stop if stop in written]
        text = written[: min(ends, default=None)].encode()
        finish: FinishReason = "length" if len(text) > sampling.max_tokens else "stop"
        return Completion(tuple(text[: sampling.max_tokens]), finish, 0, NOW)

    async def score(self, request: ScoreRequest) -> Scored:
        text, start = bytes(request.token_ids).decode(), request.start
        self.scored.append((text[:start], text[start:]))
        await self._work()
        logprobs = np.full(len(request.token_ids) - start, self.logprob(text[start:]))
        return Scored(logprobs, start, NOW)

    async def aclose(self) -> None:
        self.closed = True

    async def _work(self) -> None:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        finally:
            self.in_flight -= 1


class Call(NamedTuple):
    """What a ``ScriptedEngine`` was asked for."""

    engine: str
    prompt: str
    """What it was to continue, or all up to what it was to score."""
    asked: int | str
    """Most tokens to write, or the text to score."""
    stop: tuple[str, ...] = ()


class ScriptedEngine(FakeEngine):
    """Writes given texts one after the other; ``log`` may be shared, so that it has the order."""

    def __init__(self, name: str, texts: Sequence[str], log: list[Call]) -> None:
        super().__init__()
        self.name = name
        self.texts = list(texts)
        self.log = log

    async def generate(self, request: GenerateRequest) -> Completion:
        prompt, sampling = bytes(request.token_ids).decode(), request.sampling
        self.log.append(Call(self.name, prompt, sampling.max_tokens, sampling.stop))
        text = self.texts.pop(0)
        self.write = lambda _: text
        return await super().generate(request)

    async def score(self, request: ScoreRequest) -> Scored:
        text = bytes(request.token_ids).decode()
        self.log.append(Call(self.name, text[: request.start], text[request.start :]))
        return await super().score(request)


def by_control(control: Control, problem_id: str = "p") -> ControlDecider:
    """What lets a chain be decided by a control."""
    return ControlDecider(control, problem_id)


def byte_tokens() -> FastTokenizer:
    """One id for each byte, so that a prompt can be read off its ids; no merges."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    characters = {_character(byte): byte for byte in range(256)}
    assert set(alphabet) == set(characters)
    fast = FastTokenizer(models.BPE(vocab=characters, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    return fast


PLAIN_TEMPLATE = "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }}\n{% endfor %}a:"


def byte_tokenizer(name: str = "bytes", template: str | None = None) -> Tokenizer:
    """``byte_tokens`` with a template that is plain to read."""
    return Tokenizer(byte_tokens(), ChatTemplate(template or PLAIN_TEMPLATE, {}), name)


def free_port() -> int:
    """One at which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _character(byte: int) -> str:
    """The printable character that byte-level tokenizers write for a byte (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte in printable:
        return chr(byte)
    return chr(256 + [b for b in range(256) if b not in printable].index(byte))
