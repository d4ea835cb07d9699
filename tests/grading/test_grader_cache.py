"""The cache of verdicts: what is remembered, and that a bad file costs only time."""

import gc
import sqlite3
from pathlib import Path

import pytest

from atts.grading.grader import VerdictCache, cache_folder

PAIR = ("x+1", "1+x")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "verdicts.sqlite3"


def test_verdicts_are_remembered_by_both_answers(path: Path) -> None:
    VerdictCache(path).put({PAIR: True, ("x", "y^2"): False}, seconds=5.0)
    again = VerdictCache(path)
    assert again.get([PAIR, ("x", "y^2"), ("y^2", "x")], 99.0) == {PAIR: True, ("x", "y^2"): False}


@pytest.mark.parametrize(("seconds", "known"), [(4.0, True), (5.0, True), (6.0, False)])
def test_ungraded_holds_only_for_no_more_time(path: Path, seconds: float, known: bool) -> None:
    cache = VerdictCache(path)
    cache.put({PAIR: None}, seconds=5.0)
    assert cache.get([PAIR], seconds) == ({PAIR: None} if known else {})


def test_another_version_of_the_rules_starts_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    VerdictCache(path).put({PAIR: True}, seconds=5.0)
    monkeypatch.setattr("atts.grading.grader._RULES", 999)
    assert VerdictCache(path).get([PAIR], 5.0) == {}


def test_a_damaged_file_is_logged_and_passed_over(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database" * 100)
    cache = VerdictCache(path)
    assert cache.get([PAIR], 5.0) == {}
    cache.put({PAIR: True}, 5.0)
    assert "cannot be read" in caplog.text
    assert "cannot be written" in caplog.text
    gc.collect()  # Python warns of a connection that was left open, from 3.13 on


def test_a_folder_that_cannot_be_made_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = VerdictCache(tmp_path / "file" / "verdicts.sqlite3")
    cache.put({PAIR: True}, 5.0)
    assert cache.get([PAIR], 5.0) == {}


def test_a_locked_file_is_passed_over(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = VerdictCache(path)
    cache.put({PAIR: True}, 5.0)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda name, **_: connect(name, timeout=0.0))
    with sqlite3.connect(path) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert cache.get([PAIR], 5.0) == {}
    other.close()


def test_the_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ATTS_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("ATTS_CACHE")
    assert cache_folder().name == "atts"


def test_text_that_cannot_be_stored_is_passed_over(path: Path) -> None:
    cache = VerdictCache(path)
    cache.put({("\ud800", "x"): True}, 5.0)
    assert cache.get([("\ud800", "x")], 5.0) == {}
