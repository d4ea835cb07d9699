"""A report that grows with its runs, for this machine alone."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest
from browser import Page, chromium
from starlette.testclient import TestClient

from atts.config import parse_config
from atts.errors import StoreError
from atts.gateway.view import GrowingReport, application
from atts.grading.grader import Grader, VerdictCache
from atts.store.run_directory import RunStore
from atts.types import Chain, Problem

PROBLEMS = [Problem(id=f"p{n}", question="1 + 1?", answer="2") for n in range(3)]


def chain(number: int) -> Chain:
    return Chain(
        problem_id=f"p{number}", sample=0, end="stop", answer="2", turns=(), started=0.0, done=1.0
    )


def store(directory: Path) -> RunStore:
    config = parse_config({"method": "target-only", "samples": 1}, "the test")
    return RunStore.open(directory, config, PROBLEMS, None)


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atts.gateway.view.RESTS", 0.0)


@pytest.mark.usefixtures("restless")
def test_the_page_follows_the_run(tmp_path: Path) -> None:
    with Grader(cache=VerdictCache()) as grader, store(tmp_path / "mine") as growing:
        client = TestClient(application(GrowingReport([tmp_path], grader)), "http://127.0.0.1")
        waiting = client.get("/").text
        assert "Nothing to report yet" in waiting
        assert 'http-equiv="refresh"' in waiting
        growing.append(chain(0))
        first, version = client.get("/"), client.get("/version").text
        assert f'data-version="{version}"' in first.text
        assert "2 chains are not done yet" in first.text
        assert "connect-src &#39;self&#39;" in first.text or "connect-src 'self'" in first.text
        assert client.get("/").text == first.text
        growing.append(chain(1))
        assert client.get("/version").text != version
        assert "1 chains are not done yet" in client.get("/").text
        with store(tmp_path / "another") as other:
            other.append(chain(0))
        assert "another" in client.get("/").text
        version = client.get("/version").text
        (tmp_path / "mine/grades.jsonl").write_text("")
        assert client.get("/version").text != version, "graded anew"


def test_making_pages_leaves_the_run_its_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atts.gateway.view.RESTS", 1e6)
    with Grader(cache=VerdictCache()) as grader, store(tmp_path / "mine") as growing:
        client = TestClient(application(GrowingReport([tmp_path], grader)), "http://127.0.0.1")
        growing.append(chain(0))
        page = client.get("/").text
        growing.append(chain(1))
        assert client.get("/version").text in page, "not worth asking yet"
        assert client.get("/").text == page


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("error", [OSError("gone"), StoreError("cannot be read")])
def test_what_cannot_be_read_for_a_moment_leaves_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: object) -> None:
        raise error

    with Grader(cache=VerdictCache()) as grader, store(tmp_path / "mine") as growing:
        client = TestClient(application(GrowingReport([tmp_path], grader)), "http://127.0.0.1")
        growing.append(chain(0))
        page = client.get("/").text
        growing.append(chain(1))
        with monkeypatch.context() as patched:
            patched.setattr("atts.gateway.view.read_reports", broken)
            assert client.get("/").text == page
        assert "1 chains are not done yet" in client.get("/").text


def test_a_run_that_cannot_be_read_is_waited_for(tmp_path: Path) -> None:
    with Grader(cache=VerdictCache()) as grader, store(tmp_path / "mine") as growing:
        growing.append(chain(0))
        client = TestClient(application(GrowingReport([tmp_path / "mine"], grader)), "http://[::1]")
        (tmp_path / "mine/config.yaml").write_text("method: <b>nonsense</b>")
        page = client.get("/")
        assert page.status_code == 200
        assert "cannot be read" in page.text
        assert "<b>nonsense" not in page.text


def test_other_names_are_refused(tmp_path: Path) -> None:
    with Grader(cache=VerdictCache()) as grader:
        client = TestClient(application(GrowingReport([tmp_path], grader)), "http://evil.example")
        assert client.get("/").status_code == 403
        assert client.get("/version").status_code == 403


@contextmanager
def viewing(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command on the run there, and where its page is."""
    process = subprocess.Popen(
        [sys.executable, "-m", "atts", "view", "mine"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr
        yield process, process.stderr.readline().split(" is at ")[1].split(",")[0]
    finally:
        process.kill()
        process.communicate()


def test_the_command_tells_its_address_and_ends_when_told(tmp_path: Path) -> None:
    with store(tmp_path / "mine") as growing:
        growing.append(chain(0))
    with viewing(tmp_path) as (process, address):
        assert address.startswith("http://127.0.0.1:")
        assert "Summary" in httpx.get(address, timeout=60.0).text
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_the_browser_follows_and_keeps_its_place(tmp_path: Path) -> None:
    with store(tmp_path / "mine") as growing, chromium() as driver:
        growing.append(chain(0))
        with viewing(tmp_path) as (_, address):
            page = Page(driver, address)
            page.show("#" + urlencode({"run": "mine", "problem": "p0", "chain": 0}))
            page.wait_for("!document.getElementById('chain').hidden")
            page.run("document.getElementById('outcome').value = 'right'")
            growing.append(chain(1))
            page.wait_for("document.body.textContent.includes('1 chains are not done yet')", 30.0)
            page.wait_for("!document.getElementById('chain').hidden")
            assert page.run("document.getElementById('outcome').value") == "right"
            assert "problem=p0" in page.run("location.hash")
            assert page.log("browser") == [], "the console holds messages"
