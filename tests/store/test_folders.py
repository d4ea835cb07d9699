"""Which of the named folders are runs."""

from pathlib import Path

import pytest
from recorded import write_run

from atts.errors import StoreError
from atts.store.contents import CALIBRATION, CHAINS, SUMMARY
from atts.store.folders import find_runs


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name in ("a", "b", "calibration-x", "empty"):
        write_run(tmp_path / "runs" / name, problems=1, samples=1)
    (tmp_path / "runs/calibration-x" / CALIBRATION).write_text("{}")
    (tmp_path / "runs/empty" / CHAINS).write_text("")
    (tmp_path / "runs/notes").mkdir()
    (tmp_path / "runs/notes.txt").write_text("")
    return tmp_path / "runs"


def test_what_is_no_run_is_skipped(runs: Path) -> None:
    found = find_runs(sorted(runs.iterdir()))
    assert [path.name for path in found.runs] == ["a", "b"]
    assert {path.name: reason for path, reason in found.skipped} == {
        "calibration-x": "a calibration",
        "empty": "without chains yet",
        "notes": "no run directory",
        "notes.txt": "no run directory",
    }


def test_a_run_that_decides_by_a_calibration_is_none(runs: Path) -> None:
    """And a calibration may be configured to be decided by, as in the demo."""
    split = {"control": "split", "calibration": "runs/calibration-y/calibration.json"}
    for name in ("split", "calibration-y"):
        write_run(runs / name, problems=1, samples=1, take_over=split)
        (runs / name / CALIBRATION).write_text("{}")
        (runs / name / SUMMARY).unlink(missing_ok=True)
    found = find_runs([runs / "split", runs / "calibration-y"])
    assert found == ([runs / "split"], [(runs / "calibration-y", "a calibration")])


def test_a_folder_of_runs_stands_for_them(runs: Path) -> None:
    found = find_runs([runs, runs])
    assert [path.name for path in found.runs] == ["a", "b"]
    assert [path.name for path, _ in found.skipped] == ["calibration-x", "empty"]
    # Beside runs it is one thing too many: its own runs may be those of a suite.
    beside = find_runs([runs / "a", runs])
    assert [path.name for path in beside.runs] == ["a"]


def test_one_path_is_judged_by_what_reads_it(runs: Path) -> None:
    for name in ("a", "calibration-x", "empty", "notes"):
        assert find_runs([runs / name]) == ([runs / name], [])


def test_nothing_to_find_is_an_error(runs: Path) -> None:
    with pytest.raises(StoreError, match="nowhere is not a run directory"):
        find_runs([runs / "a", runs / "nowhere"])
    with pytest.raises(StoreError, match=r"none of these 2 .*/notes is no run directory"):
        find_runs([runs / "notes", runs / "empty"])
