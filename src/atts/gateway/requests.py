"""What clients may ask for, in OpenAI's words and in ours.

A field that is not listed here is refused by its name, unless its value asks for nothing: what is
accepted has an effect, or is known to be without one (``WITHOUT_EFFECT``).
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from atts.errors import RequestError

MOST_CHAINS = 1024
"""Chains that one request may ask for, whatever the server allows."""
MOST_MESSAGES = 4096

HEADER = "x-atts-"
"""What the headers begin with that stand for the keys of ``atts`` in the body."""

WITHOUT_EFFECT = frozenset(
    {"metadata", "prompt_cache_key", "safety_identifier", "store", "user", "prompt_cache_retention"}
)
"""Fields about the client's own books, which change no answer here."""

_ASKS_FOR_NOTHING: Mapping[str, tuple[object, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}
"""Fields that are not served, with the values by which clients say that they do not want them."""


def _text_of_parts(content: object) -> object:
    """The text of a content that comes in parts."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if kind != "text":
            raise ValueError(f"only text is read here, not {str(kind)[:64]!r}")
        texts.append(part.get("text"))
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a part of type text must hold a text")
    return "".join(texts)


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Message(_Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_text_of_parts)]

    @model_validator(mode="before")
    @classmethod
    def _as_it_was_given(cls, tree: object) -> object:
        """Accept a reply of this server's, sent back as it came: its thought is left out, as the
        chat templates of reasoning models do.
        """
        if not isinstance(tree, dict):
            return tree
        absent = {
            key
            for key in ("refusal", "tool_calls", "function_call", "audio", "name", "annotations")
            if tree.get(key) in (None, [])
        }
        if tree.get("type") == "text":  # lm-evaluation-harness names the kind of the message
            absent.add("type")
        return {k: v for k, v in tree.items() if k not in absent | {"reasoning_content"}}

    def as_prompted(self) -> dict[str, str]:
        """In the roles that chat templates know."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self.content}


class AttsOptions(_Body):
    """The extra body ``atts``, or the headers ``X-Atts-...``."""

    samples: int | None = Field(default=None, ge=1, le=MOST_CHAINS)
    """Chains; by default ``n``, or those of the configuration where they are voted on."""
    vote: bool = False
    """Whether the most frequent answer of the chains is the only choice."""
    take_over_rate: float | None = Field(default=None, ge=0.0, le=1.0)
    method: str | None = Field(default=None, min_length=1, max_length=64)


class StreamOptions(_Body):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


Stop = Annotated[str, Field(min_length=1, max_length=256)]


class _Request(_Body):
    """What chats and completions share."""

    model: str = Field(min_length=1, max_length=256)
    n: int | None = Field(default=None, ge=1, le=MOST_CHAINS)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=2**31)
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stop: Annotated[
        list[Stop], BeforeValidator(lambda stop: [stop] if isinstance(stop, str) else stop)
    ] = Field(default=[], max_length=16)
    atts: AttsOptions = AttsOptions()

    @model_validator(mode="before")
    @classmethod
    def _asked_for(cls, tree: object) -> object:
        """Leave out what asks for nothing."""
        if not isinstance(tree, dict):
            return tree
        return {
            key: value
            for key, value in tree.items()
            if value is not None
            and key not in WITHOUT_EFFECT
            and not any(_same(value, nothing) for nothing in _ASKS_FOR_NOTHING.get(key, ()))
        }

    @model_validator(mode="after")
    def _one_number_of_chains(self) -> Self:
        n, samples = self.n, self.atts.samples
        if self.atts.vote and n not in (None, 1):
            raise ValueError("n: a vote gives one choice; atts.samples is the number of chains")
        if not self.atts.vote and None not in (n, samples) and n != samples:
            raise ValueError(f"n: is {n}, and atts.samples {samples}; without a vote they are one")
        return self

    def chains(self, default: int) -> int:
        """How many chains it takes; ``default`` where they are voted on and no number is given."""
        return self.atts.samples or (default if self.atts.vote else self.n) or 1


class ChatRequest(_Request):
    """``POST /v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1, max_length=MOST_MESSAGES)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=2**31)

    @model_validator(mode="after")
    def _conversation(self) -> Self:
        if self.messages[-1].role != "user":
            raise ValueError("messages: the last one must be the user's")
        both = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(both) > 1:
            raise ValueError("max_completion_tokens: differs from max_tokens, its older name")
        return self

    @property
    def most_tokens(self) -> int | None:
        """Of each chain."""
        return self.max_completion_tokens or self.max_tokens


AnyRequest = TypeVar("AnyRequest", bound=_Request)


def parse(
    kind: type[AnyRequest], body: bytes, headers: Iterable[tuple[str, str]] = ()
) -> AnyRequest:
    """A request, of its body and of the headers that stand for keys of ``atts``.

    Raises:
        RequestError: naming the first parameter that is wrong.
    """
    try:
        tree = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise RequestError("the body must be a JSON object")
    tree = _with_headers(tree, _options_of_headers(headers))
    try:
        return kind.model_validate(tree, strict=True)
    except ValidationError as error:
        raise _refusal(error) from None


def _with_headers(tree: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """The body with what the headers say; they may say again what it says itself."""
    body = tree.get("atts") or {}
    if not told or not isinstance(body, dict):
        return tree
    for key, value in told.items():
        if not _same(body.get(key, value), value):
            header = HEADER + key.replace("_", "-")
            raise RequestError(
                f"atts.{key}: the header {header} says something else", param=f"atts.{key}"
            )
    return tree | {"atts": body | told}


def _options_of_headers(headers: Iterable[tuple[str, str]]) -> dict[str, Any]:
    told = {
        name.lower().removeprefix(HEADER).replace("-", "_"): value
        for name, value in headers
        if name.lower().startswith(HEADER)
    }
    try:
        # Headers are texts: here numbers may come as such.
        return AttsOptions.model_validate(told).model_dump(include=set(told))
    except ValidationError as error:
        raise _refusal(error, "atts") from None


def _same(value: object, other: object) -> bool:
    """Whether they are equal; to Python, True and 1 are too."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _refusal(error: ValidationError, *parents: str) -> RequestError:
    """The first fault, by the name of the parameter."""
    fault = error.errors(include_url=False, include_input=False)[0]
    param = ".".join(map(str, (*parents, *fault["loc"])))[:256]
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return RequestError(
            f"{param}: is not supported by atts serve", param=param, code="unsupported_parameter"
        )
    if not fault["loc"]:  # of several fields; the message begins with the name of one
        param, _, message = message.partition(": ")
    if fault["type"] == "missing":
        return RequestError(f"{param}: is missing", param=param, code="missing_parameter")
    return RequestError(f"{param}: {message}", param=param, code="invalid_value")
