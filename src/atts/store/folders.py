"""Which folders hold runs, where more is named than runs: ``runs/*``, or a folder of runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from atts.errors import StoreError
from atts.store.contents import CALIBRATION, CHAINS, CONFIG, SUMMARY, read_config


class FoundRuns(NamedTuple):
    """Run directories among what was named, and what else was there."""

    runs: list[Path]
    skipped: list[tuple[Path, str]]
    """And what it is."""


def find_runs(paths: Sequence[Path]) -> FoundRuns:
    """The run directories among paths. Where none is one, each stands for the runs in it.

    A path alone that is no run is handed on as if it were, so that what reads it says what is
    wrong with it.

    Raises:
        StoreError: a path does not exist, or there are several and none holds a run.
    """
    for path in paths:
        if not path.exists():
            raise StoreError(f"{path} is not a run directory: there is no such folder")
    listed = [path for path in paths if (path / CONFIG).is_file()]
    if not listed:
        listed = [each for path in paths for each in _folders_in(path)]
    found = FoundRuns([], [(path, "no run directory") for path in paths if _is_apart(path, listed)])
    for path in dict.fromkeys(listed):
        if reason := _why_no_run(path):
            found.skipped.append((path, reason))
        else:
            found.runs.append(path)
    if not found.runs and len(paths) == 1:
        return FoundRuns(list(paths), [])
    if not found.runs:
        reasons = ", ".join(f"{path} is {reason}" for path, reason in found.skipped[:3])
        raise StoreError(f"none of these {len(paths)} is a run with chains: {reasons}")
    return found


def _is_apart(path: Path, listed: Sequence[Path]) -> bool:
    return path not in listed and all(path != each.parent for each in listed)


def _folders_in(path: Path) -> list[Path]:
    try:
        return sorted(each for each in path.iterdir() if (each / CONFIG).is_file())
    except OSError:  # a file, or a folder that may not be read
        return []


def _why_no_run(path: Path) -> str | None:
    """What a folder with a configuration is, if it is no run with chains."""
    try:
        is_empty = not (path / CHAINS).stat().st_size
    except OSError:
        is_empty = True
    if is_empty:
        return "without chains yet"
    if not (path / CALIBRATION).is_file():
        return None
    try:
        decides_by = read_config(path).take_over.calibration
    except StoreError:  # which is told when it is read as a run
        return None
    # A run has a copy of what it decides by; a calibration decides by none, or is to be its own.
    is_own = decides_by is None or (
        decides_by.parent.name == path.resolve().name and not (path / SUMMARY).exists()
    )
    return "a calibration" if is_own else None
