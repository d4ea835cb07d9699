"""A server that is kept alive, with a stand-in for the Python that has vLLM."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from atts.config import ModelOptions, ServerOptions
from atts.engines.servers import keeper, processes
from atts.engines.servers.keeper import Keeper, Kept
from atts.errors import ServerError

STAND_IN = Path(__file__).with_name("stand_in_server.py")


@pytest.fixture
def python(tmp_path: Path) -> str:
    """An executable that runs the stand-in, whatever module it is asked for."""
    path = tmp_path / "a python"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(processes, "TERMINATE_SECONDS", 0.3)
    monkeypatch.setattr(processes, "CHILD_SECONDS", 0.3)
    monkeypatch.setattr(keeper, "POLL_SECONDS", 0.05)


@pytest.fixture
def keep(python: str) -> Iterator[Callable[..., Keeper]]:
    made: list[Keeper] = []

    def make(name: str = "one", host: str = "127.0.0.1", **server: Any) -> Keeper:  # noqa: ANN401
        settings: dict[str, Any] = {"executable": python, "port": 23000} | server
        options = ModelOptions(model="tiny", engine="vllm", server=ServerOptions(**settings))
        made.append(Keeper(name, "draft", options, host, None))
        return made[-1]

    yield make
    for each in made:
        each.end()


def until(condition: Callable[[], object]) -> None:
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends, "in vain"
        time.sleep(0.05)


def answering(kept: Keeper) -> Kept:
    until(lambda: kept.kept().is_answering)
    return kept.kept()


def test_a_server_that_dies_is_started_again_at_the_same_address(
    keep: Callable[..., Keeper],
) -> None:
    kept = keep()
    first = answering(kept)
    assert (first.restarts, first.failure) == (0, "")
    assert first.memory > 0
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: kept.kept().pid != first.pid)
    second = answering(kept)
    assert (second.url, second.restarts, second.failure) == (first.url, 1, "")
    kept.end()
    assert not psutil.pid_exists(second.pid)
    assert not kept.kept().is_answering


def test_keepers_of_one_machine_take_ports_of_their_own(keep: Callable[..., Keeper]) -> None:
    both = [keep("one"), keep("two")]
    assert len({answering(each).url for each in both}) == 2


def test_a_server_that_cannot_stay_says_why(keep: Callable[..., Keeper]) -> None:
    kept = keep(arguments=("--die-after", "0"))
    until(lambda: kept.kept().restarts > 0)
    until(lambda: kept.kept().failure)
    told = kept.kept().failure
    assert "ended with status 3, the first error is: OutOfMemoryError" in told
    assert not kept.kept().is_answering


def test_what_stands_in_the_way_is_told(keep: Callable[..., Keeper]) -> None:
    kept = keep(executable="no-such-python")
    until(lambda: kept.kept().failure)
    assert "there is no executable no-such-python" in kept.kept().failure
    assert kept.kept().url


def test_a_server_listens_at_its_node(keep: Callable[..., Keeper]) -> None:
    # Loopback too, so that it can be tried anywhere.
    assert answering(keep(host="127.0.0.2")).url.startswith("http://127.0.0.2:")


def test_other_machines_are_let_in_only_with_a_key(
    keep: Callable[..., Keeper], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "is_free", lambda *_: True)
    kept = keep(host="192.0.2.1")
    until(lambda: kept.kept().failure)
    assert "lets others reach it; set api_key_env" in kept.kept().failure
    assert kept.kept().pid == 0


KEEPING = """
import sys
from atts.config import ModelOptions, ServerOptions
from atts.engines.servers.keeper import Keeper
server = ServerOptions(executable=sys.argv[1], port=23000)
keeper = Keeper("one", "draft", ModelOptions(model="tiny", engine="vllm", server=server),
                "127.0.0.1", None)
import time
while not keeper.kept().is_answering:
    time.sleep(0.1)
print(keeper.kept().pid, keeper.kept().url, flush=True)
time.sleep(600)
"""


def test_a_server_ends_with_its_keeper_and_the_next_one_takes_its_address(
    python: str, keep: Callable[..., Keeper]
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KEEPING, python], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        pid, url = process.stdout.readline().split()
        tree = [psutil.Process(int(pid)), *psutil.Process(int(pid)).children(recursive=True)]
        assert len(tree) == 2
        process.kill()
    until(lambda: not any(each.is_running() and each.status() != "zombie" for each in tree))
    assert answering(keep()).url == url


def test_a_folder_that_others_can_write_to_is_not_used(
    tmp_path: Path, keep: Callable[..., Keeper]
) -> None:
    (tmp_path / f"atts-servers-{os.getuid()}").mkdir()
    (tmp_path / f"atts-servers-{os.getuid()}").chmod(0o777)
    with pytest.raises(ServerError, match="is not ours alone"):
        keep()
