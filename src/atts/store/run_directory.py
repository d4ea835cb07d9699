"""The run directory: what a run leaves behind, and what it resumes from.

====================  ===============================================================
``config.yaml``       the resolved configuration; ``load_config`` reads it
``problems.jsonl``    the problems as evaluated
``calibration.json``  the calibration decided by, if any
``certificate.json``  what vouches for the accuracy, if anything
``shard.json``        what it is a share of, if it is one (``store/shards.py``)
``chains.jsonl``      one line per finished chain; of one chain's lines the last counts
``summary.json``      the figures, once the run has come to its end
``environment.json``  software and machine, an entry for each start
``grades.jsonl``      what ``atts regrade`` found, if it was called
====================  ===============================================================
"""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import yaml
from filelock import FileLock, Timeout

from atts.config import FORMER_DEFAULTS, Config
from atts.conformal.calibration import Calibration
from atts.conformal.risk import Certificate
from atts.errors import ConfigError, StoreError
from atts.files import atomic_write, read_plain, to_jsonl
from atts.store.contents import (
    ADVICE,
    CALIBRATION,
    CERTIFICATE,
    CHAINS,
    CONFIG,
    LOCK,
    PROBLEMS,
    SHARD,
    SUMMARY,
    check_same_run,
    read_calibration,
    read_chains,
    read_config,
    read_problems,
)
from atts.store.environment import read_speculation
from atts.store.grades import ChainGrade, read_grades
from atts.store.shards import Shard, check_share
from atts.types import Author, Chain, ChainKey, Problem, Record, Speculation


class RecordedRun(NamedTuple):
    """A run as it stands in its directory; unfinished if chains are missing."""

    config: Config
    problems: tuple[Problem, ...]
    chains: tuple[Chain, ...]
    calibration: Calibration | None = None
    """What the run decides by, if anything."""
    certificate: Certificate | None = None
    """What vouches for its accuracy, if anything."""
    grades: Mapping[ChainKey, ChainGrade] = MappingProxyType({})
    """What ``atts regrade`` found of the chains, if it was called."""
    speculation: Mapping[Author, Speculation] = MappingProxyType({})
    """How the servers' speculative decoding went, where there was any and they tell."""

    def chains_as_graded(self) -> tuple[Chain, ...]:
        """The chains, with the answers of ``grades`` where there are any."""
        return tuple(
            chain.model_copy(update={"answer": self.grades[chain.key].answer})
            if chain.key in self.grades
            else chain
            for chain in self.chains
        )


class RunStore:
    """An open run directory, locked against every other process.

    >>> import tempfile
    >>> problems = [Problem(id="p", question="1 + 1?", answer="2")]
    >>> chain = Chain(problem_id="p", sample=0, end="stop", answer=None, turns=(),
    ...               started=0.0, done=1.0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with RunStore.open(Path(folder), Config(), problems, None) as store:
    ...         store.append(chain)
    ...     with RunStore.open(Path(folder), Config(), problems, None) as store:
    ...         list(store.chains)
    [ChainKey(problem_id='p', sample=0)]
    """

    def __init__(
        self, directory: Path, lock: FileLock, chains: dict[ChainKey, Chain], length: int
    ) -> None:
        self.directory = directory
        self.chains = chains
        """The finished chains, the newest line of each."""
        self._lock = lock
        self._length = length  # of chains.jsonl up to the end of its last good line
        # Unbuffered: what a failed write left in a buffer would be written again on close.
        flags = os.O_APPEND | os.O_CREAT | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
        self._file = os.fdopen(os.open(directory / CHAINS, flags, 0o666), "ab", buffering=0)
        try:
            self._cut_torn_line()
        except OSError:
            self._file.close()
            raise

    @classmethod
    def open(
        cls,
        directory: Path,
        config: Config,
        problems: Sequence[Problem],
        calibration: Calibration | None,
        may_grow: bool = True,
        shard: Shard | None = None,
    ) -> Self:
        """Create a run directory, or resume the run that it holds; samples and problems may have
        been added to it, unless ``may_grow`` is false. ``problems`` are those of ``shard``.

        A torn last line of ``chains.jsonl``, as a killed process leaves it, is cut off.

        Raises:
            ConfigError: the directory holds a run of another configuration, of other problems,
                of another calibration, or another shard; the differing keys are named.
            StoreError: another process holds it, it is not a run directory, or one of its
                files cannot be read or written.
        """
        lock = lock_run(directory)
        try:
            contents = None if calibration is None else calibration.to_json()
            if not (directory / CONFIG).exists():
                _create(directory, config, problems, contents, shard)
            elif _grown(directory, config, problems, contents, may_grow, shard):
                # In this order, a process killed in between leaves a run that can still grow.
                atomic_write(directory / PROBLEMS, to_jsonl(problems))
                _write_shard(directory, shard)
                atomic_write(directory / CONFIG, config_yaml(config))
            _refuse_link(directory / CHAINS)
            chains, length = read_chains(directory, config, problems)
            store = cls(directory, lock, chains, length)
        except OSError as error:
            lock.release()
            raise StoreError(f"cannot open the run directory {directory}: {error}") from error
        except BaseException:
            lock.release()
            raise
        return store

    def append(self, chain: Chain) -> None:
        """Record a finished chain; on return a killed process can no longer lose it.

        Raises:
            StoreError: it cannot be written, e.g. because the disk is full. The chains
                recorded before are safe.
        """
        line = to_jsonl([chain]).encode()
        try:
            self._cut_torn_line()
            _write_all(self._file.fileno(), line)
        except OSError as error:
            # Where even this fails, the next append or the next resume cuts the line off.
            with contextlib.suppress(OSError):
                self._cut_torn_line()
            raise StoreError(
                f"cannot write {self.directory / CHAINS}: {error.strerror or error}; the "
                f"{len(self.chains)} finished chains are safe: free some space, then run the "
                "same command again"
            ) from error
        self._length += len(line)
        self.chains[chain.key] = chain

    def write_certificate(self, certificate: Certificate) -> None:
        """Write ``certificate.json``.

        Raises:
            StoreError: it cannot be written.
        """
        atomic_write(self.directory / CERTIFICATE, certificate.to_json())

    def write_summary(self, summary: Record) -> None:
        """Write ``summary.json``; see ``atts.analysis.summary``.

        Raises:
            StoreError: it cannot be written.
        """
        atomic_write(self.directory / SUMMARY, summary.model_dump_json(indent=2) + "\n")

    def close(self) -> None:
        """Close the files and let go of the lock."""
        self._file.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _cut_torn_line(self) -> None:
        if os.fstat(self._file.fileno()).st_size != self._length:
            os.ftruncate(self._file.fileno(), self._length)


def read_run(directory: Path | str) -> RecordedRun:
    """Read a run for a report: changes nothing, and may be called while the run goes on.

    Raises:
        StoreError: there is no run, or one of its files is corrupt.
    """
    directory = Path(directory)
    if not (directory / CONFIG).is_file():
        raise StoreError(f"{directory} is not a run directory: it holds no {CONFIG}")
    try:
        config = read_config(directory)
        problems = tuple(read_problems(directory))
        chains, _ = read_chains(directory, config, problems)
        calibration, certificate = read_calibration(directory, config)
    except OSError as error:
        raise StoreError(f"cannot read the run directory {directory}: {error}") from error
    found = tuple(chains.values())
    grades = read_grades(directory, found)
    speculation: Mapping[Author, Speculation] = {}
    with contextlib.suppress(StoreError):  # no result depends on it
        speculation = read_speculation(directory)
    return RecordedRun(config, problems, found, calibration, certificate, grades, speculation)


def config_yaml(config: Config) -> str:
    """The text of ``config.yaml``: every key, below a comment with the digest."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    return f"# digest: {config.digest()}\n{text}"


def lock_run(directory: Path, instead: str = "choose another --out") -> FileLock:
    """Lock a run directory, made if need be, against every other process; ``release()`` it.

    ``instead`` is what else can be done than wait for another process.

    Raises:
        StoreError: another process holds it, or it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # A lock of the operating system: it ends with the process, however that ends.
        lock = FileLock(directory / LOCK, timeout=0, thread_local=False)
        lock.acquire()
    except Timeout:
        raise StoreError(
            f"another process is working in {directory}; wait for it, or {instead}"
        ) from None
    except OSError as error:
        raise StoreError(f"cannot open the run directory {directory}: {error}") from error
    return lock


def _create(
    directory: Path,
    config: Config,
    problems: Sequence[Problem],
    calibration: str | None,
    shard: Shard | None,
) -> None:
    _refuse_foreign(directory)
    atomic_write(directory / PROBLEMS, to_jsonl(problems))
    _write_shard(directory, shard)
    if calibration is not None:
        atomic_write(directory / CALIBRATION, calibration)
    atomic_write(directory / CONFIG, config_yaml(config))


def _write_shard(directory: Path, shard: Shard | None) -> None:
    if shard is None:
        (directory / SHARD).unlink(missing_ok=True)  # of a process killed before it was a run
    else:
        atomic_write(directory / SHARD, shard.model_dump_json() + "\n")


def _refuse_foreign(directory: Path) -> None:
    # A process killed in here leaves these; config.yaml comes last and makes it a run.
    ours = {LOCK, PROBLEMS, CALIBRATION, SHARD}
    for path in directory.iterdir():
        if path.name not in ours and not path.name.endswith(".tmp"):
            raise StoreError(
                f"{directory} is neither empty nor a run directory: it holds {path.name} but no "
                f"{CONFIG}; choose another --out"
            )


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise StoreError(
            f"{path} is a link, and what lies behind it is not changed; put the file itself there, "
            "or choose another --out"
        )


def check_run(
    directory: Path,
    config: Config,
    problems: Sequence[Problem],
    calibration: Calibration | None,
    may_grow: bool = True,
    shard: Shard | None = None,
) -> None:
    """Check that a directory can take a run, or holds a part of it; changes nothing.

    Args:
        directory: of the run.
        config: of the run.
        problems: of the run.
        calibration: what it decides by, if anything.
        may_grow: whether samples or problems may have been added.
        shard: what ``problems`` are a share of, if they are not all.

    Raises:
        ConfigError: it holds another run, or another share of it.
        StoreError: it is no run directory, another process works in it, or it cannot be read.
    """
    try:
        if (directory / CONFIG).exists():
            lock_run(directory).release()
            contents = None if calibration is None else calibration.to_json()
            _grown(directory, config, problems, contents, may_grow, shard)
        elif directory.exists():
            _refuse_foreign(directory)
    except OSError as error:
        raise StoreError(f"cannot open the run directory {directory}: {error}") from error


def _grown(
    directory: Path,
    config: Config,
    problems: Sequence[Problem],
    calibration: str | None,
    may_grow: bool,
    shard: Shard | None,
) -> bool:
    """Whether samples or problems were added to the run that a directory holds.

    Raises:
        ConfigError, StoreError: it holds another run, or cannot be read.
    """
    others_grown = check_share(directory, shard)
    theirs = (read_config(directory), read_problems(directory))
    grown = check_same_run(directory, theirs, (config, problems), may_grow) or others_grown
    # Without a calibration there is nothing to compare: the directory may be that of the
    # calibration itself, which leaves the file there.
    if calibration is None:
        return grown
    try:
        stored = json.loads(read_plain(directory / CALIBRATION))
    except (FileNotFoundError, ValueError, RecursionError) as error:
        raise StoreError(
            f"{directory / CALIBRATION} is missing or corrupt; choose another --out"
        ) from error
    if stored != json.loads(calibration):
        raise ConfigError(
            f"{directory} holds a run that decided by another calibration: its {CALIBRATION} "
            f"differs from the one given; {ADVICE}"
        )
    return grown


def former_defaults(directory: Path | None) -> dict[str, Any]:
    """The defaults that a run in this directory was made with, where they have changed since.

    What a command leaves out is taken from here, so that it goes on with the run that it has begun.
    """
    if directory is None or not (directory / CONFIG).is_file():
        return {}
    try:
        recorded = read_config(directory).model_dump(mode="json")
    except StoreError:  # to be told where the run is opened
        return {}
    return {group: _held(keys, recorded[group]) for group, keys in FORMER_DEFAULTS.items()}


def _held(former: dict[str, Any], recorded: dict[str, Any]) -> dict[str, Any]:
    """What of a group's former defaults a run was made with, of the groups within it too."""
    held = {}
    for key, value in former.items():
        if not isinstance(value, dict):
            if recorded[key] == value:
                held[key] = value
        elif within := _held(value, recorded[key]):
            held[key] = within
    return held


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
