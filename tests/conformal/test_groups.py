"""Which turns are compared with each other."""

from hypothesis import given
from hypothesis import strategies as st

from atts.conformal.pvalues import TurnGroups


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
    alone = 1 if counts and counts[0] else 0
    for first in firsts[alone:]:
        total = sum(n for turn, n in enumerate(counts) if of[turn] == first)
        assert total >= min(fewest, sum(counts[1:]))
    if alone and sum(counts[1:]):
        assert firsts[1] == 1, "turn 0 is a group of its own"


def test_turn_0_is_never_merged_for_want_of_scores() -> None:
    assert TurnGroups([5, 200, 200], fewest=100).first_turns == [0, 1, 2]
    assert TurnGroups([200, 3, 2], fewest=100).first_turns == [0, 1]
    assert TurnGroups([200], fewest=100).first_turns == [0], "nothing else to compare with"
    assert TurnGroups([0, 200, 200], fewest=100).first_turns == [0, 2], "nor here"


def test_a_turn_with_enough_scores_is_a_group_of_its_own() -> None:
    groups = TurnGroups([16, 16, 9, 8, 3], fewest=16)
    assert groups.first_turns == [0, 1, 2]
    assert [groups.of(turn) for turn in (0, 1, 2, 3, 4, 99)] == [0, 1, 2, 2, 2, 2]
