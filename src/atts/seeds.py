"""Where random choices come from: the run's seed and their path in it, not their order."""

import hashlib

_SEEDS = 2**53
"""So that a seed is exact as a float and in the JSON of any server."""


def seed_at(*path: int | str) -> int:
    """A seed below 2^53, uniform and the same for the same path."""
    digest = hashlib.blake2b(repr(path).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _SEEDS


def uniform_at(*path: int | str) -> float:
    """A draw, uniform on [0, 1) and the same for the same path."""
    return seed_at(*path) / _SEEDS


def tie_breaker(seed: int, stream: str, problem_id: str, sample: int, turn: int) -> float:
    """The draw, uniform on [0, 1), that breaks ties in a chain's decision."""
    return uniform_at(seed, stream, problem_id, sample, turn, "p-value")
