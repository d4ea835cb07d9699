"""What requests take, between what was measured."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atts.advice.prices import Level, Line, Prices

seconds = st.floats(0.0, 100.0)


def level(in_flight: int, token: float, beside: float = 1.0) -> Level:
    line = Line(fixed=0.0, token=token)
    return Level(in_flight=in_flight, draft=line, target=line, score=line, target_beside=beside)


@given(st.floats(1.0, 50.0), seconds, st.floats(51.0, 500.0), seconds)
def test_a_line_never_falls_and_meets_the_long_request(
    few: float, quick: float, many: float, slow: float
) -> None:
    line = Line.through((few, quick), (many, slow))
    assert line.fixed >= 0.0
    assert line.token >= 0.0
    assert line.seconds(many) == pytest.approx(slow, abs=1e-9)
    if quick <= slow <= quick * many / few:
        assert line.seconds(few) == pytest.approx(quick, abs=1e-6)


@given(st.floats(1.0, 2_000.0))
def test_between_levels_lies_what_is_between_them(n: float) -> None:
    prices = Prices(levels=(level(1, 1.0), level(16, 2.0, 1.5), level(256, 20.0, 2.0)))
    found = prices.at(n)
    if n >= 256:
        assert found.target.token == pytest.approx(20.0 * n / 256)
    else:
        low, high = (1.0, 2.0) if n <= 16 else (2.0, 20.0)
        assert low - 1e-9 <= found.target.token <= high + 1e-9
    assert 1.0 <= found.target_beside <= 2.0


def test_what_was_not_measured_for_long_is_as_for_short() -> None:
    long = level(16, 2.0).model_copy(update={"target_long": Line(fixed=0.0, token=16.0)})
    found = Prices(levels=(level(1, 1.0), long)).at(4)
    assert found.target_long is not None
    assert found.target_long.token == pytest.approx(4.0)  # between 1, as there, and 16
    assert found.draft_long is None


def test_fewer_than_were_measured_are_as_fast_as_the_fewest() -> None:
    assert Prices(levels=(level(16, 2.0),)).at(1).target.token == 2.0
