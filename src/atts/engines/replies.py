"""What a server replies, checked before it is believed.

Each check raises ``UnusableError`` with what is wrong. ``RemoteEngine`` makes it an
``EngineReplyError`` that names the server, the request and the mend, so that it is tried again.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from atts.engines.base import Load, all_finite
from atts.engines.http import Json, quoted
from atts.types import FinishReason

ROUNDING = 1e-3
"""Nats by which rounding on a server may lift the log-probability of a certain token above zero. As
much is taken for zero; more is an error."""


class UnusableError(Exception):
    """A reply lacks what was asked for, or holds what cannot be."""


def field(tree: Json, *path: str | int) -> Json:
    """A value deep in parsed JSON; None where any step of the path is missing.

    >>> field({"choices": [{"token_ids": [1]}]}, "choices", 0, "token_ids")
    [1]
    >>> field({"choices": []}, "choices", 0, "token_ids") is None
    True
    """
    for step in path:
        try:
            tree = tree[step]
        except (KeyError, IndexError, TypeError):
            return None
    return tree


def column(rows: list[Json], *path: str | int) -> list[Json]:
    """A value deep in each row; None where any step of the path is missing.

    >>> column([[-0.5, 7], [-1.5, 8], None], 0)
    [-0.5, -1.5, None]
    """
    try:  # for hundreds of rows, most often as they should be
        found = rows
        for step in path:
            found = [row[step] for row in found]
    except (KeyError, IndexError, TypeError):
        return [field(row, *path) for row in rows]
    return found


def is_count(value: Json) -> bool:
    """Whether it is a whole number of at least 0.

    >>> is_count(3), is_count(-1), is_count(True), is_count("3")
    (True, False, False, False)
    """
    return type(value) is int and value >= 0


def numbers(found: Json) -> NDArray[np.float64]:
    """A list of log-probabilities, all of which must be numbers; which ones is not looked at."""
    if not isinstance(found, list):
        raise UnusableError(f"it has {_named(found)} in place of log-probabilities")
    if not set(map(type, found)) <= {int, float}:
        wrong = next(each for each in found if type(each) not in (int, float))
        raise UnusableError(f"a log-probability is {_named(wrong)}")
    return np.array(found, dtype=np.float64)


def checked_logprobs(found: NDArray[np.float64], tokens: int) -> NDArray[np.float64]:
    """One for each of so many tokens, finite, and none above zero; see ``ROUNDING``."""
    if len(found) != tokens or not all_finite(found):
        raise UnusableError(
            f"{len(found)} log-probabilities for {tokens} tokens, "
            f"{np.isfinite(found).sum()} of them finite"
        )
    if tokens and (largest := np.maximum.reduce(found)) > 0.0:
        if largest > ROUNDING:
            raise UnusableError(f"a log-probability of {largest:.4g}, above zero")
        return np.minimum(found, 0.0)
    return found


def check_written(ids: Sequence[Json], reason: FinishReason, most: int, vocab_size: int) -> None:
    """No more ids than were asked for, all of them of the model's vocabulary."""
    if len(ids) > most:
        raise UnusableError(f"it has {len(ids):,} tokens, more than were asked for")
    if not ids:
        if reason == "length":
            raise UnusableError("it has no token, and says that their limit was reached")
        return
    if set(map(type, ids)) == {int} and min(ids) >= 0 and max(ids) < vocab_size:
        return
    wrong = next(each for each in ids if not is_count(each) or each >= vocab_size)
    raise UnusableError(
        f"a token id is {_named(wrong)}, where the model's vocabulary has {vocab_size:,}: does the "
        "server serve that model?"
    )


def checked_cached(found: Json, sent: int) -> int:
    """A count of cached tokens; 0 where the server does not tell.

    SGLang may count twice what it computed again for want of memory, so that more than were sent
    are taken for all of them.
    """
    if found is None:
        return 0
    if not is_count(found):
        raise UnusableError(f"cached_tokens is {_named(found)}, which is no count")
    return min(int(found), sent)


def checked_load(
    running: list[Json], waiting: list[Json], cache_use: list[Json], room: Sequence[Json] = ()
) -> Load:
    """What the copies of a model in one server tell of their load, as that of the server.

    ``room`` holds the tokens that the caches hold; what is no count there counts as not told.
    """
    figures = (*running, *waiting, *cache_use)
    if any(type(each) not in (int, float) or not 0 <= each < math.inf for each in figures):
        raise UnusableError(f"its load is {quoted(figures)}")
    told = (
        bool(room) and len(room) == len(running) and all(is_count(each) and each for each in room)
    )
    return Load(
        int(sum(running)),
        int(sum(waiting)),
        min(float(max(cache_use)), 1.0),
        sum(room) if told else None,
    )


def _named(value: Json) -> str:
    return "null" if value is None else quoted(value)
