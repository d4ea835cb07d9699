"""Everything that a report says about a run."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from atts.analysis.graded_run import GradedRun, grade_run
from atts.analysis.labels import run_names
from atts.analysis.profile import RunProfile, profile
from atts.analysis.summary import Summary, summarise
from atts.errors import StoreError
from atts.grading.grader import Grader
from atts.store.environment import Environment, read_environments
from atts.store.run_directory import RecordedRun, read_run
from atts.text import visible

_log = logging.getLogger(__name__)


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


def read_reports(directories: Sequence[Path], grader: Grader) -> list[RunReport]:
    """Read several, named as they stand side by side; see ``run_names`` and ``read_report``."""
    names = run_names(directories)
    return [
        read_report(name, directory, grader)
        for name, directory in zip(names, directories, strict=True)
    ]


def _environments(directory: Path) -> tuple[Environment, ...]:
    try:
        return read_environments(directory)
    except StoreError as error:  # no figure depends on it
        _log.warning("%s", visible(str(error)))
        return ()
