"""Writing files: the old content or the new, never half of it."""

import errno
import os
import re
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atts.errors import StoreError
from atts.files import atomic_write, open_plain, read_lines, read_plain


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


def test_what_may_never_end_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="a pipe, not a plain file"):
        open_plain(tmp_path / "pipe")
    with pytest.raises(OSError, match="a device, not a plain file"):
        open_plain(Path("/dev/zero"))
    with pytest.raises(IsADirectoryError):
        open_plain(tmp_path)


def test_a_file_is_read_up_to_a_size(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_plain(tmp_path / "file", largest=5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_plain(tmp_path / "file", largest=4)


@given(
    st.lists(st.binary(max_size=9).filter(lambda line: b"\n" not in line), max_size=6),
    st.booleans(),
)
def test_lines_are_those_of_the_file(lines: list[bytes], is_ended: bool) -> None:
    content = b"".join(line + b"\n" for line in lines)
    if not is_ended:
        content = content.removesuffix(b"\n")
    found = list(read_lines(BytesIO(content), longest=5))
    assert sum(line.length for line in found) == len(content)
    whole = re.findall(rb"[^\n]*\n|[^\n]+$", content)
    assert [line.content for line in found] == [None if len(each) > 5 else each for each in whole]
    assert [line.number for line in found] == list(range(1, len(found) + 1))
    assert all(line.is_ended for line in found[:-1])
