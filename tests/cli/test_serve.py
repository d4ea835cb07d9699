"""``atts serve`` as a process of its own, with the two models that come with atts."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cli.conftest import Invoke
from typer.testing import Result

from atts.config import Config

ASKED = {
    "model": "atts",
    "messages": [{"role": "user", "content": "What is 17 + 25?"}],
    "stream": True,
    "n": 4,
    "seed": 3,
}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server, and where it answers."""
    command = [sys.executable, "-m", "atts", "serve", "--port", "0", "--dir", "kept"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=os.environ | {"NO_COLOR": "1"}
    )
    try:
        assert process.stderr
        line = process.stderr.readline()
        found = re.search(r"Serving atts, .* at (http://127\.0\.0\.1:\d+)/v1", line)
        assert found, line + process.stderr.read()
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


def test_sigterm_lets_replies_end_and_keeps_what_was_learnt(
    served: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    process, url = served
    ended = set()
    with (
        httpx.Client(base_url=url, timeout=60.0) as client,
        client.stream("POST", "/v1/chat/completions", json=ASKED) as response,
    ):
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        process.send_signal(signal.SIGTERM)
        for line in filter(None, lines):
            if line == "data: [DONE]":
                break
            (choice,) = json.loads(line.removeprefix("data: "))["choices"]
            if choice["finish_reason"]:
                ended.add(choice["index"])
    assert ended == {0, 1, 2, 3}
    assert process.wait(60) == 0
    assert json.loads((tmp_path / "kept" / "deciders.json").read_text())["deciders"]


def test_other_machines_are_not_let_in_without_a_key(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ATTS_API_KEY", raising=False)
    result: Result = invoke("serve", "--host", "0.0.0.0")  # noqa: S104
    assert result.exit_code == 2
    assert "set an API key" in result.output


def test_a_port_that_is_taken_is_named(invoke: Invoke) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result: Result = invoke("serve", "--port", port)
    assert result.exit_code == 2
    assert f"cannot listen on 127.0.0.1, port {port}" in result.output


@pytest.mark.parametrize(("given", "seconds"), [([], 0.0), (["30"], 30.0)])
def test_a_server_that_is_gone_is_not_waited_for_unless_asked(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, given: list[str], seconds: float
) -> None:
    found: list[Config] = []

    async def serve(config: Config, *_: object) -> None:
        found.append(config)

    monkeypatch.setattr("atts.gateway.server.serve", serve)
    words = [word for each in given for word in ("--set", f"limits.patience_seconds={each}")]
    assert invoke("serve", *words).exit_code == 0
    assert found[0].limits.patience_seconds == seconds


def test_what_is_missing_is_said_with_its_mend(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "atts.gateway.server", None)
    result: Result = invoke("serve")
    assert result.exit_code == 2
    assert "pip install 'atts-lm[serve]'" in result.output
