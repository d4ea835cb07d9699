"""Problems: generated, of a known set, or read from a file."""

from pathlib import Path

from atts.config import Config, ProblemsOptions
from atts.errors import ProblemError
from atts.problems.jsonl import read_problems
from atts.types import LETTERS, Problem

__all__ = ["calibration_problems", "load_problems", "read_problems"]

GENERATED_COUNT = 100
"""How many problems are generated where no count is given."""


def load_problems(options: ProblemsOptions) -> list[Problem]:
    """The problems that the options name, in order: at most ``count``, from the first.

    Raises:
        ProblemError: the source is neither ``arithmetic`` nor a known set nor a readable problem
            file, the set cannot be loaded or has no such split, or there are fewer than ``count``.
    """
    if options.source == "arithmetic":
        # Only who generates problems pays for the generator's vocabulary.
        from atts.problems.arithmetic import generate

        return generate(options.split, options.count or GENERATED_COUNT)
    if options.source == "auto":
        raise ProblemError("auto is for calibration.problems.source; name a set, or a file")
    from atts.problems.sets import find_set, load_set

    if found := find_set(options.source):
        return _first(load_set(*found, options), options)
    path = Path(options.source)
    try:
        there = path.exists()
    except OSError:  # no file can have such a name
        there = False
    if not there:
        raise ProblemError(
            f"there are no problems {_short(options.source)!r}: it is neither the name of a "
            "generated set (arithmetic), nor of a known one (atts problems list), nor an existing "
            f"file ({_short(str(path.absolute()))}); check the spelling"
        )
    return _first(read_problems(path), options)


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:100]}...{text[-50:]}"


def _first(problems: list[Problem], options: ProblemsOptions) -> list[Problem]:
    for problem in problems:
        if len(problem.choices) > len(LETTERS):
            raise ProblemError(
                f"{options.source}: the problem {problem.id!r} has {len(problem.choices)} choices, "
                f"but there are letters for {len(LETTERS)}; leave some out"
            )
    if options.count is not None and options.count > len(problems):
        raise ProblemError(
            f"problems.count is {options.count}, but {_short(options.source)} has {len(problems)} "
            "problems; lower it, or leave it out to take all"
        )
    return problems[: options.count]


def calibration_problems(config: Config) -> ProblemsOptions:
    """What marginal calibration is made on; ``auto`` is the calibration split of what is run.

    Raises:
        ProblemError: the run's problems are a file, which has no splits.
    """
    options = config.calibration.problems
    folder = options.folder or config.problems.folder
    if options.source != "auto":
        return options.model_copy(update={"folder": folder})
    from atts.problems.sets import find_set

    source = config.problems.source
    if source != "arithmetic" and not find_set(source):
        raise ProblemError(
            f"{source} is a file, without a calibration split; set calibration.problems.source to "
            "a file with other problems of the same kind, or to the name of a set"
        )
    return options.model_copy(update={"source": source, "split": "calibration", "folder": folder})
