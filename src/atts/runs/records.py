"""A run directory as records, one a chain: what ``atts export`` writes and a notebook reads."""

from pathlib import Path
from typing import Any

from atts.exchange.tables import rows
from atts.grading.cache import VerdictCache
from atts.grading.grader import Grader
from atts.runs.grades import read_grades, regraded, states
from atts.runs.store import read_run


def read_records(directory: Path | str) -> list[dict[str, Any]]:
    """A dictionary per chain, by problem and sample, with answers as they were graded last.

    The keys are those of ``atts export``: ``pandas.DataFrame(read_records(...))`` is a table.
    Answers that need algebra are compared in other processes.

    Raises:
        StoreError: there is no run, or one of its files is corrupt.
    """
    directory = Path(directory)
    recorded = read_run(directory)
    grades = read_grades(directory, recorded.chains)
    chains = sorted(regraded(recorded.chains, grades), key=lambda chain: chain.key)
    with Grader(cache=VerdictCache()) as grader:
        graded = states(recorded, grades, grader)
    correct = {key: state.correct for key, state in graded.items()}
    return list(rows(recorded.problems, chains, correct))
