"""Programs are run against tests: which are right, and what they cannot do."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from atts.grading.grader import Grader, VerdictCache
from atts.grading.programs import checker
from atts.grading.programs.checker import Limits, check_program, same_output
from atts.types import Case, ProgramTests

SQUARES = ProgramTests(cases=(Case(input="3\n", output="9"), Case(input="5\n", output="25\n")))
RIGHT = "print(int(input()) ** 2)"
ADDS = ProgramTests(entry_point="add", cases=(Case(input="3\n[1, 2]", output="[4, 5]"),))
DOUBLES = ProgramTests(
    entry_point="double",
    check="def check(double):\n    assert double(2) == 4\n    assert double('1') == '11'\n",
    before='from typing import Any\n\ndef double(x: Any) -> Any:\n    """Twice x."""\n',
)
QUICK = Limits(cpu_seconds=1)

confined = pytest.mark.skipif(
    check_program(SQUARES, RIGHT).passed is None, reason="programs cannot be confined here"
)
pytestmark = confined


@pytest.mark.parametrize(
    ("tests", "program"),
    [
        (SQUARES, RIGHT),
        (SQUARES, "import sys\nprint(float(sys.stdin.read()) ** 2)\nsys.exit(0)"),
        (SQUARES, "if __name__ == '__main__':\n    print(int(open(0).read()) ** 2)"),
        (SQUARES, "import threading as t\nt.Thread(target=lambda: print(int(input())**2)).start()"),
        (SQUARES, "import atexit\natexit.register(lambda: print(int(input()) ** 2))"),
        (SQUARES, "import numpy as np\nprint(np.int64(input()) ** 2)"),
        (SQUARES, "open('x', 'w').write(input())\nprint(int(open('x').read()) ** 2)"),
        (ADDS, "def add(n, numbers):\n    print('hm')\n    return tuple(n + i for i in numbers)"),
        (ADDS, "class Solution:\n    def add(self, n, its):\n        return [n + i for i in its]"),
        (DOUBLES, "def double(x: Any) -> Any:\n    return 2 * x"),
        (DOUBLES, "from __future__ import annotations\ndef double(x: Nowhere):\n    return x + x"),
        (DOUBLES, "from dataclasses import dataclass\n@dataclass\nclass D:\n    x: int\n"
         "def double(x):\n    return 2 * D(x).x"),
    ],
)  # fmt: skip
def test_right_programs_pass(tests: ProgramTests, program: str) -> None:
    assert check_program(tests, program) == (True, "", True)


@pytest.mark.parametrize(
    ("tests", "program", "reason"),
    [
        (SQUARES, "print(9)", "test 2 of 2: another output"),
        (SQUARES, "print(int(input()) * 3)\nprint()\nprint(1)", "test 1 of 2: another output"),
        (SQUARES, "1 / 0", "test 1 of 2: it failed"),
        (SQUARES, RIGHT + "\nraise SystemExit(3)", "test 1 of 2: it failed"),
        (SQUARES, "def", "test 1 of 2: it failed"),
        (SQUARES, "(" * 5000, "test 1 of 2: it failed"),
        (SQUARES, "print('x' * 3_000_000)", "test 1 of 2: it failed"),
        (SQUARES, "x = bytearray(3 << 30)\n" + RIGHT, "test 1 of 2: it failed"),
        (SQUARES, "open('x', 'wb').write(bytes(40 << 20))\n" + RIGHT, "test 1 of 2: it failed"),
        (SQUARES, "while True: pass", "test 1 of 2: too slow"),
        (ADDS, "def add(n, numbers):\n    return {1, 2}", "test 1 of 1: it failed"),
        (ADDS, "def add(n, numbers):\n    return [n]", "test 1 of 1: another output"),
        (ADDS, "def other(): ...", "test 1 of 1: it failed"),
        # The prompt's own function is there, and does nothing.
        (DOUBLES, "def other(): ...", "test 1 of 1: it failed"),
        (DOUBLES, "import sys\nsys.exit(0)", "test 1 of 1: it failed"),
        (DOUBLES, "import os\nos._exit(0)", "test 1 of 1: it failed"),
        (DOUBLES, "def double(x):\n    import os\n    os.write(3, b'fine')\n    os._exit(0)",
         "test 1 of 1: it failed"),
    ],
)  # fmt: skip
def test_wrong_programs_do_not_pass(tests: ProgramTests, program: str, reason: str) -> None:
    verdict = check_program(tests, program, QUICK)
    assert (verdict.passed, verdict.is_certain) == (False, True)
    assert verdict.reason.startswith(reason)


@pytest.mark.parametrize(
    "program", ["import time\ntime.sleep(1e6)", "import os, time\nos.close(1)\ntime.sleep(1e6)"]
)
def test_what_only_waits_is_wrong_and_would_perhaps_not_be_elsewhere(program: str) -> None:
    verdict = check_program(SQUARES, program, QUICK._replace(wall_seconds=0.5))
    assert verdict == (False, "test 1 of 2: no end after 0.5 s", False)


def test_all_tests_together_have_a_limit() -> None:
    program = "t = __import__('time').process_time\nwhile t() < 0.3: pass\n" + RIGHT
    verdict = check_program(SQUARES, program, Limits(all_cpu_seconds=0.4))
    assert verdict.passed is False
    assert verdict.reason.startswith("test 2 of 2: too slow")


FORBIDDEN = {
    "network": "import socket\nsocket.create_connection(('127.0.0.1', PORT))",
    "datagrams": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "unix socket": "import socket\nsocket.socket(socket.AF_UNIX)",
    "fork": "import os\nos.fork()",
    "process": "import subprocess\nsubprocess.run(['/bin/true'])",
    "execute": "import os\nos.execv('/usr/bin/env', ['env'])",
    "execute its own": "import os\nopen('x', 'w').write('#!/bin/sh')\nos.chmod('x', 0o700)\n"
    "os.execv('x', ['x'])",
    "read": "open('SECRET').read()",
    "list": "import os\nos.listdir('FOLDER')",
    "write": "open('FOLDER/new', 'w')",
    "truncate": "import os\nos.truncate('SECRET', 0)",
    "delete": "import os\nos.unlink('SECRET')",
    "link": "import os\nos.link('SECRET', 'x')\nopen('x').read()",
    "environment of others": "open(f'/proc/PID/environ').read()",
    "signal": "import os\nos.kill(PID, 0)",
    "signal to the group": "import os\nos.killpg(0, 9)",
    "trace": "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    "if libc.ptrace(16, PID, 0, 0): raise PermissionError(ctypes.get_errno(), 'ptrace')",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_a_program_cannot(what: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        named = {
            "PORT": str(server.getsockname()[1]),
            "PID": str(os.getpid()),
            "SECRET": str(secret),
            "FOLDER": str(tmp_path),
        }
        program = FORBIDDEN[what]
        for name, value in named.items():
            program = program.replace(name, value)
        # It tells by a right answer that it was refused; whatever else happens is wrong.
        indented = program.replace("\n", "\n    ")
        refused = f"try:\n    {indented}\nexcept OSError:\n    {RIGHT}"
        assert check_program(SQUARES, refused) == (True, "", True)
    assert secret.read_text() == "a secret"
    assert list(tmp_path.iterdir()) == [secret]


def test_a_program_gets_nothing_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    program = f"import os\nassert 'sk-secret' not in os.environ.values()\n{RIGHT}"
    assert check_program(SQUARES, program).passed


def test_each_test_finds_an_empty_folder() -> None:
    program = f"import os\nassert not os.listdir('.')\nopen('x', 'w').write('x')\n{RIGHT}"
    assert check_program(SQUARES, program).passed


def test_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = set(psutil.Process().children(recursive=True))  # graders of other tests
    check_program(SQUARES, "open('x', 'w').write('x')\nwhile True: pass", QUICK)
    assert list(tmp_path.iterdir()) == []
    assert set(psutil.Process().children(recursive=True)) <= before


def test_what_cannot_be_confined_is_ungraded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    script = tmp_path / "sandbox.py"
    source = checker.SCRIPT.read_text()
    script.write_text(source.replace('sys.platform != "linux"', 'sys.platform == "linux"'))
    monkeypatch.setattr(checker, "SCRIPT", script)
    with Grader(workers=1) as grader:
        assert grader.check([(SQUARES, RIGHT)]) == [None]
    assert "confined on Linux only" in caplog.text
    assert "ATTS_UNCONFINED_PROGRAMS=1" in caplog.text
    monkeypatch.setenv("ATTS_UNCONFINED_PROGRAMS", "1")
    assert check_program(SQUARES, RIGHT).passed
    refused = f"import socket\ntry:\n    socket.socket()\nexcept PermissionError:\n    {RIGHT}"
    assert check_program(SQUARES, refused).passed


def test_a_sandbox_that_breaks_is_no_verdict(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "sandbox.py"
    source = checker.SCRIPT.read_text()
    script.write_text(source.replace("_refuse_calls()\n", "raise OSError\n"))
    monkeypatch.setattr(checker, "SCRIPT", script)
    verdict = check_program(SQUARES, RIGHT)
    assert verdict == (None, "the sandbox ended before its program", False)


def test_programs_end_with_the_process_that_grades() -> None:
    started = "import sys\nsys.path[:0] = PATHS\nfrom atts.types import *\n"
    started += "from atts.grading.programs.checker import check_program\n"
    started += "check_program(ProgramTests(cases=[Case(input='', output='')]), 'while True: pass')"
    process = subprocess.Popen([sys.executable, "-c", started.replace("PATHS", repr(sys.path))])
    watched = psutil.Process(process.pid)
    while len(children := watched.children(recursive=True)) < 2:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def test_verdicts_are_kept_but_for_those_of_a_busy_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeps = "import time\ntime.sleep(1e6)"
    monkeypatch.setattr("atts.grading.grader.LIMITS", QUICK._replace(wall_seconds=0.5))
    asked = [(SQUARES, RIGHT), (SQUARES, "print(9)"), (SQUARES, sleeps), (SQUARES, RIGHT)]
    cache = VerdictCache(tmp_path / "verdicts.sqlite3")
    with Grader(cache=cache) as grader:
        assert grader.check(asked) == [True, False, False, True]
    ran: list[str] = []

    def seen(_tests: ProgramTests, program: str, _limits: Limits) -> checker.Verdict:
        ran.append(program)
        return checker.Verdict(True, "")

    monkeypatch.setattr(checker, "check_program", seen)
    with Grader(cache=cache) as grader:
        assert grader.check(asked) == [True, False, True, True]
        assert ran == [sleeps]
        other = SQUARES.model_copy(update={"before": "x = 1"})
        assert grader.check([(other, "print(9)")]) == [True]
    assert ran == [sleeps, "print(9)"]


@pytest.mark.parametrize(
    ("expected", "output", "same"),
    [
        ("1\n", "1", True),
        ("1 2\n3", "1 2 \n3\n\n", True),
        ("0.5", "0.50", True),
        ("1e3", "1000", True),
        ("YES", "yes", False),
        ("1\n2", "1 2", False),
        ("nan", "NaN", False),
        ("", "\n", True),
        ("0.1", "0.10000001", False),
    ],
)
def test_outputs_are_compared_by_words_and_numbers(expected: str, output: str, same: bool) -> None:
    assert same_output(expected, output) is same


def test_arguments_may_hold_any_character() -> None:
    text = "a\u2028b\ud800"
    tests = ProgramTests(
        entry_point="f", cases=(Case(input=json.dumps(text), output=json.dumps(text * 2)),)
    )
    assert check_program(tests, "def f(s):\n    return s + s").passed
