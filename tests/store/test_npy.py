"""Calibration arrays of others: what is read, and that a hostile file runs nothing."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy_format

from atts.errors import StoreError
from atts.store import npy
from atts.store.npy import read_perplexities


def save(path: Path, value: object) -> Path:
    np.save(path, np.array(value, dtype=object), allow_pickle=True)
    return path


def pickled(path: Path, payload: bytes) -> Path:
    """A file whose header promises one object, and whose pickle is anything."""
    stream = io.BytesIO()
    header: Any = {"descr": "|O", "fortran_order": False, "shape": ()}
    npy_format.write_array_header_1_0(stream, header)
    path.write_bytes(stream.getvalue() + payload)
    return path


@pytest.mark.parametrize("kind", ["<f8", "<f4", ">f8", "<i4"])
def test_pooled_perplexities(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "p.npy"
    np.save(path, np.array([1, 2, 3], dtype=kind))
    found = read_perplexities(path)
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float64
    assert found.tolist() == [1.0, 2.0, 3.0]


def test_perplexities_by_question(tmp_path: Path) -> None:
    value = {
        0: [1.5, 2],
        1: np.array([2.5, 3.5]),
        2: [np.float64(4.5), np.float32(0.5), np.float64("inf")],
        "3": np.array([1.0], dtype=">f8"),
        4: np.array([7, 8]),
    }
    assert read_perplexities(save(tmp_path / "p.npy", value)) == {
        0: [1.5, 2.0],
        1: [2.5, 3.5],
        2: [4.5, 0.5, float("inf")],
        "3": [1.0],
        4: [7.0, 8.0],
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_pickle(tmp_path: Path, protocol: int) -> None:
    box = np.empty((), dtype=object)
    box[()] = {0: [1.5, np.float64(2.5)]}
    payload = pickle.dumps(box, protocol=protocol)
    path = pickled(tmp_path / "p.npy", payload)
    if protocol < 3:  # bytes are written as a call of codecs.encode there
        with pytest.raises(StoreError, match="_codecs"):
            read_perplexities(path)
    else:
        assert read_perplexities(path) == {0: [1.5, 2.5]}


class Evil:
    def __init__(self, *call: Any) -> None:  # noqa: ANN401
        self.call = call

    def __reduce__(self) -> Any:  # noqa: ANN401
        function, *arguments = self.call
        return function, tuple(arguments)


@pytest.mark.parametrize(
    "call",
    [
        (os.system, "touch owned"),
        (eval, "open('owned', 'w')"),
        (getattr, "a", "upper"),
        (np.load, "x"),
        (np.dtype, "O"),
        (bytearray, 10),
        (__import__, "os"),
    ],
)
def test_a_pickle_that_calls_anything_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: tuple[Any, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    payload = pickle.dumps({0: Evil(*call)})
    with pytest.raises(StoreError, match="nothing of it was run"):
        read_perplexities(pickled(tmp_path / "p.npy", payload))
    assert not (tmp_path / "owned").exists()


def test_wild_array_states_are_refused(tmp_path: Path) -> None:
    class Wild:
        def __reduce__(self) -> Any:  # noqa: ANN401
            build: Any = np.zeros(1).__reduce__()[0]
            # An array of objects whose pointers are bytes of the file.
            return build, (np.ndarray, (0,), b"b"), (1, (1,), np.dtype("O"), False, b"A" * 8)

    with pytest.raises(StoreError, match="not a list"):
        read_perplexities(pickled(tmp_path / "p.npy", pickle.dumps(Wild())))


@pytest.mark.parametrize(
    "value",
    [
        {0: ["1.5"]},
        {0: 1.5},
        {0: {1: 2}},
        {(1, 2): [1.5]},
        {0: [None]},
        {},
        [1.5, 2.5],
        "text",
    ],
)
def test_other_contents_are_refused(tmp_path: Path, value: object) -> None:
    box = np.empty((), dtype=object)
    box[()] = value
    np.save(tmp_path / "p.npy", box, allow_pickle=True)
    with pytest.raises(StoreError):
        read_perplexities(tmp_path / "p.npy")


@pytest.mark.parametrize(
    "content", [b"", b"no array", b"\x93NUMPY\x01\x00\xff\xff{", b"\x93NUMPY\x09\x00"]
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.npy").write_bytes(content)
    with pytest.raises(StoreError, match=r"p\.npy"):
        read_perplexities(tmp_path / "p.npy")


@pytest.mark.parametrize("array", [np.ones((2, 2)), np.array(["a"]), np.array([1j]), np.ones(())])
def test_other_arrays_are_refused(tmp_path: Path, array: Any) -> None:  # noqa: ANN401
    np.save(tmp_path / "p.npy", array)
    with pytest.raises(StoreError, match="one row of numbers"):
        read_perplexities(tmp_path / "p.npy")


def nested(levels: int, innermost: bytes) -> bytes:
    """A tuple of two of a tuple of two..., each written down once: 2^levels to walk through."""
    code = innermost
    for level in range(levels):
        place = bytes([level])
        code += pickle.BINPUT + place + pickle.BINGET + place + pickle.TUPLE2
    return code


WORK = {
    "a key to be hashed": b"}" + nested(60, b"K\x01\x85") + b"]s.",
    "a type to be shown": b"cnumpy\ndtype\n" + nested(60, b"]") + b"\x85R.",
    "a place of four thousand million": b"}r\xff\xff\xff\x0f.",
    "many small things": b"}" * (npy._MOST_WORK + 1) + b".",
    "marks": b"(" * (npy._MOST_WORK + 1) + b".",
    "one array's bytes many times": b"cnumpy.core.multiarray\n_reconstruct\n)Rq\x00"
    + b"cnumpy\ndtype\nX\x02\x00\x00\x00f8\x85Rq\x01"
    + b"(K\x01K\x01h\x01\x89B\x00\x00\x04\x00" + bytes(1 << 18) + b"tq\x02b"
    + b"h\x02b" * 1000
    + b".",
}  # fmt: skip


@pytest.mark.parametrize("name", WORK)
def test_work_without_end_is_not_begun(tmp_path: Path, name: str) -> None:
    path = pickled(tmp_path / "p.npy", b"\x80\x02" + WORK[name])
    with pytest.raises(StoreError, match="nothing of it was run"):
        read_perplexities(path)


def test_a_row_named_many_times_is_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npy, "_MOST_WORK", 1000)
    row = [1.5] * 50
    with pytest.raises(StoreError, match="more than 1,000 perplexities"):
        read_perplexities(save(tmp_path / "p.npy", dict.fromkeys(range(30), row)))


@pytest.mark.parametrize(
    "value", [{0: [10**400]}, {10**5000: [1.5]}, {-1: [1.5]}, {10**9: [1.5]}, {(1,): [1.5]}]
)
def test_numbers_beyond_all_bounds_are_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(StoreError, match=r"p\.npy"):
        read_perplexities(save(tmp_path / "p.npy", value))


@pytest.mark.parametrize("rows", [0, 2, 4, 10**18])
def test_another_length_than_the_header_promises_is_refused(tmp_path: Path, rows: int) -> None:
    stream = io.BytesIO()
    header: Any = {"descr": "<f8", "fortran_order": False, "shape": (rows,)}
    npy_format.write_array_header_1_0(stream, header)
    (tmp_path / "p.npy").write_bytes(stream.getvalue() + bytes(24))
    with pytest.raises(StoreError, match="bytes of numbers, and 24 follow"):
        read_perplexities(tmp_path / "p.npy")


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.npy")
    with pytest.raises(StoreError, match="it is a pipe, not a plain file"):
        read_perplexities(tmp_path / "p.npy")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"none\.npy"):
        read_perplexities(tmp_path / "none.npy")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_damage_to_a_pickle_does_more_than_fail(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.npy"
    content = bytearray(save(path, {0: [1.5, np.float64(2.5)], 1: np.array([3.5])}).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(128, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        found = read_perplexities(path)
    except StoreError:
        return
    assert isinstance(found, dict)
    assert all(isinstance(n, float) for numbers in found.values() for n in numbers)


def test_the_reference_calibration(shared_data: Path) -> None:
    (path,) = (shared_data / "calibration").glob("*.npy")
    found = read_perplexities(path)
    assert isinstance(found, np.ndarray)
    assert found.shape == (1600,)
    assert found.min() >= 1.0
