from hypothesis import given
from hypothesis import strategies as st

from atts.analysis.comparison import ParetoPoint, beaten_by

POINTS = st.lists(
    st.builds(ParetoPoint, st.integers(0, 4).map(float), st.integers(0, 4).map(float)), max_size=8
)


def test_cheaper_and_better_beats() -> None:
    assert beaten_by([ParetoPoint(0.5, 10.0), ParetoPoint(0.6, 5.0)]) == [1, None]
    assert beaten_by([ParetoPoint(0.5, 10.0), ParetoPoint(0.5, 5.0)]) == [1, None]
    assert beaten_by([ParetoPoint(0.5, 10.0), ParetoPoint(0.6, 10.0)]) == [1, None]
    assert beaten_by([ParetoPoint(0.5, 5.0), ParetoPoint(0.6, 10.0)]) == [None, None]
    assert beaten_by([ParetoPoint(0.5, 5.0), ParetoPoint(0.5, 5.0)]) == [None, None]


@given(POINTS)
def test_who_beats_is_on_the_frontier_and_the_frontier_rises(points: list[ParetoPoint]) -> None:
    winners = beaten_by(points)
    for point, winner in zip(points, winners, strict=True):
        if winner is not None:
            assert winners[winner] is None
            assert points[winner].value >= point.value
            assert points[winner].cost <= point.cost
    on_it = sorted({p for p, winner in zip(points, winners, strict=True) if winner is None})
    assert on_it == sorted(on_it, key=lambda point: point.cost)
    assert bool(on_it) == bool(points)
