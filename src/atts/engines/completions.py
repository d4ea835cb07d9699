"""What is sent to a completions route of OpenAI's protocol, and what comes back: servers differ."""

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, NamedTuple, Protocol

from atts.engines.http import Json
from atts.engines.replies import UnusableError, field

NO_SAMPLERS: tuple[dict[str, Any], ...] = (
    # Servers differ in the names of what they have beyond the protocol, and in what means "off".
    {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0, "repetition_penalty": 1.0},
    {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    {},
)


class TextCodec(Protocol):
    """What a server that takes text needs to know of the model's tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Ids of text in the middle of a chain."""
        ...

    def decode(self, token_ids: list[int]) -> str:
        """The text of token ids, without special tokens."""
        ...

    def spell(self, token_ids: list[int]) -> str:
        """The text of token ids, with every special token written out."""
        ...


class Scoring(Enum):
    """Ways to ask for the log-probabilities of a given text, the best first."""

    PROMPT_LOGPROBS = "prompt_logprobs"
    ECHO = "echo with logprobs"


class Route(NamedTuple):
    """How a server is asked to write."""

    name: str
    takes_ids: bool
    options: Mapping[str, Any]
    """What is sent with every request."""
    gives_ids: bool = False
    """Whether its replies have the ids of what it wrote, if log-probabilities are asked for."""
    begins_itself: bool = False
    """Whether it puts a beginning-of-text token before every text."""


def the_choice(reply: Json) -> Json:
    """The one choice of a reply; a list of ids may have been taken for a list of prompts."""
    choices = field(reply, "choices")
    if not isinstance(choices, list) or len(choices) != 1:
        count = len(choices) if isinstance(choices, list) else 0
        raise UnusableError(f"it has {count} choices for one prompt")
    return choices[0]


def ids_of(choice: Json) -> Json:
    """The ids that were written, not checked: vLLM's ``token_ids``, or those beside llama.cpp's
    log-probabilities; None where there are none.
    """
    ids = field(choice, "token_ids")
    content = field(choice, "logprobs", "content")
    if ids is None and isinstance(content, list):
        return [field(entry, "id") for entry in content]
    return ids


def logprobs_of(choice: Json) -> Json:
    """One of each token, not checked: as the completions route has them, or as the chat route."""
    found, content = (field(choice, "logprobs", key) for key in ("token_logprobs", "content"))
    if found is None and isinstance(content, list):
        return [field(entry, "logprob") for entry in content]
    return found


def busy_slots(slots: Json) -> Iterator[Json]:
    for slot in slots if isinstance(slots, list) else ():
        if isinstance(busy := field(slot, "is_processing"), bool):
            yield busy
