"""Which of the models that a server says it serves is the one of the configuration."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from atts.engines.http import Json, quoted
from atts.engines.replies import UnusableError, field, is_count

_LONGEST = 1_000
"""Characters of a name; it is sent with every request."""
_TOLD = 5
"""Models of a server that a message names."""


class ModelCard(NamedTuple):
    """One of the models that a server says it serves."""

    name: str
    """By which requests name it."""
    root: str
    """Where its weights came from; the name, where the server does not tell."""
    context_length: int | None
    adapter_of: str | None = None
    """The model that a LoRA adapter is added to; None for a model itself."""


def model_cards(reply: Json) -> list[ModelCard]:
    """What ``/v1/models`` lists.

    Raises:
        UnusableError: nothing.
    """
    data = field(reply, "data")
    cards = []
    for each in data if isinstance(data, list) else ():
        name, root = field(each, "id"), field(each, "root")
        length, base = field(each, "max_model_len"), field(each, "parent")
        if isinstance(name, str) and 0 < len(name) < _LONGEST:
            cards.append(
                ModelCard(
                    name,
                    root if isinstance(root, str) and root else name,
                    length if is_count(length) and length else None,
                    str(base) if base else None,
                )
            )
    if not cards:
        raise UnusableError("/v1/models names no model")
    return cards


def chosen_card(
    cards: Sequence[ModelCard], model: str, served_as: str | None, adapters: bool
) -> ModelCard | None:
    """The card of a model; None if there is none.

    Without ``served_as`` it is the model itself that counts, not how a server calls it; with it, a
    model of that name, or an adapter of exactly that name where ``adapters`` can be asked for.
    """
    models = [card for card in cards if card.adapter_of is None]
    if served_as is None:
        fitting = [card for card in models if same_model(model, card.root)]
    else:
        named = [card for card in (cards if adapters else models) if card.name == served_as]
        alike = [card for card in models if same_model(served_as, card.name)]
        fitting = named + alike + [card for card in models if same_model(served_as, card.root)]
    if not fitting:
        return None
    card = fitting[0]
    if card.context_length is None and models:  # of an adapter: that of its model
        lengths = {each.name: each.context_length for each in models}
        card = card._replace(
            context_length=lengths.get(card.adapter_of or "", models[0].context_length)
        )
    return card


def told(cards: Sequence[ModelCard]) -> str:
    """What is served, for a message."""
    names = [
        quoted(card.root) if card.adapter_of is None else f"the adapter {quoted(card.name)}"
        for card in cards[:_TOLD]
    ]
    more = f" and {len(cards) - _TOLD} more" if len(cards) > _TOLD else ""
    return ", ".join(names) + more


def same_model(expected: str, served: str) -> bool:
    """Whether two names mean one model: ids, folders, and folders of the Hugging Face cache.

    >>> same_model("Qwen/QwQ-32B", "/models/QwQ-32B")
    True
    >>> same_model("Qwen/QwQ-32B", "/hub/models--Qwen--QwQ-32B/snapshots/976055f")
    True
    >>> same_model("Qwen/QwQ-32B", "Qwen/Qwen2.5-7B-Instruct")
    False
    """
    return _last_name(expected) == _last_name(served)


def _last_name(model: str) -> str:
    parts = PurePosixPath(model).parts
    for part in parts:
        if part.startswith("models--"):
            return part.rpartition("--")[2].lower()
    return (parts or ("",))[-1].lower()
