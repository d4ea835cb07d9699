"""The prefix cache against one that keeps the ids themselves."""

from itertools import takewhile

from hypothesis import given
from hypothesis import strategies as st

from atts.simulation.prefixes import Prefix, PrefixCache

PROMPT = [0] * 5


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9), st.booleans()), max_size=30))
def test_hits_are_the_common_prefix(pieces: list[tuple[int, int, bool]]) -> None:
    """Chains append pieces, the last of which may be thrown away before the next request."""
    cache = PrefixCache(10**6)
    ids = {chain: list(PROMPT) for chain in range(3)}
    kept: dict[int, list[int]] = {}
    for number, (chain, tokens, thrown_away) in enumerate(pieces, 1):
        sent = ids[chain]
        expected = len(PROMPT) if kept and chain not in kept else 0
        if chain in kept:
            same = takewhile(lambda pair: pair[0] == pair[1], zip(sent, kept[chain], strict=False))
            expected = sum(1 for _ in same)
        assert cache.find(chain, -1, len(PROMPT), sent, len(sent)) == expected
        piece = [number] * tokens
        kept[chain] = sent + piece
        cache.keep(chain, -1, len(PROMPT), Prefix(len(sent), len(sent) + tokens, number))
        if not thrown_away:
            ids[chain] = sent + piece


@given(st.integers(10, 60), st.lists(st.tuples(st.integers(0, 5), st.integers(1, 30))))
def test_it_never_holds_more_than_its_room(room: int, lengths: list[tuple[int, int]]) -> None:
    cache = PrefixCache(room)
    for chain, length in lengths:
        cache.in_use = length % room
        cache.keep(chain, -1 - chain, 2, Prefix(length // 2, length, 7))
        assert cache.kept + cache.in_use <= room


def test_the_longest_unused_makes_room_from_its_end() -> None:
    cache = PrefixCache(30)
    cache.keep(1, -1, 2, Prefix(5, 12, 7))
    cache.keep(2, -1, 2, Prefix(5, 12, 7))
    cache.in_use = 10  # 26 tokens are kept: the prompt's 2, which are the oldest, then chain 1's
    cache.drop_excess()
    assert cache.kept == 20
    assert cache.find(1, -1, 2, [7] * 12, 12) == 8
    assert cache.find(2, -1, 2, [7] * 12, 12) == 12
    assert cache.kept == 0
