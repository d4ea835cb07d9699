"""When an answer is settled: against all that the remaining chains could answer, and scipy."""

from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from atts.runs.stopping import certainty, is_decided

votes = st.lists(st.integers(1, 5), max_size=3)


@given(votes=votes, remaining=st.integers(0, 4))
def test_decided_is_what_no_answer_can_change(votes: list[int], remaining: int) -> None:
    def leads_alone(counts: Counter[int], answer: int) -> bool:
        return all(counts[answer] > count for other, count in counts.items() if other != answer)

    kinds = range(len(votes) + 1)  # one more, that nobody has given yet
    now = Counter(dict(enumerate(votes)))
    always = [
        answer
        for answer in range(len(votes))
        if all(
            leads_alone(now + Counter(rest), answer) for rest in product(kinds, repeat=remaining)
        )
    ]
    assert is_decided(votes, remaining) == bool(always)


@given(votes=st.lists(st.integers(0, 200), max_size=4))
def test_certainty_is_the_posterior_of_adaptive_consistency(votes: list[int]) -> None:
    first, second = sorted([0, 0, *votes], reverse=True)[:2]
    expected = beta.sf(0.5, first + 1, second + 1)
    assert certainty(votes) == pytest.approx(expected, rel=1e-9)
    assert certainty(votes) == certainty(votes[::-1])
