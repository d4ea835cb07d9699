"""Keys and values of many chains: side by side while they run, put aside while they wait.

A ``Window`` is the cache of a running batch. Its rows are chains of different lengths, all
ending in the same column, so that every step writes one column for all rows, and the usual
left-padding mask of transformers makes it right for any architecture. A ``PrefixStore``
keeps the rows of chains that wait for their next turn.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

Row = list[list[Tensor]]
"""One chain's cache: per layer its keys and its values, each (heads, length, head_dim)."""

BLOCK = 16
"""Prefixes are found by the hashes of their blocks of this many tokens."""


class _WindowLayer(DynamicLayer):
    """One layer of a ``Window``; transformers calls ``update`` with each step's states."""

    def __init__(self, window: "Window") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.window = window
        self.buffers: list[Tensor] = []
        """Keys and values, (rows, heads, columns, head_dim) each, with room to spare."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        window = self.window
        states = (key_states, value_states)
        if not self.buffers:
            self.buffers = [window.allocate(state[0]) for state in states]
        rows, begin, end = len(window), window.begin, window.end + key_states.shape[2]
        for buffer, state in zip(self.buffers, states, strict=True):
            buffer[:rows, :, window.end : end] = state
        keys, values = (buffer[:rows, :, begin:end] for buffer in self.buffers)
        return keys, values

    def get_seq_length(self) -> int:
        return self.window.end - self.window.begin


class Window(Cache):
    """A batch's keys and values, each layer of shape (rows, heads, columns, head_dim).

    Row ``i`` is valid in columns ``starts[i]`` up to ``end``; ``begin`` is the smallest start.
    """

    def __init__(self, num_layers: int, slack: bool) -> None:
        """``slack`` leaves room to grow: for a batch that runs on, not for a single pass."""
        self._layers = [_WindowLayer(self) for _ in range(num_layers)]
        super().__init__(layers=list(self._layers))
        self.slack = slack
        self.starts: list[int] = []
        self.begin = self.end = 0
        self._row_capacity = self._column_capacity = 0

    def __len__(self) -> int:
        return len(self.starts)

    def allocate(self, like: Tensor) -> Tensor:
        heads, _, head_dim = like.shape
        # Zeros, not empty memory: a masked column still enters the products, and NaN * 0 is NaN.
        return like.new_zeros(self._row_capacity, heads, self._column_capacity, head_dim)

    def reserve(self, rows: int, before: int, after: int) -> None:
        """Make room for ``rows`` rows, ``before`` columns up to ``end`` and ``after`` past it."""
        if (
            rows <= self._row_capacity
            and before <= self.end
            and self.end + after <= self._column_capacity
        ):
            return
        used = self.end - self.begin
        left = max(before, used)
        self._row_capacity = max(self._row_capacity, rows)
        self._column_capacity = left + after
        if self.slack:
            self._row_capacity = max(self._row_capacity, 8, rows * 3 // 2)
            self._column_capacity += max(64, used)
        columns = slice(left - used, left)
        for layer in self._layers:
            layer.buffers = [self._moved(buffer, columns) for buffer in layer.buffers]
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
        self._blank(index)
        if row is None or length <= 0:
            return
        for layer, tensors in zip(self._layers, row, strict=True):
            if not layer.buffers:
                layer.buffers = [self.allocate(tensor) for tensor in tensors]
            for buffer, tensor in zip(layer.buffers, tensors, strict=True):
                buffer[index, :, start : self.end] = tensor[:, :length]

    def remove(self, index: int) -> None:
        """Remove a row; the last row takes its place."""
        last = len(self.starts) - 1
        if index != last:
            columns = slice(self.starts[last], self.end)
            for layer in self._layers:
                for buffer in layer.buffers:
                    buffer[index, :, columns] = buffer[last, :, columns]
            self.starts[index] = self.starts[last]
            self._blank(index)
        self.starts.pop()
        self.begin = min(self.starts, default=self.end)

    def copy_row(self, index: int) -> Row:
        columns = slice(self.starts[index], self.end)
        return [
            [buffer[index, :, columns].clone() for buffer in layer.buffers]
            for layer in self._layers
        ]

    def _blank(self, index: int) -> None:
        """Zero the columns before a row: NaN that another row left there would reach this one."""
        for layer in self._layers:
            for buffer in layer.buffers:
                buffer[index, :, : self.starts[index]] = 0

    def _moved(self, old: Tensor, columns: slice) -> Tensor:
        """A new buffer that holds the used part of ``old`` in ``columns``."""
        rows = len(self.starts)
        buffer = self.allocate(old[0])
        buffer[:rows, :, columns] = old[:rows, :, self.begin : self.end]
        return buffer

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
