"""The checks of replies by themselves: whatever comes is right, or unusable."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atts.engines.replies import (
    ROUNDING,
    UnusableError,
    check_written,
    checked_cached,
    checked_load,
    checked_logprobs,
    numbers,
)

VALUE: st.SearchStrategy[object] = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)  # all that JSON's parser gives
    | st.integers(0, 9)
    | st.floats()
    | st.text(max_size=3)
    | st.just([1])
    | st.just({})
)


@given(st.lists(st.integers(0, 9), max_size=6) | st.lists(VALUE, max_size=6), st.integers(1, 6))
def test_ids_are_of_the_vocabulary_and_no_more_than_asked_for(ids: list[object], most: int) -> None:
    right = len(ids) <= most and all(type(i) is int and 0 <= i < 8 for i in ids)
    try:
        check_written(ids, "stop", most, 8)
        is_usable = True
    except UnusableError:
        is_usable = False
    assert is_usable == right


@given(st.lists(VALUE, max_size=5) | st.lists(st.floats(-9.0, 0.002), max_size=5) | VALUE)
def test_log_probabilities_are_finite_and_not_above_zero(found: object) -> None:
    try:
        checked = checked_logprobs(numbers(found), 3)
    except UnusableError:
        return
    assert isinstance(found, list)
    assert len(found) == len(checked) == 3
    for before, after in zip(found, checked.tolist(), strict=True):
        assert type(before) in (int, float)
        assert before <= ROUNDING
        assert after == min(before, 0.0)


def test_rounding_above_zero_is_taken_for_zero() -> None:
    assert checked_logprobs(np.array([-1.0, 4e-4]), 2).tolist() == [-1.0, 0.0]
    with pytest.raises(UnusableError, match=r"0\.0011, above zero"):
        checked_logprobs(np.array([-1.0, 1.1e-3]), 2)


@given(VALUE)
def test_what_was_cached_is_a_count(found: object) -> None:
    try:
        cached = checked_cached(found, 5)
    except UnusableError:
        assert type(found) is not int or found < 0
        return
    assert 0 <= cached <= 5
    if type(found) is int and found <= 5:
        assert cached == found


@given(VALUE, VALUE, VALUE)
def test_a_load_is_finite(running: object, waiting: object, cache_use: object) -> None:
    try:
        load = checked_load([0, running], [waiting], [cache_use, 0.5])
    except UnusableError:
        return
    assert min(load.running, load.waiting) >= 0
    assert math.isfinite(load.cache_use)
    assert 0.0 <= load.cache_use <= 1.0
