"""Problems: generated, or read from a file."""

from pathlib import Path

from atts.config import ProblemsOptions
from atts.errors import ProblemError
from atts.problems.jsonl import read_problems
from atts.types import Problem

__all__ = ["load_problems", "read_problems"]


def load_problems(options: ProblemsOptions) -> list[Problem]:
    """The problems that the options name, in order: at most ``count``, from the first.

    Raises:
        ProblemError: the source is neither ``arithmetic`` nor a readable problem file, or
            ``arithmetic`` is to be generated without a ``count``.
    """
    if options.source == "arithmetic":
        if options.count is None:
            raise ProblemError(
                "arithmetic problems are generated without end: give a count, e.g. "
                "problems.count=100"
            )
        # Only who generates problems pays for the generator's vocabulary.
        from atts.problems.arithmetic import generate

        return generate(options.split, options.count)
    path = Path(options.source)
    if not path.exists():
        raise ProblemError(
            f"there are no problems {options.source!r}: it is neither the name of a generated "
            f"set (arithmetic) nor an existing file ({path.absolute()}); check the spelling"
        )
    return read_problems(path)[: options.count]
