"""What is asked of a solver: a problem, how it is to be solved, and what may be said of that."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import ValidationError

from atts.config import Config, parse_config
from atts.errors import ConfigError, ProblemError
from atts.types import Message, Problem


@dataclass(frozen=True, kw_only=True)
class Question:
    """A problem to be solved by ``config.samples`` chains."""

    problem: Problem
    """Its id tells it from all others that are being solved; see ``question_id``."""
    config: Config
    """How; its models are those that the solver has open. See ``with_overrides``."""
    vote: bool = True
    """Whether the chains are for one answer: then some may be left out by ``config.stop``."""
    max_tokens: int | None = None
    """Most tokens of each chain, thought included; None: what the method lets it have."""
    drawn_as: str | None = None
    """What stands for the problem in every random choice; None: its id. So the same question, asked
    twice under different ids, is solved in the same way."""


def as_problem(asked: str | Problem | Sequence[Message | Mapping[str, Any]]) -> Problem:
    """A bare question, or the messages of a conversation, as a problem.

    Raises:
        ProblemError: it is empty, or the messages are none, or not in order.
    """
    if isinstance(asked, Problem):
        return asked
    if isinstance(asked, str):
        tree: dict[str, Any] = {"question": asked}
    else:
        messages = [m.model_dump() if isinstance(m, Message) else m for m in asked]
        last = messages[-1] if messages else {}
        content = last.get("content") if isinstance(last, Mapping) else None
        tree = {"question": content or "", "messages": messages}
    try:
        return Problem.model_validate({"id": question_id(tree), **tree})
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'messages'}: {each['msg']}"
            for each in error.errors(include_url=False, include_input=False)
        )
        raise ProblemError(
            f"no question that can be asked: {faults}; give a text, or messages with a role "
            "(system, user or assistant) and a content, of which the last is the user's"
        ) from None


def question_id(tree: object) -> str:
    """A name that follows from what is asked.

    >>> question_id({"question": "1 + 1?"})
    'question-f6299e61a7d7'
    """
    digest = hashlib.sha256(orjson.dumps(tree, default=str, option=orjson.OPT_SORT_KEYS))
    return f"question-{digest.hexdigest()[:12]}"


def with_overrides(
    config: Config,
    *,
    samples: int | None = None,
    method: str | None = None,
    take_over_rate: float | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    stop: Sequence[str] | None = None,
    seed: int | None = None,
) -> Config:
    """A configuration with what one question wants otherwise; None changes nothing.

    The temperature and ``top_p`` then hold for both models.

    Raises:
        ConfigError: a value is out of its range; the key is named.
    """
    tree: dict[str, Any] = {}
    named = {"samples": samples, "method": method, "seed": seed}
    tree |= {key: value for key, value in named.items() if value is not None}
    if take_over_rate is not None:
        tree["take_over"] = {"rate": take_over_rate}
    for key, share in (("temperature", temperature), ("top_p", top_p)):
        if share is not None:
            tree.setdefault("sampling", {})[key] = share
            for author in ("draft", "target"):
                tree.setdefault(author, {}).setdefault("sampling", {})[key] = None
    if stop is not None:
        if "" in stop:
            raise ConfigError("an empty text cannot be one to stop at: leave it out of stop")
        tree.setdefault("sampling", {})["stop"] = tuple(stop)
    if not tree:
        return config
    return parse_config(tree, "the question", config.model_dump())
