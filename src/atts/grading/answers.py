"""The kinds of answers that there are, mathematics and programs, and how each is found in a text.

``Grader`` says which are right: by ``compare``, or by ``check``.
"""

from collections.abc import Iterable

from atts.grading.extract import extract_answer
from atts.grading.programs.extract import extract_program
from atts.types import Problem


def find_answer(
    problem: Problem,
    text: str,
    ends: Iterable[str] | None = None,
    in_thought: bool = False,
    since: int = 0,
    finished: bool = True,
) -> str | None:
    """The answer that a chain of a problem has come to, or None while there is none.

    A chain that writes a program is not over with a block of code, which may be a first try or an
    example: only its end-of-sequence ends it. The arguments are those of ``extract_answer``.
    """
    if problem.tests is None:
        return extract_answer(text, problem.choices, ends, in_thought, since, finished)
    if not finished:
        return None
    return extract_program(text, problem.tests.entry_point, ends, in_thought)
