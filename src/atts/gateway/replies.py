"""What clients are told, in OpenAI's words: replies, pieces of them, usage and errors."""

import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.responses import Response

from atts import errors
from atts.errors import (
    CalibrationError,
    ConfigError,
    ContextLengthError,
    EngineError,
    ProblemError,
    RequestError,
)
from atts.solving.listening import ChainDone, Piece
from atts.solving.solution import Solution
from atts.text import visible
from atts.types import Chain, ChainEnd

LONGEST_MESSAGE = 1000
"""Characters of an error's message that are sent."""

END_OF_STREAM = b"data: [DONE]\n\n"
KEEP_ALIVE = b": still at work\n\n"
"""A comment, which clients pass over."""

_STOPPED: frozenset[ChainEnd] = frozenset({"answer", "stop"})


@dataclass(frozen=True)
class Head:
    """What all parts of a reply say of it."""

    model: str
    fingerprint: str
    """The digest of the configuration: the same one, with the same seed, decides alike."""
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def around(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """A reply, or a chunk of one."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }


def reply(head: Head, chains: Sequence[ChainDone], usage: dict[str, Any]) -> dict[str, Any]:
    """A whole reply, a choice for each chain."""
    choices = [
        {
            "index": index,
            "message": {
                "role": "assistant",
                "content": done.reply,
                "reasoning_content": done.thought or None,
                "refusal": None,
            },
            "logprobs": None,
            "finish_reason": finish_reason(done),
            "atts": _of_chain(done.chain),
        }
        for index, done in enumerate(chains)
    ]
    return head.around("chat.completion", choices) | {"usage": usage}


def first_chunk(head: Head, index: int) -> dict[str, Any]:
    """The beginning of a choice."""
    return _chunk(head, index, {"role": "assistant", "content": ""})


def piece_chunk(head: Head, index: int, piece: Piece) -> dict[str, Any]:
    """Text that a chain has come to hold, and its author."""
    key = "reasoning_content" if piece.in_thought else "content"
    return _chunk(head, index, {key: piece.text}) | {"atts": {"author": piece.author}}


def text_chunks(head: Head, done: ChainDone) -> list[dict[str, Any]]:
    """The whole text of a chain, as the only choice."""
    deltas = [{"reasoning_content": done.thought}, {"content": done.reply}]
    return [_chunk(head, 0, delta) for delta in deltas if any(delta.values())]


def last_chunk(head: Head, index: int, done: ChainDone) -> dict[str, Any]:
    """The end of a choice."""
    chunk = _chunk(head, index, {}, finish_reason(done))
    chunk["choices"][0]["atts"] = _of_chain(done.chain)
    return chunk


def of_vote(solution: Solution) -> dict[str, Any]:
    """What a vote came to."""
    votes = [{"answer": vote.answer, "chains": len(vote.chains)} for vote in solution.votes]
    return {"answer": solution.answer, "votes": votes, "samples": len(solution.done)}


def usage_chunk(head: Head, usage: dict[str, Any]) -> dict[str, Any]:
    """The last of all chunks, for clients that ask for ``include_usage``."""
    return head.around("chat.completion.chunk", []) | {"usage": usage}


def _chunk(
    head: Head, index: int, delta: dict[str, Any], finish: str | None = None
) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    return head.around("chat.completion.chunk", [choice])


def finish_reason(done: ChainDone) -> str:
    """``stop`` for an answer, an end-of-sequence or a text to stop at; else ``length``."""
    return "stop" if done.chain.end in _STOPPED else "length"


def _of_chain(chain: Chain) -> dict[str, Any]:
    decisions = [decision for _, decision in chain.decisions]
    return {
        "end": chain.end,
        "answer": chain.answer,
        "turns": len(chain.turns),
        "decisions": len(decisions),
        "take_overs": sum(decision.take_over for decision in decisions),
    }


def usage(prompt_tokens: int, chains: Iterable[Chain]) -> dict[str, Any]:
    """Tokens of a reply: those that are part of its chains, each in its author's vocabulary.

    The details tell whose they are, what the draft wrote that was taken back, and what the target
    read in order to decide.
    """
    made = list(chains)
    draft, target = (sum(chain.kept(author) for chain in made) for author in ("draft", "target"))
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": draft + target,
        "total_tokens": prompt_tokens + draft + target,
        "completion_tokens_details": {
            "draft_tokens": draft,
            "target_tokens": target,
            "draft_tokens_written": sum(chain.written("draft") for chain in made),
            "target_tokens_written": sum(chain.written("target") for chain in made),
            "target_tokens_scored": sum(chain.scored_tokens for chain in made),
        },
    }


def told(error: Exception) -> RequestError:
    """How a client is told of an error; of one that nobody expected, only that there was one."""
    message = str(error)
    if isinstance(error, RequestError):
        return error
    if isinstance(error, ContextLengthError):
        return RequestError(message, param="messages", code="context_length_exceeded")
    if isinstance(error, ConfigError | ProblemError | CalibrationError):
        return RequestError(message, code="invalid_value")
    if isinstance(error, EngineError):
        # Further lines of it are advice to who started a run.
        return _engine_failed(type(error).__name__, message.partition("\n")[0])
    return RequestError(
        "something failed inside the server; its log says what", status=500, kind="server_error"
    )


def failure_of(chain: Chain) -> RequestError | None:
    """How a client is told of a chain that gave it nothing, because it failed or never fitted."""
    if chain.end == "failed":
        name, _, message = (chain.error or "").partition(": ")
        known = isinstance(kind := getattr(errors, name, None), type) and issubclass(
            kind, EngineError
        )
        return _engine_failed(name if known else "EngineError", message if known else chain.error)
    if chain.end == "context" and not chain.turns:
        return RequestError(
            "messages: they leave no room in the model's context for an answer",
            param="messages",
            code="context_length_exceeded",
        )
    return None


def _engine_failed(kind: str, message: str | None) -> RequestError:
    return RequestError(
        message or "a model's engine failed", status=502, kind=kind, code="engine_failed"
    )


def error_body(error: RequestError) -> dict[str, Any]:
    """In OpenAI's form; what a model or a server wrote may be part of the message."""
    message = visible(str(error))
    if len(message) > LONGEST_MESSAGE:
        message = message[:LONGEST_MESSAGE] + " ..."
    fault = {"message": message, "type": error.kind, "param": error.param, "code": error.code}
    return {"error": fault}


def error_response(error: RequestError) -> Response:
    """The reply in place of the one that was asked for."""
    response = json_response(error_body(error), error.status)
    if error.retry_after is not None:
        response.headers["retry-after"] = str(max(1, round(error.retry_after)))
    if error.status == 401:
        response.headers["www-authenticate"] = "Bearer"
    return response


def json_response(tree: object, status: int = 200) -> Response:
    """A reply of JSON."""
    return Response(orjson.dumps(tree), status, media_type="application/json")


def event(tree: object) -> bytes:
    """A server-sent event."""
    return b"data: " + orjson.dumps(tree) + b"\n\n"
