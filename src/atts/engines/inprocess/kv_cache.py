"""Keys and values of many chains: side by side while they run, put aside while they wait.

A ``Window`` is the cache of a running batch. Its rows are chains of different lengths, all
ending in the same column, so that every step writes one column for all rows, and the usual
left-padding mask of transformers makes it right for any architecture. A ``PrefixStore``
keeps the rows of chains that wait for their next turn.
"""

import inspect
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

Row = list[Tensor]
"""One chain's cache: a tensor per group of its ``Layout``, (planes, heads, length, head_dim)."""

BLOCK = 16
"""Prefixes are found by the hashes of their blocks of this many tokens."""


def cache_argument(model: PreTrainedModel) -> str:
    """What the model's ``forward`` calls its cache; empty if it takes none.

    It is ``cache`` since transformers 5.24, and was ``past_key_values`` before.
    """
    taken = inspect.signature(model.forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in taken), "")


class Plane(NamedTuple):
    """Where the keys, or the values, of one layer lie."""

    group: int
    plane: int


class Layout:
    """How a model's keys and values are kept: as planes, those of equal shape in one tensor.

    A few large tensors, rather than two for each layer, make it cheap to move a row.
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Lay out keys and values like those given: per layer, (rows, heads, length, head_dim)."""
        self.layers: list[tuple[Plane, Plane]] = []
        self._planes: dict[tuple[int, int], int] = {}
        self._like = layers[0][0]
        for keys, values in layers:
            self.layers.append((self._plane_of(keys), self._plane_of(values)))

    @classmethod
    def of(cls, model: PreTrainedModel) -> Self:
        """The layout of a model, seen on one token."""
        cache: Any = DynamicCache(config=model.config)  # its layers are all of one kind here
        with torch.inference_mode():
            token = torch.zeros((1, 1), dtype=torch.long, device=model.device)
            model(input_ids=token, use_cache=True, **{cache_argument(model): cache})
        return cls([(layer.keys, layer.values) for layer in cache.layers])

    def allocate(self, rows: int, columns: int) -> list[Tensor]:
        """A tensor per group, (planes, rows, heads, columns, head_dim), of undefined content."""
        return [
            self._like.new_empty(planes, rows, heads, columns, head_dim)
            for (heads, head_dim), planes in self._planes.items()
        ]

    def _plane_of(self, states: Tensor) -> Plane:
        shape = states.shape[1], states.shape[3]
        plane = self._planes.setdefault(shape, 0)
        self._planes[shape] += 1
        return Plane(list(self._planes).index(shape), plane)


class _WindowLayer(DynamicLayer):
    """One layer of a ``Window``; transformers calls ``update`` with each step's states."""

    def __init__(self, window: "Window", planes: tuple[Plane, Plane]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.window = window
        self.planes = planes

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        window = self.window
        keys, values = (window.buffers[group][plane] for group, plane in self.planes)
        rows, begin, end = len(window), window.begin, window.end + key_states.shape[2]
        keys[:rows, :, window.end : end] = key_states
        values[:rows, :, window.end : end] = value_states
        return keys[:rows, :, begin:end], values[:rows, :, begin:end]

    def get_seq_length(self) -> int:
        return self.window.end - self.window.begin


class Window(Cache):
    """A batch's keys and values.

    Row ``i`` is valid in columns ``starts[i]`` up to ``end``; ``begin`` is the smallest start.
    The columns before a row's start are zero: they are masked, but still enter the products,
    and NaN * 0 is NaN.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__(layers=[_WindowLayer(self, planes) for planes in layout.layers])
        self._layout = layout
        self.buffers = layout.allocate(0, 0)
        self.starts: list[int] = []
        self.begin = self.end = 0
        self._row_capacity = self._column_capacity = 0

    def __len__(self) -> int:
        return len(self.starts)

    def empty(self) -> None:
        """Drop all rows; the memory is kept for the next ones."""
        self.starts = []
        self.begin = self.end

    def reserve(self, rows: int, before: int, after: int) -> None:
        """Provide for ``rows`` rows, ``before`` columns up to ``end`` and ``after`` past it."""
        if (
            rows <= self._row_capacity
            and before <= self.end
            and self.end + after <= self._column_capacity
        ):
            return
        used = self.end - self.begin
        left = max(before, used)
        old = self.buffers
        if rows > self._row_capacity or left + after > self._column_capacity:
            # More than is needed now, so that this happens seldom.
            self._row_capacity = max(self._row_capacity, rows * 3 // 2)
            self._column_capacity = left + after + max(64, left // 2)
            self.buffers = self._layout.allocate(self._row_capacity, self._column_capacity)
        self._move(old, left)
        shift = left - self.end
        self.starts = [start + shift for start in self.starts]
        self.begin += shift
        self.end = left

    def add(self, row: Row | None, length: int) -> None:
        """Add a row that holds the first ``length`` tokens of ``row``.

        Without a row, ``length`` is 0, or minus the number of coming columns that are padding.
        """
        self.reserve(len(self) + 1, length, 1)
        index, start = len(self.starts), self.end - length
        self.starts.append(start)
        self.begin = min(self.begin, start) if index else start
        for buffer in self.buffers:
            buffer[:, index, :, :start] = 0
        if row is not None and length > 0:
            for buffer, tensor in zip(self.buffers, row, strict=True):
                buffer[:, index, :, start : self.end] = tensor[:, :, :length]

    def remove(self, index: int) -> None:
        """Remove a row; the last row gets its index."""
        last = len(self.starts) - 1
        if index != last:
            start = self.starts[last]
            for buffer in self.buffers:
                buffer[:, index, :, :start] = 0
                buffer[:, index, :, start : self.end] = buffer[:, last, :, start : self.end]
            self.starts[index] = start
        self.starts.pop()
        self.begin = min(self.starts, default=self.end)

    def copy_row(self, index: int) -> Row:
        columns = slice(self.starts[index], self.end)
        return [buffer[:, index, :, columns].clone() for buffer in self.buffers]

    def _move(self, old: list[Tensor], left: int) -> None:
        """Move the rows from ``old``, which may be the buffers themselves, to end at ``left``."""
        rows, used = len(self.starts), self.end - self.begin
        for buffer, before in zip(self.buffers, old, strict=True):
            for plane, source in zip(buffer, before, strict=True):
                states = source[:rows, :, self.begin : self.end]
                plane[:rows, :, left - used : left] = states.clone() if before is buffer else states
                plane[:rows, :, : left - used] = 0

    def advance(self, columns: int) -> None:
        """Count the columns that a forward pass has just written."""
        self.end += columns

    def mask(self, new: int, device: torch.device) -> Tensor:
        """Which columns each row may see: bool, (rows, end - begin + new)."""
        starts = torch.tensor(self.starts, device=device)
        columns = torch.arange(self.begin, self.end + new, device=device)
        return columns >= starts[:, None]

    def positions(self, new: int, device: torch.device) -> Tensor:
        """Position in its chain of each of the next ``new`` columns: (rows, new)."""
        starts = torch.tensor(self.starts, device=device)
        columns = torch.arange(self.end, self.end + new, device=device)
        return (columns - starts[:, None]).clamp(min=0)


class _Entry:
    def __init__(self, token_ids: tuple[int, ...], row: Row, keys: list[int]) -> None:
        self.token_ids = token_ids
        self.row = row
        self.keys = keys


class PrefixStore:
    """Rows of chains between their turns; the least recently used go first.

    Holds at most ``capacity`` tokens. Not safe for threads: the engine's own thread uses it.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._by_block: dict[int, list[int]] = {}
        """The entries that begin with these blocks, the newest last."""
        self._next_id = 0

    def find(self, token_ids: Sequence[int]) -> tuple[Row | None, int]:
        """The longest stored prefix of ``token_ids``: its row and how many tokens match.

        The row may be longer than the match; only its first tokens count then.
        """
        for key in reversed(block_keys(token_ids)):
            entry_ids = self._by_block.get(key)
            if entry_ids is None:
                continue
            entry_id = entry_ids[-1]
            entry = self._entries[entry_id]
            length = _common_length(entry.token_ids, token_ids)
            if length:
                self._entries.move_to_end(entry_id)
                return entry.row, length
        return None, 0

    def put(self, token_ids: Sequence[int], row: Row) -> None:
        """Keep a chain's row; what it merely extends is dropped."""
        ids = tuple(token_ids)
        keys = block_keys(ids)
        if not keys or len(ids) > self.capacity:
            return
        for entry_id in [
            e for key in keys for e in self._by_block.get(key, []) if self._ends(e, key)
        ]:
            shorter = self._entries[entry_id].token_ids
            if len(shorter) <= len(ids) and ids[: len(shorter)] == shorter:
                self._drop(entry_id)
        while self.size + len(ids) > self.capacity:
            self._drop(next(iter(self._entries)))
        entry_id = self._next_id
        self._next_id += 1
        self._entries[entry_id] = _Entry(ids, row, keys)
        self.size += len(ids)
        for key in keys:
            self._by_block.setdefault(key, []).append(entry_id)

    def clear(self) -> None:
        self._entries.clear()
        self._by_block.clear()
        self.size = 0

    def _drop(self, entry_id: int) -> None:
        entry = self._entries.pop(entry_id)
        self.size -= len(entry.token_ids)
        for key in entry.keys:
            self._by_block[key].remove(entry_id)
            if not self._by_block[key]:
                del self._by_block[key]

    def _ends(self, entry_id: int, key: int) -> bool:
        """Whether an entry's last whole block is the one of this key."""
        return self._entries[entry_id].keys[-1] == key


def block_keys(token_ids: Sequence[int]) -> list[int]:
    """A hash for every prefix of whole blocks, each built on the one before."""
    keys = []
    key = 0
    for end in range(BLOCK, len(token_ids) + 1, BLOCK):
        key = hash((key, *token_ids[end - BLOCK : end]))
        keys.append(key)
    return keys


def _common_length(a: Sequence[int], b: Sequence[int]) -> int:
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length
