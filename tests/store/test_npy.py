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
