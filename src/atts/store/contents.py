"""What a run directory's files hold, and whether it is that of the run that is to go on."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from atts import registry
from atts.config import FORMER_DEFAULTS, Config, differing_keys, load_config
from atts.conformal.calibration import Calibration
from atts.conformal.risk import Certificate
from atts.errors import CalibrationError, ConfigError, StoreError
from atts.types import Chain, ChainKey, Problem, Record

CONFIG = "config.yaml"
PROBLEMS = "problems.jsonl"
CALIBRATION = "calibration.json"
CERTIFICATE = "certificate.json"
CHAINS = "chains.jsonl"
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
            text = (directory / CALIBRATION).read_text(encoding="utf-8")
            calibration = Calibration.from_json(text, str(directory / CALIBRATION))
        if config.take_over.certificate and (directory / CERTIFICATE).exists():
            text = (directory / CERTIFICATE).read_text(encoding="utf-8")
            certificate = Certificate.from_json(text, str(directory / CERTIFICATE))
    except (UnicodeDecodeError, CalibrationError) as error:
        raise StoreError(f"the run directory {directory} cannot be read: {error}") from error
    return calibration, certificate


def read_problems(directory: Path) -> list[Problem]:
    """The problems of a run, as evaluated.

    Raises:
        StoreError: a line is corrupt.
    """
    path = directory / PROBLEMS
    lines = path.read_bytes().split(b"\n")
    return [
        _parse(Problem, line, path, number) for number, line in enumerate(lines, 1) if line.strip()
    ]


def read_chains(
    directory: Path, config: Config, problems: Sequence[Problem]
) -> tuple[dict[ChainKey, Chain], int]:
    """The newest line of each chain, and the length in bytes up to the last good line.

    Raises:
        StoreError: a line is corrupt, or is no chain of these problems.
    """
    path = directory / CHAINS
    known = {problem.id for problem in problems}
    chains: dict[ChainKey, Chain] = {}
    length = 0
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return chains, length
    for number, line in enumerate(lines, 1):
        if number == len(lines) and _is_torn(line):
            _log.warning("%s: dropped line %d, which was not written to its end", path, number)
            break
        chain = _parse(Chain, line, path, number)
        if chain.problem_id not in known or not 0 <= chain.sample < config.samples:
            raise StoreError(
                f"{path}, line {number}: chain {chain.sample} of problem {chain.problem_id!r} does "
                "not belong to this run; remove the line, or restore the file"
            )
        # A retried chain goes to the end, so that the order is that of the file.
        chains.pop(chain.key, None)
        chains[chain.key] = chain
        length += len(line)
    return chains, length


def _is_torn(line: bytes) -> bool:
    if not line.endswith(b"\n"):
        return True
    try:  # a power cut can leave blocks of zeros where the line should stand
        json.loads(line)
    except ValueError:
        return True
    return False


def _parse(kind: type[_R], line: bytes, path: Path, number: int) -> _R:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise StoreError(
            f"{path}, line {number} is corrupt: {where + ': ' if where else ''}{first['msg']}; "
            "restore the file, or remove the line"
        ) from None


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
