"""Files that are replaced as a whole or not at all, and JSON lines."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from atts.errors import StoreError
from atts.types import Record


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


def to_jsonl(records: Iterable[Record]) -> str:
    """One JSON object per line.

    >>> from atts.types import Problem
    >>> to_jsonl([Problem(id="p", question="1 + 1?", answer="2")])
    '{"id":"p","question":"1 + 1?","answer":"2","choices":[]}\\n'
    """
    return "".join(record.model_dump_json() + "\n" for record in records)
