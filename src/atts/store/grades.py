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

from pydantic import ValidationError

from atts.errors import StoreError
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

    Raises:
        StoreError: the file cannot be read, or a line is corrupt.
    """
    path = directory / GRADES
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    current = {chain.key: chain for chain in chains}
    grades: dict[ChainKey, ChainGrade] = {}
    for number, line in enumerate(lines, 1):
        try:
            grade = ChainGrade.model_validate_json(line)
        except ValidationError:
            raise StoreError(
                f"{path}, line {number} is corrupt; remove the file and run atts regrade again"
            ) from None
        chain = current.get(grade.key)
        if (
            chain
            and grade.original_answer == chain.answer
            and grade.text_digest == text_digest(chain)
        ):
            grades[grade.key] = grade
    return grades
