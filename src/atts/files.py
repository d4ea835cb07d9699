"""Files that are replaced as a whole or not at all, plain files with bounds, and JSON lines."""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

from pydantic_core import PydanticSerializationError

from atts.errors import StoreError
from atts.types import Record

LARGEST = 1 << 30
"""Bytes of a file that is read as a whole."""

LONGEST_LINE = 64 << 20
"""Bytes of a line; a chain of a million tokens takes a tenth."""

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def atomic_write(path: Path, text: str) -> None:
    """Write a file so that at every moment it holds all of the old text or all of the new.

    Raises:
        StoreError: see ``replacing``.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives the path of a temporary file, which takes the place of ``path`` at the end.

    Folders above it are made where they are missing; a link stays a link.

    Raises:
        StoreError: it cannot be written; what was there before is untouched.
    """
    path = path.resolve()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.exists() and not path.is_file():
            raise StoreError(f"cannot write {path}: it is not a plain file")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error


class Line(NamedTuple):
    """A line of a file of JSON lines."""

    number: int
    """From 1."""
    length: int
    """In bytes, with what ends it."""
    content: bytes | None
    """None if it is longer than any line should be; then it was never held as a whole."""
    is_ended: bool
    """False of a last line that was not written to its end."""


def open_plain(path: Path) -> BinaryIO:
    """Open a file to be read, unless it is one that may keep a reader waiting for ever.

    Raises:
        OSError: it cannot be read, or it is a folder, a pipe, a socket or a device.
    """
    kind = _KINDS.get(stat.S_IFMT(path.stat().st_mode))
    if kind is not None:
        raise OSError(errno.EINVAL, f"it is {kind}, not a plain file", str(path))
    return path.open("rb")


def read_plain(path: Path, largest: int = LARGEST) -> bytes:
    """The content of a plain file.

    Raises:
        OSError: see ``open_plain``; or it is larger than ``largest`` bytes.
    """
    with open_plain(path) as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise OSError(errno.EFBIG, f"it is larger than {largest:,} bytes", str(path))
    return content


def read_lines(file: IO[bytes], longest: int = LONGEST_LINE) -> Iterator[Line]:
    r"""The lines of a file, one at a time.

    >>> from io import BytesIO
    >>> [tuple(line) for line in read_lines(BytesIO(b"[1]\n[22222]\n[3"), longest=4)]
    [(1, 4, b'[1]\n', True), (2, 8, None, True), (3, 2, b'[3', False)]
    """
    number = 0
    while part := file.readline(longest):
        number += 1
        content: bytes | None = part
        length = len(part)
        while not part.endswith(b"\n") and (part := file.readline(longest)):
            content = None
            length += len(part)
        yield Line(number, length, content, part.endswith(b"\n"))


def to_jsonl(records: Iterable[Record]) -> str:
    """One JSON object per line; half of a surrogate pair, which is no character, becomes U+FFFD.

    >>> from atts.types import Problem
    >>> to_jsonl([Problem(id="p", question="1 + 1?", answer="2")])
    '{"id":"p","question":"1 + 1?","answer":"2","choices":[]}\\n'
    """
    return "".join(_json(record) + "\n" for record in records)


def _json(record: Record) -> str:
    try:
        return record.model_dump_json()
    except PydanticSerializationError:
        return type(record).model_validate(_encodable(record.model_dump())).model_dump_json()


def _encodable(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_encodable(key): _encodable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(each) for each in value]
    return value
