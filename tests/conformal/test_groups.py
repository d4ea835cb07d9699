"""Which turns are compared with each other."""

from hypothesis import given
from hypothesis import strategies as st

from atts.conformal.groups import TurnGroups


@given(st.lists(st.integers(0, 50), max_size=20), st.integers(1, 60))
def test_groups_cover_all_turns_in_order_with_enough_scores_each(
    counts: list[int], fewest: int
) -> None:
    groups = TurnGroups(counts, fewest)
    firsts = groups.first_turns
    assert firsts[0] == 0
    assert firsts == sorted(set(firsts))
    of = [groups.of(turn) for turn in range(len(counts) + 5)]
    assert of == sorted(of)
    assert set(of) == set(firsts), "no group without a turn, the open end included"
    for first in firsts:
        total = sum(n for turn, n in enumerate(counts) if of[turn] == first)
        assert total >= min(fewest, sum(counts))


def test_a_turn_with_enough_scores_is_a_group_of_its_own() -> None:
    groups = TurnGroups([16, 16, 9, 8, 3], fewest=16)
    assert groups.first_turns == [0, 1, 2]
    assert [groups.of(turn) for turn in (0, 1, 2, 3, 4, 99)] == [0, 1, 2, 2, 2, 2]
