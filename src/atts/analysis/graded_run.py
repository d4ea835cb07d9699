"""A run with everything that a report says about it."""

from pathlib import Path
from typing import Literal, NamedTuple

from atts.analysis.profile import Profile, profile
from atts.analysis.summary import Summary, summarise
from atts.grading.chains import grade_chains
from atts.grading.grader import Grader
from atts.store.environment import Environment, read_environments
from atts.store.grades import ChainGrade, read_grades, regraded
from atts.store.run_directory import RecordedRun, read_run
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


def summarise_graded(
    run: RecordedRun, grades: dict[ChainKey, ChainGrade], grader: Grader | None = None
) -> Summary:
    """``summarise``, with the answers and verdicts of ``grades`` where there are any.

    Raises:
        GradingError: there are no chains.
    """
    return summarise(
        run.config,
        run.problems,
        regraded(run.chains, grades),
        run.calibration,
        run.certificate,
        grader,
        _judged(grades),
    )


class State(NamedTuple):
    """Where a chain stands: its answer, and whether it is right; None is ungraded or no answer."""

    answer: str | None
    correct: bool | None


def states(
    run: RecordedRun, grades: dict[ChainKey, ChainGrade], grader: Grader
) -> dict[ChainKey, State]:
    """Each chain's answer and verdict, by the grades where there are any, else by the rules."""
    chains = sorted(regraded(run.chains, grades), key=lambda chain: chain.key)
    by_problem = grade_chains(run.problems, chains, grader, _judged(grades)).grades
    in_order = {name: iter(graded) for name, graded in by_problem.items()}
    states = {}
    for chain in chains:
        if not chain.is_needed:
            states[chain.key] = State(None, None)
            continue
        grade = next(in_order[chain.problem_id])
        known = grade.answer is not None and grade.graded
        states[chain.key] = State(grade.answer, grade.correct if known else None)
    return states


def _judged(grades: dict[ChainKey, ChainGrade]) -> dict[ChainKey, bool | None]:
    """The verdicts of the language model that stand in place of the rules'."""
    return {key: grade.correct for key, grade in grades.items() if grade.decided_by == "llm"}
