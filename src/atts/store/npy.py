"""Reads the reference implementation's calibration arrays, without trusting them.

A marginal calibration is a plain array of perplexities. A conditional one is a pickled dictionary
in the same kind of file, problem number -> perplexities. Unpickling may run any code, and even
numpy's own pickling can be told to read wild memory, so nothing of numpy is called by the pickle:
the few names that such a file needs stand for small classes of this module, which check what
they are given.
"""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from atts.errors import StoreError
from atts.files import read_plain
from atts.text import shortened

_LARGEST = 256 << 20
"""Bytes of a file; one that holds scores is far smaller."""

_MOST_WORK = 1_000_000
"""Steps of a pickle, bytes that it has copied, and numbers that come of it: a file can name what it
holds many times over, and ask for work without end in a few bytes."""

_LARGEST_KEY = 10**9

Perplexities = dict[str | int, list[float]]


def read_perplexities(path: Path) -> NDArray[np.float64] | Perplexities:
    """The perplexities of a calibration: shape (scores,), or by problem number.

    Raises:
        StoreError: the file cannot be read, or holds anything else.
    """
    try:
        content = read_plain(path, _LARGEST)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    stream = io.BytesIO(content)
    try:
        shape, _, kind = _HEADERS[npy_format.read_magic(stream)](stream)
    except Exception as error:  # numpy raises all kinds over a damaged header
        raise StoreError(f"{path} is not an array of numpy: {shortened(str(error))}") from None
    if kind.hasobject:
        return _by_problem(_unpickle(stream, path), path)
    if len(shape) != 1 or kind.kind not in "fiu":
        raise StoreError(f"{path} must hold one row of numbers; is it a calibration?")
    promised, found = shape[0] * kind.itemsize, len(content) - stream.tell()
    if promised != found:
        raise StoreError(
            f"{path} is not an array of numpy: its header promises {promised:,} bytes of numbers, "
            f"and {found:,} follow; it was not written to its end, or is damaged"
        )
    return np.frombuffer(content, dtype=kind, offset=stream.tell()).astype(np.float64)


_HEADERS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}


_CODES = ("f4", "f8", "i4", "i8", "u4", "u8", "O8", "O")


class _Type:
    """Stands for ``numpy.dtype``."""

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or code not in _CODES:
            raise pickle.UnpicklingError("numbers of another type than f8 are not expected")
        self.code = code
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if not isinstance(state[1], str) or state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("a byte order is not expected")
        self.order = str(state[1])

    def numbers(self, data: object) -> list[Any]:
        if self.code.startswith("O") or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array's numbers are not where they should be")
        order = "<" if self.order in "=|" else self.order
        return list(np.frombuffer(data, dtype=order + self.code).tolist())


class _Array:
    """Stands for ``numpy.ndarray``."""

    def __init__(self, *_: object) -> None:
        self.values: list[Any] = []

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, _shape, kind, _fortran, data = state
        if not isinstance(kind, _Type):
            raise pickle.UnpicklingError("an array has no type")
        if kind.code.startswith("O"):
            if not isinstance(data, list):
                raise pickle.UnpicklingError("an array of objects is not a list")
            self.values = data
        else:
            self.values = kind.numbers(data)


def _scalar(kind: object, data: object) -> Any:  # noqa: ANN401
    """Stands for numpy's number out of its bytes."""
    if not isinstance(kind, _Type):
        raise pickle.UnpicklingError("a number has no type")
    (value,) = kind.numbers(data)
    return value


def _array(*_: object) -> _Array:
    """Stands for numpy's empty array, whose content comes after it."""
    return _Array()


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    **{
        (module, name): stand_in
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name, stand_in in (("_reconstruct", _array), ("scalar", _scalar))
    },
}


class _Steps:
    """The steps that such a pickle is made of, each for a unit of work; no other one."""

    def __init__(self) -> None:
        self.left = _MOST_WORK

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self.spend(1)
        if code not in _STEPS:
            raise pickle.UnpicklingError("a step is not expected")
        return _STEPS[code]

    def spend(self, work: int) -> None:
        self.left -= work
        if self.left < 0:
            raise pickle.UnpicklingError("it asks for too much work")


# That of the standard library in Python: the one in C cannot be told which steps it may take.
_Steppable: Any = pickle._Unpickler


class _Unpickler(_Steppable):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.dispatch = _Steps()

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None

    def load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Type | _Array):
            raise pickle.UnpicklingError("a state of nothing that has one")
        if isinstance(state[-1], bytes):
            self.dispatch.spend(len(state[-1]))
        self.stack[-1].__setstate__(state)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def load_setitems(self) -> None:
        self._set(self.pop_mark())

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set(items)

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise pickle.UnpicklingError("an entry of nothing that has entries")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # To find a place for a tuple of tuples may take for ever.
            if not isinstance(key, int | str):
                raise pickle.UnpicklingError("a question is neither a number nor a text")
            target[key] = value


_PLAIN = (
    *(
        pickle.PROTO,
        pickle.FRAME,
        pickle.STOP,
        pickle.MARK,
        pickle.NONE,
        pickle.NEWTRUE,
        pickle.NEWFALSE,
    ),
    *(
        pickle.INT,
        pickle.BININT,
        pickle.BININT1,
        pickle.BININT2,
        pickle.LONG1,
        pickle.FLOAT,
        pickle.BINFLOAT,
    ),
    *(
        pickle.UNICODE,
        pickle.BINUNICODE,
        pickle.SHORT_BINUNICODE,
        pickle.BINBYTES,
        pickle.SHORT_BINBYTES,
    ),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.EMPTY_LIST, pickle.LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT),
    *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE),
    *(
        pickle.PUT,
        pickle.BINPUT,
        pickle.LONG_BINPUT,
        pickle.MEMOIZE,
        pickle.GET,
        pickle.BINGET,
        pickle.LONG_BINGET,
    ),
)
_STEPS: dict[int, Callable[[Any], None]] = {
    step[0]: _Steppable.dispatch[step[0]] for step in _PLAIN
} | {
    pickle.BUILD[0]: _Unpickler.load_build,
    pickle.SETITEM[0]: _Unpickler.load_setitem,
    pickle.SETITEMS[0]: _Unpickler.load_setitems,
    pickle.DICT[0]: _Unpickler.load_dict,
}


def _unpickle(stream: io.BytesIO, path: Path) -> object:
    try:
        array = _Unpickler(stream).load()
        (value,) = array.values
    except Exception as error:  # a hostile pickle can raise anything
        raise StoreError(
            f"{path} is not a calibration by question, or not a safe one: {shortened(str(error))}; "
            "nothing of it was run"
        ) from None
    return value


def _by_problem(value: object, path: Path) -> Perplexities:
    if not isinstance(value, dict) or not value:
        raise StoreError(f"{path} holds no dictionary of perplexities by question")
    found: Perplexities = {}
    work = 0
    for key, numbers in value.items():
        name = shortened(repr(key), 60) if isinstance(key, str) else f"{key:.6g}"
        if isinstance(key, int) and not 0 <= key < _LARGEST_KEY:
            raise StoreError(
                f"{path} has perplexities of question {name}, which is no number of one"
            )
        listed = numbers.values if isinstance(numbers, _Array) else numbers
        work += len(listed) if isinstance(listed, list) else 0
        if work > _MOST_WORK:
            raise StoreError(f"{path} holds more than {_MOST_WORK:,} perplexities")
        try:
            found[key] = _floats(listed)
        except (TypeError, OverflowError):
            raise StoreError(
                f"{path}: what it has of question {name} is not a list of numbers"
            ) from None
    return found


def _floats(listed: object) -> list[float]:
    if not isinstance(listed, list) or not all(isinstance(n, int | float) for n in listed):
        raise TypeError
    return [float(n) for n in listed]
