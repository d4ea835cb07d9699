"""When a problem's answer is settled before all of its chains have answered."""

from collections.abc import Sequence
from fractions import Fraction
from math import comb


def is_decided(votes: Sequence[int], remaining: int) -> bool:
    """Whether the leading answer has the most votes whatever the remaining chains answer.

    Args:
        votes: how many chains gave each different answer, in any order.
        remaining: chains that may still answer.

    >>> is_decided([3, 1], remaining=1), is_decided([3, 1], remaining=2)
    (True, False)
    """
    first, second = _leaders(votes)
    return first > second + remaining


def certainty(votes: Sequence[int]) -> float:
    """The posterior probability that the leading answer is likelier than the runner-up.

    Of the chains that give one of the two, a share q gives the leader; with a uniform prior and
    v and w votes, q is Beta(v + 1, w + 1), and what is returned is P(q > 1/2): the stopping rule
    of adaptive consistency (Aggarwal et al. 2023, arXiv 2305.11860, section 3). By the identity
    of Beta and binomial tails that is P(Binomial(v + w + 1, 1/2) <= v), without any integral.

    >>> certainty([3]), certainty([4]), certainty([2, 2]), certainty([])
    (0.9375, 0.96875, 0.5, 0.5)
    """
    first, second = _leaders(votes)
    trials = first + second + 1
    return float(Fraction(sum(comb(trials, k) for k in range(first + 1)), 2**trials))


def _leaders(votes: Sequence[int]) -> tuple[int, int]:
    first, second = sorted([0, 0, *votes], reverse=True)[:2]
    return first, second
