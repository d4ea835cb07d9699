"""Loads the sets of the registry: from the hub, its cache, or a folder of JSONL files."""

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from atts.config import ProblemsOptions
from atts.errors import ProblemError
from atts.files import atomic_write
from atts.grading.grader import cache_folder
from atts.package import install
from atts.problems.jsonl import read_entries
from atts.problems.registry import SETS, Entry, HubSource, ProblemSet, Row, known_sets
from atts.types import Problem

PAPER = "paper"

_log = logging.getLogger(__name__)


def find_set(source: str) -> tuple[ProblemSet, bool] | None:
    """The set that a source names, and whether it is the paper's part; None if it names none."""
    name, slash, part = source.partition("/")
    if name not in known_sets() or (slash and part != PAPER):
        return None
    if slash and SETS[name].paper is None:
        raise ProblemError(f"the paper does not evaluate on {name}; use problems.source={name}")
    return SETS[name], bool(slash)


def load_set(problem_set: ProblemSet, paper: bool, options: ProblemsOptions) -> list[Problem]:
    """The problems of a split of a set.

    ``test`` is the set, or its part. ``calibration`` never meets it: it is the rest of the set,
    the training split, or another set of the same kind without the questions that both have.

    Raises:
        ProblemError: they cannot be loaded, or there is no such split.
    """
    if options.split == "train":
        if problem_set.training is None:
            raise ProblemError(f"{problem_set.name} has no training split; use split=test")
        return _problems(_entries(problem_set, options, problem_set.training))
    whole = _entries(problem_set, options)
    test = _part(problem_set, whole) if paper else whole
    if options.split == "test":
        return _problems(test)
    if paper and problem_set.rest_calibrates:
        others: Sequence[Entry] = whole
    elif problem_set.training is not None:
        others = _entries(problem_set, options, problem_set.training)
    elif problem_set.calibrate_on is not None:
        others = _entries(SETS[problem_set.calibrate_on], options)
    else:
        hint = f"evaluate on {problem_set.name}/{PAPER}, whose rest serves calibration, or " * (
            problem_set.rest_calibrates
        )
        raise ProblemError(
            f"nothing is left of {problem_set.name} to calibrate on; {hint}set "
            "calibration.problems.source to another set"
        )
    seen = {_normal(problem.question) for problem, _ in test}
    taken = {problem.id for problem, _ in test}
    return [
        problem
        for problem, _ in others
        if problem.id not in taken and _normal(problem.question) not in seen
    ]


def _part(problem_set: ProblemSet, entries: Sequence[Entry]) -> Sequence[Entry]:
    if problem_set.paper is None:
        raise ValueError(f"{problem_set.name} has no part")
    return problem_set.paper(entries)


def _problems(entries: Sequence[Entry]) -> list[Problem]:
    return [problem for problem, _ in entries]


def _normal(question: str) -> str:
    return re.sub(r"\W+", " ", question).casefold().strip()


def _entries(
    problem_set: ProblemSet, options: ProblemsOptions, source: HubSource | None = None
) -> Sequence[Entry]:
    """All of a set; ``source`` is another split of it than the one for tests."""
    if options.folder is not None:
        return _from_folder(problem_set, options.folder, training=source is not None)
    rows = _rows(source or problem_set.hub)
    size = None if source else problem_set.size
    if size is not None and len(rows) != size:
        raise ProblemError(
            f"{problem_set.hub.repo} has {len(rows)} rows where {size} are expected; delete the "
            f"copy in {_cached(problem_set.hub).parent}, or report this"
        )
    entries = [
        (problem_set.read(number, row, options.seed), row) for number, row in enumerate(rows)
    ]
    if len({problem.id for problem, _ in entries}) < len(entries):
        raise ProblemError(f"two problems of {problem_set.name} have one id; report this")
    return entries


def _from_folder(problem_set: ProblemSet, folder: Path, training: bool) -> Sequence[Entry]:
    stem = (problem_set.file or problem_set.name) + ("_train" if training else "")
    path = folder / f"{stem}.jsonl"
    if not path.is_file():
        there = ", ".join(sorted(file.name for file in folder.glob("*.jsonl"))) or "no JSONL file"
        raise ProblemError(
            f"{problem_set.name} is looked for in {path}, which is not there; the folder holds "
            f"{there}"
        )
    return read_entries(path)


def _cached(source: HubSource) -> Path:
    parts = (source.repo, source.config or "default", source.split, source.revision)
    return cache_folder() / "problems" / ("--".join(parts).replace("/", "--") + ".jsonl")


def _rows(source: HubSource) -> list[Row]:
    """The rows of a dataset: from our own copy, which needs no network, if there is one."""
    path = _cached(source)
    if path.is_file():
        return [row for _, row in _cached_rows(path)]
    try:
        from datasets import load_dataset
    except ModuleNotFoundError:
        raise ProblemError(
            f"{source.repo} comes from the Hugging Face hub: {install('data')}, or name a "
            "folder of JSONL files by --problems-dir (problems.folder)"
        ) from None
    try:
        dataset = load_dataset(
            source.repo, source.config, split=source.split, revision=source.revision
        )
        rows: list[Row] = [dict(row) for row in dataset]
        text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    except Exception as error:  # of datasets, the hub client, the network, the file system
        raise ProblemError(
            f"cannot load {source.repo} at {source.revision}: {type(error).__name__}: {error}; "
            "without a network, name a folder of JSONL files by --problems-dir "
            "(problems.folder); a dataset that asks for an account needs hf auth login"
        ) from error
    if source.revision != "main":
        try:
            atomic_write(path, text)
        except Exception as error:
            _log.warning("no copy of %s was kept: %s", source.repo, error)
    return rows


def _cached_rows(path: Path) -> list[tuple[int, Row]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line:
            try:
                rows.append((number, json.loads(line)))
            except ValueError:
                raise ProblemError(f"{path}, line {number} is corrupt; delete the file") from None
    return rows
