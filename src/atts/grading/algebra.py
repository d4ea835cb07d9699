r"""Compares two answers by algebra, with math-verify. Runs only in the processes of ``grader``.

SymPy may take for ever or all memory over a few characters (``9^{9^{9^9}}``), so who calls this
must be ready to lose the process. Only that process imports math-verify, which is slow. Answers
are read by a LaTeX grammar alone: math-verify's other reader, for plain expressions, ends in
Python's ``eval``.
"""

import contextlib
import logging
from functools import lru_cache
from typing import Any


def start(memory_bytes: int) -> None:
    """Set up a process that grades: little memory, and no log lines of what it is given."""
    import math_verify  # noqa: F401 - so that the first pair's time does not go into this

    logging.disable(logging.CRITICAL)
    try:
        import resource
    except ImportError:  # Windows has none; the time limit is all there is
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        memory_bytes = min(memory_bytes, hard)
    # macOS refuses this limit.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, hard))


def same_by_algebra(one: str, other: str) -> bool | None:
    r"""Whether two answers are the same mathematics; symmetric.

    math-verify is asked both ways, and both must agree: it takes ``1`` for ``2x + z = 1`` one way
    round only. An answer that it cannot read differs from one that it can.

    Returns:
        None if it can read neither, or there was not enough memory or stack.
    """
    try:
        first, second = _read(one), _read(other)
        if not first and not second:
            return None
        return bool(first) and bool(second) and _verify(first, second) and _verify(second, first)
    except (MemoryError, RecursionError):
        return None


@lru_cache(maxsize=1024)
def _read(answer: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    # The time limits of math-verify are alarms; here the process is killed instead.
    found: list[Any] = parse(
        f"\\boxed{{{answer}}}",
        (LatexExtractionConfig(boxed_match_priority=0),),
        fallback_mode="no_fallback",
        parsing_timeout=None,
    )
    return found


def _verify(gold: list[Any], answer: list[Any]) -> bool:
    from math_verify import verify

    try:
        same: bool = verify(
            gold, answer, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True
        )
    except (MemoryError, RecursionError):
        raise
    except Exception:  # SymPy raises all kinds where two things cannot be compared
        return False
    return same
