"""No process that grades outlives the one that it works for, and none hears the terminal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from dies import hang_up

from atts.grading import algebra
from atts.grading.grader import Grader

GRADES = """
import sys
import dies
from atts.grading import algebra
from atts.grading.grader import Grader

if __name__ == "__main__":
    algebra.same_by_algebra = getattr(dies, sys.argv[1])
    with Grader(seconds=3600.0, workers=2) as grader:
        grader.compare([(sys.argv[2], "x+1"), (sys.argv[2], "y+1")])
"""


def busy_graders(task: str, folder: Path) -> tuple["subprocess.Popen[bytes]", list[psutil.Process]]:
    """A process whose two graders are in the middle of a task, and all that it has started."""
    script = folder / "grades.py"
    script.write_text(GRADES)
    process = subprocess.Popen(
        [sys.executable, script, task, folder / "busy"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.DEVNULL,  # of multiprocessing's resource tracker
    )
    while len(list(folder.glob("busy-*"))) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    assert {f"busy-{child.pid}" for child in children} > {p.name for p in folder.glob("busy-*")}
    return process, children


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("task", ["never_done", "never_done_without_signal"])
def test_graders_end_with_their_parent_however_it_ends(
    number: signal.Signals, task: str, tmp_path: Path
) -> None:
    process, children = busy_graders(task, tmp_path)
    process.send_signal(number)
    process.wait(30)
    _, left = psutil.wait_procs(children, timeout=30)
    for child in left:
        child.kill()
    assert not left


def test_what_a_terminal_sends_to_all_ends_no_grader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pair would be ungraded, and be kept as that."""
    monkeypatch.setattr(algebra, "same_by_algebra", hang_up)
    with Grader(workers=1) as grader:
        assert grader.compare([("x+1", "x+2")]) == {("x+1", "x+2"): True}
