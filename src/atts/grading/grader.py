"""Compares many pairs of answers: at once where that can be, else by algebra on all cores.

Pebble runs the processes, because it can kill the one that works on a pair when the pair's time
is up, and goes on with a new one; neither ``multiprocessing`` nor ``concurrent.futures`` can.
"""

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import TimeoutError as PairTimeoutError
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Self

from platformdirs import user_cache_path

from atts.grading import algebra
from atts.grading.equivalence import LONGEST, compare_exactly, compare_values
from atts.grading.programs.checker import (
    Limits,
    check_programs,
    program_digest,
    rules,
    tests_digest,
)
from atts.grading.workers import begin, cores, start_pool
from atts.types import ProgramTests

if TYPE_CHECKING:
    from pebble import ProcessPool

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

# What reading numbers that are too large or expressions that are too deep can end in.
_UNREADABLE = (ValueError, ArithmeticError, RecursionError, MemoryError)

_log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Is told how many pairs are done, of how many that need algebra."""

SECONDS = 5.0
"""Longest time for one pair; a pair that takes longer is ungraded."""


def why_ungraded(pair: Pair) -> str:
    """Why there is no verdict on a pair that is *ungraded*.

    >>> why_ungraded(("7", "9" * 4400))
    'longer than 1,000 characters'
    """
    if max(map(len, pair)) > LONGEST:
        return f"longer than {LONGEST:,} characters"
    return "the rules cannot read it, or not in time"


LIMITS = Limits()
"""What a program may use."""


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

    def __init__(self, path: Path | None = None, rules: str | None = None) -> None:
        """``path`` is the file; None takes the one in ``cache_folder()``. ``rules`` are those by
        which the verdicts came about; None: those of mathematics.
        """
        self._path = path or cache_folder() / "verdicts.sqlite3"
        self._rules = rules or f"{_RULES} {version('math-verify')} {version('sympy')}"

    def by(self, rules: str) -> "VerdictCache":
        """The verdicts of other rules, in the same file."""
        return VerdictCache(self._path, rules)

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
        try:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS verdicts (rules TEXT, one TEXT, other TEXT,"
                " verdict INTEGER, seconds REAL, PRIMARY KEY (rules, one, other)) WITHOUT ROWID"
            )
        except BaseException:
            connection.close()
            raise
        return connection


class Grader:
    """A context manager, because it may hold processes: they start with the first pair that needs
    them.

    >>> with Grader() as grader:
    ...     grader.compare([("1/2", "0.5"), ("x+1", "1+x"), ("7", "9" * 10_000)])
    ... # doctest: +NORMALIZE_WHITESPACE, +ELLIPSIS
    {('1/2', '0.5'): True, ('x+1', '1+x'): True, ('7', '999...'): None}
    """

    def __init__(
        self,
        seconds: float = SECONDS,
        workers: int | None = None,
        cache: VerdictCache | None = None,
        progress: Progress | None = None,
    ) -> None:
        """``workers`` is the number of processes; None takes one for each processor core."""
        self.progress = progress
        self._seconds = seconds
        self._workers = workers or cores()
        self._cache = cache
        self._known: Verdicts = {}
        self._pool: ProcessPool | None = None

    def compare(self, pairs: Iterable[Pair]) -> Verdicts:
        """A verdict for each different pair; whatever an answer is, it costs no other its own."""
        pairs = list(dict.fromkeys(pairs))
        for pair in pairs:
            if pair not in self._known:
                try:
                    verdict = compare_exactly(*pair)
                    is_known = (
                        verdict is not None
                        or max(map(len, pair)) > LONGEST
                        or (verdict := compare_values(*pair)) is not None
                    )
                except _UNREADABLE as error:
                    _log.debug("an answer cannot be read: %r", error)
                    verdict, is_known = None, True
                if is_known:
                    self._known[pair] = verdict
        undecided = [pair for pair in pairs if pair not in self._known]
        if undecided and self._cache:
            self._known |= self._cache.get(undecided, self._seconds)
            undecided = [pair for pair in undecided if pair not in self._known]
        if undecided:
            found = self._by_algebra(undecided)
            self._known |= found
            if self._cache:
                self._cache.put(found, self._seconds)
        return {pair: self._known[pair] for pair in pairs}

    def check(self, asked: Iterable[tuple[ProgramTests, str]]) -> list[bool | None]:
        """Whether each program passes the tests that it is asked to; None is *ungraded*."""
        asked = list(asked)
        digests = {id(tests): tests_digest(tests) for tests, _ in asked}
        pairs = [(digests[id(tests)], program_digest(program)) for tests, program in asked]
        new = dict(zip(pairs, asked, strict=True))
        cache = self._cache and self._cache.by(rules(LIMITS))
        if cache and new:
            self._known |= cache.get(new, self._seconds)
        new = {pair: each for pair, each in new.items() if pair not in self._known}
        verdicts = check_programs(list(new.values()), LIMITS, self._workers, self.progress)
        found = dict(zip(new, verdicts, strict=True))
        self._known |= {pair: verdict.passed for pair, verdict in found.items()}
        if cache and found:
            certain = {pair: each.passed for pair, each in found.items() if each.is_certain}
            cache.put(certain, self._seconds)
        return [self._known[pair] for pair in pairs]

    def close(self) -> None:
        """End the processes."""
        if self._pool:
            self._pool.stop()  # type: ignore[no-untyped-call]
            self._pool.join()
            self._pool = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _by_algebra(self, pairs: list[Pair]) -> Verdicts:
        from pebble import ProcessExpired

        pool = self._started_pool(len(pairs))
        waiting = begin(
            lambda: [
                pool.schedule(algebra.same_by_algebra, args=(one, other), timeout=self._seconds)
                for one, other in pairs
            ]
        )
        found: Verdicts = {}
        for pair, future in zip(pairs, waiting, strict=True):
            try:
                found[pair] = future.result()
            # A crash of the process ends up here too: a stack or memory that has run out.
            except (PairTimeoutError, ProcessExpired):
                found[pair] = None
            except Exception as error:  # SymPy raises all kinds
                _log.debug("an answer cannot be read: %r", error)
                found[pair] = None
            if self.progress:
                self.progress(len(found), len(pairs))
        return found

    def _started_pool(self, pairs: int) -> "ProcessPool":
        if self._pool is None:
            self._pool = start_pool(min(self._workers, pairs))
        return self._pool
