"""Writing files: the old content or the new, never half of it."""

import errno
import os
from pathlib import Path

import pytest

from atts.errors import StoreError
from atts.files import atomic_write


def test_atomic_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    atomic_write(path, "old\n")
    atomic_write(path, "né\n")
    assert path.read_bytes() == "né\n".encode()
    assert [each.name for each in path.parent.iterdir()] == ["file.json"]


def test_atomic_write_leaves_the_old_file_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "file.json"
    atomic_write(path, "old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match=r"file\.json: No space left on device"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file.json"]


def test_atomic_write_keeps_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    atomic_write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize("target", ["", "file/below"])
def test_atomic_write_refuses_what_is_no_file(tmp_path: Path, target: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        atomic_write(tmp_path / target, "text")
