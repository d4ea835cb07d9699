"""A recorded run and what each of its chains came to: graded once, for all that is said of it."""

from typing import Literal, NamedTuple

from atts.grading.chains import GradedChains, grade_chains
from atts.grading.grader import Grader, VerdictCache
from atts.store.run_directory import RecordedRun
from atts.types import Chain, ChainKey

ChainOutcome = Literal[
    "right", "wrong", "ungraded", "not graded", "no answer", "failed", "not needed"
]
"""Ungraded is what could not be compared; not graded, what has no gold answer to compare with."""


class ChainVerdict(NamedTuple):
    """What a chain came to."""

    answer: str | None
    """None too where the chain failed or was not needed."""
    outcome: ChainOutcome
    reason: str = ""
    """Why it is ungraded, if it is."""

    @property
    def correct(self) -> bool | None:
        """Whether the answer is right; None if there is none, or it could not be compared.

        >>> ChainVerdict("2", "right").correct, ChainVerdict("x", "ungraded").correct
        (True, None)
        """
        return self.outcome == "right" if self.outcome in ("right", "wrong") else None


class GradedRun(NamedTuple):
    """A run with the verdicts on its chains."""

    run: RecordedRun
    """Its chains have the answers by which they were graded."""
    graded: GradedChains
    """The verdicts on the chains that were needed, by problem, and which answers are the same."""
    verdicts: dict[ChainKey, ChainVerdict]
    """Of every chain."""


def grade_run(run: RecordedRun, grader: Grader | None = None) -> GradedRun:
    """Grade the chains of a run: by what ``atts regrade`` found where it did, else by the rules.

    ``grader`` compares the answers (none: one that lasts for this call and uses the user's cache).
    """
    if grader is None:
        with Grader(cache=VerdictCache()) as own:
            return grade_run(run, own)
    judged = {key: grade.correct for key, grade in run.grades.items() if grade.decided_by == "llm"}
    chains = run.chains_as_graded()
    graded = grade_chains(run.problems, chains, grader, judged)
    in_order = {name: iter(grades) for name, grades in graded.grades.items()}
    golds = {problem.id for problem in run.problems if problem.is_graded}
    verdicts = {}
    for chain in sorted(chains, key=lambda chain: chain.key):
        if not chain.is_needed:
            verdicts[chain.key] = ChainVerdict(None, "not needed")
            continue
        grade = next(in_order[chain.problem_id])
        correct = grade.correct if grade.graded else None
        outcome = _outcome(chain, grade.answer, correct)
        if outcome == "ungraded" and chain.problem_id not in golds:
            outcome = "not graded"
        reason = grade.reason if outcome == "ungraded" else ""
        verdicts[chain.key] = ChainVerdict(grade.answer, outcome, reason)
    return GradedRun(run._replace(chains=chains), graded, verdicts)


def _outcome(chain: Chain, answer: str | None, correct: bool | None) -> ChainOutcome:
    if chain.end == "failed":
        return "failed"
    if answer is None:
        return "no answer"
    if correct is None:
        return "ungraded"
    return "right" if correct else "wrong"
