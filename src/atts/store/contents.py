"""What a run directory's files hold, and whether it is that of the run that is to go on."""

import json
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

from pydantic import ValidationError

from atts import registry
from atts.config import FORMER_DEFAULTS, Config, differing_keys, load_config
from atts.conformal.calibration import Calibration
from atts.conformal.risk import Certificate
from atts.errors import CalibrationError, ConfigError, StoreError
from atts.files import open_plain, read_lines, read_plain
from atts.text import shortened
from atts.types import Chain, ChainKey, Problem, Record

CONFIG = "config.yaml"
PROBLEMS = "problems.jsonl"
CALIBRATION = "calibration.json"
CERTIFICATE = "certificate.json"
CHAINS = "chains.jsonl"
SHARD = "shard.json"
SUMMARY = "summary.json"
LOCK = ".lock"

_log = logging.getLogger(__name__)
_R = TypeVar("_R", bound=Record)


def read_config(directory: Path) -> Config:
    """The configuration of a run.

    Raises:
        StoreError: it is wrong.
    """
    try:
        return load_config(directory / CONFIG, defaults=FORMER_DEFAULTS)
    except ConfigError as error:
        raise StoreError(f"the run directory {directory} cannot be read: {error}") from error


def read_calibration(
    directory: Path, config: Config
) -> tuple[Calibration | None, Certificate | None]:
    """What the run decides by, and what vouches for it.

    Raises:
        StoreError: one of the two is corrupt.
    """
    calibration = certificate = None
    try:
        # The directory of a calibration pass has the file too, but did not decide by it.
        if config.take_over.calibration and (directory / CALIBRATION).exists():
            text = read_plain(directory / CALIBRATION).decode()
            calibration = Calibration.from_json(text, str(directory / CALIBRATION))
        if config.take_over.certificate and (directory / CERTIFICATE).exists():
            text = read_plain(directory / CERTIFICATE).decode()
            certificate = Certificate.from_json(text, str(directory / CERTIFICATE))
    except (UnicodeDecodeError, CalibrationError) as error:
        raise StoreError(f"the run directory {directory} cannot be read: {error}") from error
    return calibration, certificate


class Unreadable:
    """The lines of a file that are left out, because nothing can be read out of them.

    What is left out must only ever look like what is missing, and most of a file is no exception
    to a file that is whole: see ``tell``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = 0
        self._first = ""

    def add(self, number: int, reason: str) -> None:
        """Count a line."""
        self._count += 1
        self._first = self._first or f"line {number}: {reason}"

    def tell(self, read: int, consequence: str, mend: str) -> None:
        """Warn of what was left out, once.

        Args:
            read: how many lines could be read.
            consequence: of leaving lines out.
            mend: what to do if it is most of the file.

        Raises:
            StoreError: it is more than was read.
        """
        if self._count > read:
            raise StoreError(
                f"{self._path}: {self._count} of {self._count + read} lines cannot be read, the "
                f"first is {self._first}; {mend}"
            )
        if self._count:
            _log.warning(
                "%s: left out %d of %d lines, which cannot be read, the first is %s; %s",
                shortened(str(self._path)),
                self._count,
                self._count + read,
                self._first,
                consequence,
            )


def parse_line(kind: type[_R], line: bytes | None) -> _R:
    """The record of a line.

    Raises:
        ValueError: there is none; the message says why, and is fit to be printed.
    """
    if line is None:
        raise ValueError("it is longer than any record")
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(shortened(f"{where}: {first['msg']}" if where else first["msg"])) from None


def read_problems(directory: Path) -> list[Problem]:
    """The problems of a run, as evaluated.

    All or none: without one of them, the figures would be those of another set.

    Raises:
        StoreError: a line is corrupt, or repeats a problem.
        OSError: the file cannot be read.
    """
    path = directory / PROBLEMS
    problems: dict[str, Problem] = {}
    with open_plain(path) as file:
        for line in read_lines(file):
            if line.content is not None and not line.content.strip():
                continue
            try:
                problem = parse_line(Problem, line.content)
            except ValueError as error:
                raise StoreError(
                    f"{path}, line {line.number} is corrupt: {error}; restore the file, or run "
                    "the same command into another --out"
                ) from None
            if problem.id in problems:
                raise StoreError(
                    f"{path}, line {line.number}: the problem {shortened(problem.id)!r} was there "
                    "before; remove the line"
                )
            problems[problem.id] = problem
    return list(problems.values())


def read_chains(
    directory: Path, config: Config, problems: Sequence[Problem]
) -> tuple[dict[ChainKey, Chain], int]:
    """The newest line of each chain, and the length in bytes without a torn last line.

    Other lines that cannot be read, or are no chain of this run, are left out with a warning:
    their chains count as not done.

    Raises:
        StoreError: these are most of the lines.
        OSError: the file cannot be read.
    """
    try:
        with open_plain(directory / CHAINS) as file:
            return _chains(directory / CHAINS, file, config, problems)
    except FileNotFoundError:
        return {}, 0


def _chains(
    path: Path, file: BinaryIO, config: Config, problems: Sequence[Problem]
) -> tuple[dict[ChainKey, Chain], int]:
    known = {problem.id for problem in problems}
    chains: dict[ChainKey, Chain] = {}
    left_out = Unreadable(path)
    length = read = 0
    lines = read_lines(file)
    line = next(lines, None)
    while line:
        after = next(lines, None)
        if after is None and (not line.is_ended or _is_torn(line.content)):
            _log.warning(
                "%s: dropped line %d, which was not written to its end",
                shortened(str(path)),
                line.number,
            )
            break
        length += line.length
        if line.content is None or line.content.strip():
            try:
                chain = _chain(line.content, known, config.samples)
            except ValueError as error:
                left_out.add(line.number, str(error))
            else:
                read += 1
                # A retried chain goes to the end, so that the order is that of the file.
                chains.pop(chain.key, None)
                chains[chain.key] = chain
        line = after
    left_out.tell(
        read,
        "their chains count as not done, and atts run does them again",
        "restore the file, or read it with the version of atts that wrote it",
    )
    return chains, length


def _chain(line: bytes | None, known: Collection[str], samples: int) -> Chain:
    chain = parse_line(Chain, line)
    if chain.problem_id not in known or chain.sample >= samples:
        name = shortened(chain.problem_id, 60)
        raise ValueError(f"chain {chain.sample} of problem {name!r} does not belong to this run")
    return chain


def _is_torn(line: bytes | None) -> bool:
    """Whether a last line, which is ended, is none: a power cut can leave blocks of zeros."""
    if line is None:
        return False
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return True
    return False


ADVICE = "choose another --out, or go back to what the run was started with"

Run = tuple[Config, Sequence[Problem]]


def check_same_run(directory: Path, theirs: Run, ours: Run, may_grow: bool = True) -> bool:
    """Whether ours adds samples or problems to theirs; all that would change a finished chain is
    refused.

    Args:
        directory: of the run, for messages.
        theirs: configuration and problems that the directory holds.
        ours: those that it is to go on with.
        may_grow: whether anything may be added.

    Raises:
        ConfigError: it is another run; the keys or problems that differ are named.
    """
    grows = may_grow and _adds_problems(theirs[1], ours[1])
    keys = differing_keys(ours[0].what_results_depend_on(), theirs[0].what_results_depend_on())
    added = {"problems.count"} if grows or _same(theirs[1], ours[1]) else set()
    reason = _fixed_samples(ours[0])
    if may_grow and ours[0].samples > theirs[0].samples and not reason:
        added.add("samples")
    if others := [key for key in keys if key not in added]:
        there, now = (run[0].what_results_depend_on() for run in (theirs, ours))
        lines = [f"\n  {key}: {there.get(key)!r} there, {now.get(key)!r} now" for key in others]
        why = f"\n{reason}" if "samples" in others and reason else ""
        raise ConfigError(
            f"{directory} holds a run of another configuration:{''.join(lines)}{why}\n{ADVICE}"
        )
    if not grows and not _same(theirs[1], ours[1]):
        before, after = ({problem.id: problem for problem in run[1]} for run in (theirs, ours))
        changed = [key for key in before | after if before.get(key) != after.get(key)]
        raise ConfigError(
            f"{directory} holds a run of other problems: {len(changed)} differ, the first is "
            f"{changed[0]!r}; {ADVICE}. A gold answer that was corrected is taken by atts regrade "
            "--problems"
        )
    return bool(keys) or grows


def _same(theirs: Sequence[Problem], ours: Sequence[Problem]) -> bool:
    return {problem.id: problem for problem in theirs} == {problem.id: problem for problem in ours}


def _adds_problems(theirs: Sequence[Problem], ours: Sequence[Problem]) -> bool:
    now = {problem.id: problem for problem in ours}
    return len(now) > len(theirs) and all(now.get(each.id) == each for each in theirs)


def _fixed_samples(config: Config) -> str | None:
    """Why more samples would change chains that are finished, if they would."""
    if registry.METHODS.found[config.method].together:
        return f"with method={config.method} a problem's chains are compared with each other"
    if config.stop.when != "never":
        return f"with stop.when={config.stop.when} chains were left out because of their number"
    return None
