"""``atts serve --ray`` with the pair that comes with atts; see ``make test-ray``."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from cluster.placing import started_cluster, until

from atts.gateway.replicated import CONTROLLER

QUESTION = "A ship has 34 people on board. 51 get on. How many are on board now?"
KEY = "s3cret"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def body(**fields: object) -> dict[str, Any]:
    return {"model": "atts", "messages": [{"role": "user", "content": QUESTION}], **fields}


@contextmanager
def serving(
    folder: Path, *options: str, address: str = "local"
) -> Iterator[tuple["subprocess.Popen[str]", httpx.Client]]:
    """The command, once it serves."""
    port = free_port()
    command = [sys.executable, "-m", "atts", "serve", "--ray", address, "--port", str(port)]
    environment = os.environ | {"ATTS_API_KEY": KEY}
    with subprocess.Popen(
        [*command, *options], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        try:
            for line in process.stderr:
                if line.startswith("Serving atts, "):
                    break
            else:
                raise AssertionError("it does not serve")
            with httpx.Client(
                base_url=f"http://127.0.0.1:{port}",
                headers={"Authorization": f"Bearer {KEY}"},
                timeout=60,
            ) as client:
                yield process, client
        finally:
            process.kill()


def figure(client: httpx.Client, pattern: str) -> float:
    """The sum of the figures whose lines match."""
    found = re.findall(rf"^{pattern}.* (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return sum(map(float, found))


def ended(process: "subprocess.Popen[str]") -> Callable[[], bool]:
    """Whether nothing is left of a command and all that it has started."""
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    assert len(tree) > 4

    def gone() -> bool:
        return not any(each.is_running() and each.status() != "zombie" for each in tree)

    return gone


def test_replicas_answer_as_one(tmp_path: Path) -> None:
    with serving(tmp_path, "--replicas", "2", "--record") as (process, client):
        assert client.get("/v1/models", headers={"Authorization": "Bearer no"}).status_code == 401
        assert "atts" in [model["id"] for model in client.get("/v1/models").json()["data"]]
        replies = [client.post("/v1/chat/completions", json=body(n=2)) for _ in range(8)]
        assert {reply.status_code for reply in replies} == {200}
        assert client.post("/v1/chat/completions", json=body(tools=[{}])).status_code == 400
        # The figures of both are those of one, by whichever they are asked.
        for _ in range(3):
            assert figure(client, "atts_chains_total") == 16
            assert figure(client, r'atts_requests_total\{path="/v1/chat/completions",.*"200"') == 8
        assert set(re.findall(r'replica="(\d)"', client.get("/metrics").text)) == {"1", "2"}

        # In pieces, as they are decided; a client that goes away takes its chains along.
        streamed = body(stream=True, n=4)
        with client.stream("POST", "/v1/chat/completions", json=streamed) as reply:
            lines = [line for line in reply.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"
        assert len(lines) > 8
        for _ in range(20):
            with client.stream("POST", "/v1/chat/completions", json=streamed) as reply:
                next(reply.iter_lines())
        until(lambda: figure(client, "atts_chains_in_flight") == 0)
        assert figure(client, "atts_chains_aborted_total") > 0

        # What is being answered is answered to its end.
        gone = ended(process)
        with client.stream("POST", "/v1/chat/completions", json=streamed | {"n": 8}) as reply:
            pieces = reply.iter_lines()
            next(pieces)
            process.send_signal(signal.SIGTERM)
            assert [line for line in pieces if line][-1] == "data: [DONE]"
        assert process.wait(60) == 0
        until(gone)
    kept = tmp_path / "runs" / "serve"
    states = [kept / f"replica-{number}" / "deciders.json" for number in (1, 2)]
    assert all(path.is_file() for path in states)


def test_nothing_outlives_the_command(tmp_path: Path) -> None:
    import ray

    def runs() -> bool:
        try:
            return bool(ray.get_actor(CONTROLLER, namespace="serve"))
        except ValueError:
            return False

    with (
        started_cluster() as cluster,
        serving(tmp_path, address=cluster.address) as (process, client),
    ):
        assert client.get("/health").status_code == 200
        command = [sys.executable, "-m", "atts", "serve", "--ray", cluster.address]
        second = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert second.returncode == 2
        assert "Ray Serve runs on this cluster already" in second.stderr
        assert runs()
        process.kill()
        process.wait(10)
        until(lambda: not runs())


def test_what_cannot_start_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "atts", "serve", "--ray", "local", "--port", str(free_port())]
    for options, told in (
        (["--set", "draft.engine=vllm", "--set", "limits.attempts=1"], "EngineConnectionError"),
        (["--set", "take_over.control=split"], "calibration"),
        (["--host", "0.0.0.0"], "set an API key"),  # noqa: S104
    ):
        result = subprocess.run(
            [*command, *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert result.returncode in (1, 2), result.stderr
        assert told in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize("options", [["--replicas", "2"], ["--ray", "local", "--port", "0"]])
def test_what_does_not_go_together_is_wrong_use(tmp_path: Path, options: list[str]) -> None:
    command = [sys.executable, "-m", "atts", "serve", *options]
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, "Error: --" in result.stderr) == (2, True)
