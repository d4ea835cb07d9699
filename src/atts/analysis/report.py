"""Everything that a report says about a run."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from atts.analysis.graded_run import GradedRun, grade_run
from atts.analysis.profile import RunProfile, profile
from atts.analysis.summary import Summary, summarise
from atts.errors import StoreError
from atts.grading.grader import Grader
from atts.store.environment import Environment, read_environments
from atts.store.run_directory import RecordedRun, read_run
from atts.text import visible

_log = logging.getLogger(__name__)

_DIGEST = re.compile(r"(?<=-[0-9a-f]{4})[0-9a-f]{12}$")
"""All but the first digits of the digest that ``atts run`` ends a folder's name with."""


class RunReport(NamedTuple):
    """A run directory, read, graded, summed up and profiled."""

    name: str
    directory: Path
    graded: GradedRun
    summary: Summary
    profile: RunProfile
    environments: tuple[Environment, ...]

    @property
    def run(self) -> RecordedRun:
        """The run as it is graded."""
        return self.graded.run


def read_report(name: str, directory: Path, grader: Grader) -> RunReport:
    """Read a run directory for a report.

    Raises:
        StoreError: there is no run, or it cannot be read.
        GradingError: it has no chains yet.
    """
    graded = grade_run(read_run(directory), grader)
    return RunReport(
        name=name,
        directory=directory,
        graded=graded,
        summary=summarise(graded),
        profile=profile(graded.run),
        environments=_environments(directory),
    )


def _environments(directory: Path) -> tuple[Environment, ...]:
    try:
        return read_environments(directory)
    except StoreError as error:  # no figure depends on it
        _log.warning("%s", visible(str(error)))
        return ()


def run_names(directories: Sequence[Path]) -> list[str]:
    """What runs are called where several stand side by side.

    The names of the folders, or the paths where two folders have one name. Of a digest four digits
    stay, if they tell the runs apart.

    >>> run_names([Path("runs/a"), Path("runs/b")]), run_names([Path("x/a"), Path("y/a")])
    (['a', 'b'], ['x/a', 'y/a'])
    >>> run_names([Path("runs/atts-1be15a13e53a9d30"), Path("runs/target-only-d99249398214dccf")])
    ['atts-1be1', 'target-only-d992']
    """
    names = [directory.resolve().name for directory in directories]
    if len(set(names)) < len(names):
        return [str(directory) for directory in directories]
    short = [_DIGEST.sub("", name) for name in names]
    return short if len(set(short)) == len(short) else names
