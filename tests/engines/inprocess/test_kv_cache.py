"""The two caches against plain models of what they should hold."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atts.engines.inprocess.kv_cache import BLOCK, Layout, PrefixStore, Row, Window

Ids = tuple[int, ...]
HEADS, HEAD_DIM, LAYERS = 2, 3, 2


def marker(ids: Ids) -> Row:
    """A row that tells whose it is: entry t of each tensor is token t."""
    return [torch.tensor(ids, dtype=torch.float32).reshape(1, 1, -1, 1)]


def ids_of(row: Row) -> Ids:
    return tuple(int(x) for x in row[0].flatten().tolist())


def common(a: Ids, b: Ids) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


@st.composite
def families(draw: st.DrawFn) -> list[Ids]:
    """Sequences that share prefixes of all lengths, as the chains of a problem do."""
    rng = random.Random(draw(st.integers(0, 2**32)))  # noqa: S311
    sequences: list[Ids] = [()]
    for _ in range(draw(st.integers(1, 14))):
        parent = rng.choice(sequences)
        kept = parent[: rng.randint(0, len(parent))] if rng.random() < 0.4 else parent
        sequences.append(kept + tuple(rng.choices(range(3), k=rng.randint(1, 50))))
    return sequences[1:]


@given(families(), st.randoms(use_true_random=False))
def test_find_gives_the_longest_stored_prefix_to_within_a_block(
    sequences: list[Ids], rng: random.Random
) -> None:
    store = PrefixStore(100_000)
    stored: list[Ids] = []
    for ids in sequences:
        if rng.random() < 0.7:
            store.put(ids, marker(ids))
            stored.append(ids)
        wanted = rng.choice(sequences)
        row, length = store.find(wanted)
        longest = max((common(wanted, other) for other in stored), default=0)
        assert longest // BLOCK * BLOCK <= length <= longest
        if row is None:
            assert length == 0
        else:
            # The row is the one that was stored for these very tokens, not a neighbour's.
            assert ids_of(row)[:length] == wanted[:length]
            assert ids_of(row) in stored


@given(families(), st.integers(0, 150), st.randoms(use_true_random=False))
def test_the_size_is_what_is_held_and_never_exceeds_the_capacity(
    sequences: list[Ids], capacity: int, rng: random.Random
) -> None:
    store = PrefixStore(capacity)
    for ids in sequences:
        store.put(ids, marker(ids))
        assert 0 <= store.size <= capacity
        wanted = rng.choice(sequences)
        row, length = store.find(wanted)
        assert row is None or ids_of(row)[:length] == wanted[:length]
    store.clear()
    assert store.size == 0
    assert all(store.find(ids) == (None, 0) for ids in sequences)


def sequence(first: int, length: int = 2 * BLOCK) -> Ids:
    return tuple(range(first, first + length))


def test_the_least_recently_used_goes_first() -> None:
    store = PrefixStore(4 * BLOCK)
    a, b, c = sequence(0), sequence(100), sequence(200)
    store.put(a, marker(a))
    store.put(b, marker(b))
    store.find(a)
    store.put(c, marker(c))
    assert [store.find(ids)[1] for ids in (a, b, c)] == [2 * BLOCK, 0, 2 * BLOCK]


def test_an_extension_takes_the_place_of_what_it_extends() -> None:
    store = PrefixStore(1000)
    turn = sequence(0, 40)
    store.put(turn, marker(turn))
    longer = turn + sequence(500, 30)
    store.put(longer, marker(longer))
    assert store.size == len(longer)
    row, length = store.find(turn)
    assert row is not None
    assert (ids_of(row), length) == (longer, len(turn))


def test_a_prefix_is_still_found_in_the_older_of_two_rows_when_the_newer_goes() -> None:
    store = PrefixStore(5 * BLOCK)
    prompt = sequence(0, BLOCK)
    a, b = prompt + sequence(100, BLOCK), prompt + sequence(200, BLOCK)
    store.put(a, marker(a))
    store.put(b, marker(b))
    store.find(a)
    other = sequence(300)
    store.put(other, marker(other))  # b goes
    row, length = store.find((*prompt, 999))
    assert row is not None
    assert (ids_of(row), length) == (a, BLOCK)


@pytest.mark.parametrize("length", [BLOCK - 1, 5 * BLOCK])
def test_what_is_shorter_than_a_block_or_longer_than_the_capacity_is_not_kept(length: int) -> None:
    store = PrefixStore(4 * BLOCK)
    kept = sequence(1000)
    store.put(kept, marker(kept))
    ids = sequence(0, length)
    store.put(ids, marker(ids))
    assert store.find(ids) == (None, 0)
    assert store.find(kept)[1] == len(kept)


# Values are wider than keys, and the last layer has more heads: three groups of planes.
SHAPES = [((HEADS, HEAD_DIM), (HEADS, HEAD_DIM + 1))] * LAYERS + [((HEADS + 1, HEAD_DIM),) * 2]
Plain = list[tuple[torch.Tensor, torch.Tensor]]
"""What one row should hold: per layer its keys and values, (heads, length, head_dim)."""


def random_row(length: int, generator: torch.Generator) -> Plain:
    def states(shape: tuple[int, int]) -> torch.Tensor:
        return torch.randn(shape[0], length, shape[1], generator=generator)

    return [(states(keys), states(values)) for keys, values in SHAPES]


def first(row: Plain, length: int) -> Plain:
    return [(keys[:, :length], values[:, :length]) for keys, values in row]


def joined(row: Plain, more: Plain) -> Plain:
    return [
        (torch.cat([keys, new_keys], dim=1), torch.cat([values, new_values], dim=1))
        for (keys, values), (new_keys, new_values) in zip(row, more, strict=True)
    ]


def new_window() -> Window:
    layers = random_row(1, torch.Generator())
    return Window(Layout([(keys[None], values[None]) for keys, values in layers]))


def as_row(window: Window, plain: Plain) -> Row:
    """Sort keys and values into the groups of the window's layout."""
    groups: list[list[torch.Tensor]] = [[] for _ in window.buffers]
    for layer, states in zip(window._layout.layers, plain, strict=True):
        for (group, plane), tensor in zip(layer, states, strict=True):
            assert plane == len(groups[group])
            groups[group].append(tensor)
    return [torch.stack(planes) for planes in groups]


def write(window: Window, states: list[Plain]) -> None:
    """What a forward pass does with a window, given the new states of each row."""
    new = states[0][0][0].shape[1]
    window.reserve(len(window), window.end - window.begin, new)
    for layer, (keys_shape, values_shape) in enumerate(SHAPES):
        keys, values = window.update(
            torch.stack([row[layer][0] for row in states]),
            torch.stack([row[layer][1] for row in states]),
            layer,
        )
        columns = window.end + new - window.begin
        assert keys.shape == (len(window), keys_shape[0], columns, keys_shape[1])
        assert values.shape == (len(window), values_shape[0], columns, values_shape[1])
    window.advance(new)


def check(window: Window, plain: list[Plain]) -> None:
    assert len(window) == len(plain)
    mask = window.mask(0, torch.device("cpu"))
    positions = window.positions(1, torch.device("cpu"))
    for index, expected in enumerate(plain):
        length = expected[0][0].shape[1]
        wanted = as_row(window, expected)
        for copied, group in zip(window.copy_row(index), wanted, strict=True):
            assert torch.equal(copied, group)
        assert int(mask[index].sum()) == length
        assert int(positions[index, 0]) == length
        # Masked columns still enter the products, so what stands there must be a number.
        for buffer in window.buffers:
            assert buffer[:, index, :, window.begin : window.end].isfinite().all()


@given(st.integers(0, 2**31))
@settings(max_examples=60)
def test_every_row_survives_additions_removals_growth_and_moves(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311
    generator = torch.Generator().manual_seed(seed)
    window, plain = new_window(), list[Plain]()
    for _ in range(30):
        action = rng.choice(["add", "add", "write", "write", "write", "remove", "reserve", "empty"])
        if action == "add":
            length = rng.randint(1, 90)
            row = random_row(length + rng.randint(0, 9), generator)
            window.add(as_row(window, row), length)  # a stored row may be longer than the match
            plain.append(first(row, length))
        elif action == "remove" and plain:
            index = rng.randrange(len(plain))
            window.remove(index)
            plain[index] = plain[-1]
            plain.pop()
        elif action == "reserve":
            window.reserve(rng.randint(0, 12), rng.randint(0, 120), rng.randint(0, 40))
        elif action == "write" and plain:
            states = [random_row(1, generator) for _ in plain]
            write(window, states)
            plain = [joined(row, new) for row, new in zip(plain, states, strict=True)]
        elif action == "empty" and rng.random() < 0.2:
            window.empty()
            plain = []
        check(window, plain)


def test_columns_move_back_when_the_room_on_the_right_is_used_up() -> None:
    generator = torch.Generator().manual_seed(0)
    window = new_window()
    plain = [random_row(20, generator)]
    window.add(as_row(window, plain[0]), 20)
    columns = set()
    for _ in range(300):
        if len(window) > 1:
            window.remove(0)
        plain = [plain[-1]] if len(plain) > 1 else plain
        row = random_row(20, generator)
        window.add(as_row(window, row), 20)
        plain.append(row)
        states = [random_row(1, generator) for _ in plain]
        write(window, states)
        plain = [joined(row, new) for row, new in zip(plain, states, strict=True)]
        check(window, plain)
        columns.add(window.buffers[0].shape[3])
    assert max(columns) < 200  # 300 columns were written


def test_a_row_shorter_than_the_pass_is_padded_on_the_left() -> None:
    generator = torch.Generator().manual_seed(0)
    window = new_window()
    window.reserve(3, 4, 5)
    long = random_row(4, generator)
    window.add(None, -3)  # its last two of the five coming columns are real
    window.add(as_row(window, long), 4)
    window.add(None, 0)
    states = [random_row(5, generator) for _ in range(3)]
    assert window.positions(5, torch.device("cpu")).tolist() == [
        [0, 0, 0, 0, 1],
        [4, 5, 6, 7, 8],
        [0, 1, 2, 3, 4],
    ]
    write(window, states)
    padded = [(keys[:, 3:], values[:, 3:]) for keys, values in states[0]]
    check(window, [padded, joined(long, states[1]), states[2]])


@pytest.mark.parametrize("how", ["add", "remove"])
def test_what_a_row_leaves_behind_cannot_reach_the_next_one(how: str) -> None:
    generator = torch.Generator().manual_seed(0)
    window = new_window()
    broken, short, long = (random_row(length, generator) for length in (30, 5, 40))
    window.add([tensor * torch.nan for tensor in as_row(window, broken)], 30)
    window.add(as_row(window, long), 40)  # keeps all columns in use
    if how == "remove":
        window.add(as_row(window, short), 5)
        window.remove(0)  # the last row moves to where the broken one was
        check(window, [short, long])
    else:
        window.remove(0)
        window.add(as_row(window, short), 5)
        check(window, [long, short])
