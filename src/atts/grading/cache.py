"""Verdicts that algebra has come to, kept between runs of the program."""

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from platformdirs import user_cache_path

Pair = tuple[str, str]
"""Two answers; the gold answer first, if there is one."""

Verdicts = dict[Pair, bool | None]
"""Equal, different, or None: *ungraded*, because of the time limit, the size limit or memory."""

FOLDER_VARIABLE = "ATTS_CACHE"
"""The environment variable that names another folder for caches."""

_RULES = 2
"""Raise this when the rules of ``equivalence`` or ``algebra`` change."""

# UnicodeError: an answer with half of a surrogate pair in it.
_UNUSABLE = (sqlite3.Error, OSError, UnicodeError)

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where caches lie: ``$ATTS_CACHE``, or the user's folder for caches."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return Path(folder) if folder else user_cache_path("atts")


class VerdictCache:
    """A file of verdicts by pair of answers, shared by all processes of a user.

    Only what saves time is lost where the file cannot be used: that is logged, not raised.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = VerdictCache(Path(folder) / "verdicts.sqlite3")
    ...     cache.put({("x+1", "1+x"): True, ("y", "9^{9^9}"): None}, seconds=5.0)
    ...     cache.get([("x+1", "1+x"), ("y", "9^{9^9}")], seconds=9.0)
    ...     cache.get([("y", "9^{9^9}")], seconds=5.0)
    {('x+1', '1+x'): True}
    {('y', '9^{9^9}'): None}
    """

    def __init__(self, path: Path | None = None) -> None:
        """``path`` is the file; None takes the one in ``cache_folder()``."""
        self._path = path or cache_folder() / "verdicts.sqlite3"
        self._rules = f"{_RULES} {version('math-verify')} {version('sympy')}"

    def get(self, pairs: Iterable[Pair], seconds: float) -> Verdicts:
        """What is known of the pairs; a pair that was ungraded only if its time was no shorter."""
        found: Verdicts = {}
        try:
            with contextlib.closing(self._connect()) as connection:
                for pair in pairs:
                    row = connection.execute(
                        "SELECT verdict, seconds FROM verdicts"
                        " WHERE rules = ? AND one = ? AND other = ?",
                        (self._rules, *pair),
                    ).fetchone()
                    if row and (row[0] is not None or row[1] >= seconds):
                        found[pair] = None if row[0] is None else bool(row[0])
        except _UNUSABLE as error:
            _log.warning("the cache of verdicts %s cannot be read: %s", self._path, error)
        return found

    def put(self, verdicts: Verdicts, seconds: float) -> None:
        """Keep verdicts that were found within a time limit."""
        rows = [
            (self._rules, *pair, verdict if verdict is None else int(verdict), seconds)
            for pair, verdict in verdicts.items()
        ]
        try:
            with contextlib.closing(self._connect()) as connection, connection:
                connection.executemany(
                    "INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?, ?)", rows
                )
        except _UNUSABLE as error:
            _log.warning("the cache of verdicts %s cannot be written: %s", self._path, error)

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=10.0)
        connection.execute(
            "CREATE TABLE IF NOT EXISTS verdicts (rules TEXT, one TEXT, other TEXT,"
            " verdict INTEGER, seconds REAL, PRIMARY KEY (rules, one, other)) WITHOUT ROWID"
        )
        return connection
