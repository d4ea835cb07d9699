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

_LARGEST = 256 << 20
"""Bytes of a file; one that holds scores is far smaller."""

Perplexities = dict[str | int, list[float]]


def read_perplexities(path: Path) -> NDArray[np.float64] | Perplexities:
    """The perplexities of a calibration: shape (scores,), or by problem number.

    Raises:
        StoreError: the file cannot be read, or holds anything else.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise StoreError(f"{path} is larger than {_LARGEST >> 20} MB; is it a calibration?")
        content = path.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise StoreError(f"{path} is not an array of numpy: {error}") from None
        return _by_problem(_unpickle(content, path), path)
    except Exception as error:  # numpy raises all kinds over a damaged header
        raise StoreError(f"{path} is not an array of numpy: {error}") from None
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "fiu":
        raise StoreError(f"{path} must hold one row of numbers; is it a calibration?")
    return np.asarray(array, dtype=np.float64)


class _Type:
    """Stands for ``numpy.dtype``."""

    def __init__(self, code: object, *_: object) -> None:
        if code not in ("f4", "f8", "i4", "i8", "u4", "u8", "O8", "O"):
            raise pickle.UnpicklingError(f"numbers of the type {code!r} are not expected")
        self.code = str(code)
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "|", "="):
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


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def _unpickle(content: bytes, path: Path) -> object:
    stream = io.BytesIO(content)
    try:
        version = npy_format.read_magic(stream)
        read = {
            (1, 0): npy_format.read_array_header_1_0,
            (2, 0): npy_format.read_array_header_2_0,
        }
        read[version](stream)
        array = _Unpickler(stream).load()
        (value,) = array.values
    except Exception as error:  # a hostile pickle can raise anything
        raise StoreError(
            f"{path} is not a calibration by question, or not a safe one: {error}; nothing of it "
            "was run"
        ) from None
    return value


def _by_problem(value: object, path: Path) -> Perplexities:
    if not isinstance(value, dict) or not value:
        raise StoreError(f"{path} holds no dictionary of perplexities by question")
    found: Perplexities = {}
    for key, numbers in value.items():
        listed = numbers.values if isinstance(numbers, _Array) else numbers
        if (
            not isinstance(key, int | str)
            or not isinstance(listed, list)
            or not all(isinstance(n, int | float) for n in listed)
        ):
            raise StoreError(f"{path}: what it has of question {key!r} is not a list of numbers")
        found[key] = [float(n) for n in listed]
    return found
