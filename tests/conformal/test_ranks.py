"""The sorted multiset, against counts of a plain list."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from atts.conformal.pvalues import Counts, SortedScores

SCORES = st.lists(st.integers(-3, 3).map(float) | st.floats(-9, 9))


def recount(scores: list[float], score: float) -> Counts:
    above = sum(each > score for each in scores)
    return Counts(above, scores.count(score), len(scores))


@given(SCORES, SCORES)
def test_counts_are_those_of_a_list(at_first: list[float], added: list[float]) -> None:
    scores = SortedScores(at_first)
    plain = list(at_first)
    for score in added:
        assert scores.counts(score) == scores.add(score) == recount(plain, score)
        plain.append(score)
    assert list(scores) == sorted(plain)
    assert len(scores) == len(plain)


def test_counts_hold_over_many_blocks_and_ties_that_span_them() -> None:
    rng = np.random.default_rng(5)
    scores, plain = SortedScores(), np.empty(0)
    for round_number, highest in enumerate((3, 40, 10_000)):
        new = rng.integers(0, highest, 3000).astype(float)
        for score in new.tolist():
            scores.add(score)
        plain = np.concatenate([plain, new])
        for score in [-1.0, highest + 1.0, *new[:100].tolist(), *(new[:100] + 0.5).tolist()]:
            assert scores.counts(score) == Counts(
                int((plain > score).sum()), int((plain == score).sum()), 3000 * (round_number + 1)
            )
    assert list(scores) == np.sort(plain).tolist()


def test_growing_in_order_is_no_special_case() -> None:
    for step in (1, -1):
        scores = SortedScores()
        for score in range(2000)[::step]:
            scores.add(float(score))
        assert scores.counts(700.5) == Counts(1299, 0, 2000)
