"""A run with everything that a report says about it."""

from pathlib import Path
from typing import Literal, NamedTuple

from atts.grading.grader import Grader
from atts.profiles.profile import Profile, profile
from atts.reports.summary import Summary
from atts.runs.environment import Environment, read_environments
from atts.runs.grades import read_grades, states, summarise_graded
from atts.runs.store import RecordedRun, read_run
from atts.types import Chain, ChainKey

Outcome = Literal["right", "wrong", "ungraded", "no answer", "failed", "not needed"]


class ReportedRun(NamedTuple):
    """A run directory, read, graded, summed up and profiled."""

    name: str
    directory: Path
    run: RecordedRun
    summary: Summary
    profile: Profile
    outcomes: dict[ChainKey, Outcome]
    answers: dict[ChainKey, str | None]
    """As they were graded last."""
    environments: tuple[Environment, ...]


def read_reported(name: str, directory: Path, grader: Grader) -> ReportedRun:
    """Read a run directory for a report.

    Raises:
        StoreError: there is no run, or one of its files is corrupt.
        GradingError: it has no chains yet.
    """
    run = read_run(directory)
    grades = read_grades(directory, run.chains)
    graded = states(run, grades, grader)
    return ReportedRun(
        name=name,
        directory=directory,
        run=run,
        summary=summarise_graded(run, grades, grader),
        profile=profile(run),
        outcomes={
            chain.key: _outcome(chain, graded[chain.key].answer, graded[chain.key].correct)
            for chain in run.chains
        },
        answers={key: state.answer for key, state in graded.items()},
        environments=read_environments(directory),
    )


def _outcome(chain: Chain, answer: str | None, correct: bool | None) -> Outcome:
    if chain.end == "failed":
        return "failed"
    if not chain.is_needed:
        return "not needed"
    if answer is None:
        return "no answer"
    if correct is None:
        return "ungraded"
    return "right" if correct else "wrong"
