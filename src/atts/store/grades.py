"""What ``atts regrade`` leaves in a run directory.

==================  =====================================================================
``grades.jsonl``    one line per chain: its answer when it ran, its answer now, verdicts
``judge.jsonl``     every reply of the language model, as it came
==================  =====================================================================

``chains.jsonl`` is never changed. A line that was made for another text of its chain, as after
``atts run --retry-failed``, no longer counts.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from atts.errors import StoreError
from atts.files import open_plain, read_lines
from atts.store.contents import Unreadable, parse_line
from atts.types import Chain, ChainKey, Record

GRADES = "grades.jsonl"
LEDGER = "judge.jsonl"


ExtractedBy = Literal["run", "regex", "llm"]
"""``run`` where there was nothing to extract from, or the model did not reply."""


class ChainGrade(Record):
    """A line of ``grades.jsonl``."""

    problem_id: str
    sample: int
    text_digest: str
    """Of the chain's text; see ``text_digest``."""
    original_answer: str | None
    """What the run itself found."""
    answer: str | None
    extracted_by: ExtractedBy
    correct: bool | None
    """None: ungraded, or there is no answer."""
    decided_by: Literal["rules", "llm"]
    rules: bool | None = None
    """The verdict of the rules, if they were asked."""
    llm: bool | None = None
    """The verdict of the language model, if it was asked and replied."""

    @property
    def key(self) -> ChainKey:
        return ChainKey(self.problem_id, self.sample)


def text_digest(chain: Chain) -> str:
    """Identifies the text that a chain was graded by: 16 hexadecimal digits."""
    return hashlib.sha256(chain.text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_grades(directory: Path, chains: Iterable[Chain]) -> dict[ChainKey, ChainGrade]:
    """The grades that hold for these chains; none if the run was never graded anew.

    Lines that cannot be read are left out with a warning.

    Raises:
        StoreError: these are most of the lines, or the file cannot be read.
    """
    path = directory / GRADES
    current = {chain.key: chain for chain in chains}
    grades: dict[ChainKey, ChainGrade] = {}
    left_out = Unreadable(path)
    read = 0
    try:
        with open_plain(path) as file:
            for line in read_lines(file):
                try:
                    grade = parse_line(ChainGrade, line.content)
                except ValueError as error:
                    left_out.add(line.number, str(error))
                    continue
                read += 1
                if _holds(grade, current.get(grade.key)):
                    grades[grade.key] = grade
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    left_out.tell(
        read,
        "their chains are graded by the rules; atts regrade grades them anew",
        "remove the file and run atts regrade again",
    )
    return grades


def _holds(grade: ChainGrade, chain: Chain | None) -> bool:
    """Whether it was made for this answer and this text."""
    return (
        chain is not None
        and grade.original_answer == chain.answer
        and grade.text_digest == text_digest(chain)
    )
