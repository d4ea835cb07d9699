"""The replies of a language model as judge: their forms, how they are read, and their ledger."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from atts.errors import StoreError
from atts.files import read_plain
from atts.models.thought import divide
from atts.types import Record

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion

_MOST_BRACES = 200
_R = TypeVar("_R", bound=Record)


class Extraction(Record):
    """The form of a reply about extraction."""

    answer: str | None


class Judgement(Record):
    """The form of a reply about equivalence."""

    equivalent: bool


class Reply(Record):
    """A reply in the form that was asked for: a line of the ledger."""

    key: str
    """Digest of the model and of everything that was sent."""
    content: str
    prompt_tokens: int
    completion_tokens: int


def texts_of(completion: "ChatCompletion") -> tuple[str, str]:
    """What a completion says, and what a server has put aside as its thought."""
    if not completion.choices:
        return "", ""
    message = completion.choices[0].message
    aside = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    return message.content or "", aside if isinstance(aside, str) else ""


def parse_reply(text: str, form: type[_R], last: bool = False) -> tuple[_R, str] | None:
    """The first JSON object in a reply that has the form, or the last one, and its text; what the
    model thought or set around it is passed over.

    >>> parse_reply('<think>hm {</think> ```json\\n{"equivalent": true}\\n``` as {x}', Judgement)
    (Judgement(equivalent=True), '{"equivalent": true}')
    """
    parts = divide(text)
    text = parts.answer if parts.is_over else text
    found = None
    begin = text.find("{")
    for _ in range(_MOST_BRACES):
        if begin < 0:
            break
        value, end = _object_at(text, begin)
        if value is not None and (parsed := _in_form(value, form)) is not None:
            found = parsed, text[begin:end]
            if not last:
                break
        begin = text.find("{", end)
    return found


def _object_at(text: str, begin: int) -> tuple[dict[str, Any] | None, int]:
    """The object that begins at a position, and where to go on."""
    decoder = json.JSONDecoder(strict=False, parse_float=str)
    try:
        value, end = decoder.raw_decode(text, begin)
    except (ValueError, RecursionError):
        return None, begin + 1
    return (value, end) if isinstance(value, dict) else (None, end)


def _in_form(value: Mapping[str, Any], form: type[_R]) -> _R | None:
    """The form with what an object says; further keys are passed over, a number may be a text."""
    known = {key: value[key] for key in form.model_fields if key in value}
    answer = known.get("answer")
    if isinstance(answer, int) and not isinstance(answer, bool):
        known["answer"] = str(answer)
    if isinstance(answer, list) and all(isinstance(one, str | int) for one in answer):
        known["answer"] = ", ".join(map(str, answer))
    try:
        return form.model_validate(known)
    except ValidationError:
        return None


def append_reply(ledger: Path, reply: Reply) -> None:
    """Write a reply down.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        with ledger.open("a", encoding="utf-8") as file:
            # After a line that was torn, as by a full disk, a new one begins.
            if file.tell() and not _ends_a_line(ledger):
                file.write("\n")
            file.write(reply.model_dump_json() + "\n")
    except OSError as error:
        raise StoreError(f"cannot write {ledger}: {error.strerror or error}") from error


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def read_ledger(ledger: Path) -> dict[str, Reply]:
    """The replies of a ledger; a line that was not written to its end is passed over."""
    try:
        lines = read_plain(ledger).splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StoreError(f"cannot read {ledger}: {error.strerror or error}") from error
    replies = {}
    for line in lines:
        try:
            reply = Reply.model_validate_json(line)
        except ValidationError:
            continue
        replies[reply.key] = reply
    return replies
