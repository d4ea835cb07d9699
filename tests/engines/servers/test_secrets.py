"""What a server is given reaches it, and no message repeats what of it is secret."""

import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes import free_port

from atts.config import Config, load_config, parse_config
from atts.engines.servers import lifecycle, processes
from atts.engines.servers.lifecycle import down, up
from atts.engines.servers.plan import plan_servers
from atts.engines.servers.processes import read_record, tail
from atts.errors import ConfigError, ServerError
from atts.store.run_directory import config_yaml
from atts.types import Author

DRAFT: tuple[Author, ...] = ("draft",)

# As servers do, it logs what it was started with; then it ends.
CHATTY = """
import os, sys
if sys.argv[1] == "-c":
    raise SystemExit
print("arguments", sys.argv)
print("environment", {name: os.environ.get(name) for name in ("A_NAME", "OTHER", "VLLM_API_KEY")})
print("RuntimeError: no access for plain-s3cret")
raise SystemExit(3)
"""


@pytest.fixture
def chatty(tmp_path: Path) -> str:
    path = tmp_path / "python"
    (tmp_path / "chatty.py").write_text(CHATTY)
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{tmp_path / "chatty.py"}" "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "TERMINATE_SECONDS", 0.3)
    monkeypatch.setattr(lifecycle, "POLL_SECONDS", 0.05)


def of(python: str, **server: Any) -> Config:  # noqa: ANN401
    server = {"executable": python, "port": free_port()} | server
    draft = {"engine": "vllm", "api_key_env": "A_KEY", "server": server}
    return parse_config({"draft": draft}, "a test")


async def test_an_error_with_the_end_of_a_log_repeats_none(
    tmp_path: Path, chatty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "key-s3cret\n")
    environment = {"A_NAME": "plain-s3cret"}
    arguments = ["--pass-it-on", "--hf-token", "token-s3cret"]
    config = of(chatty, environment=environment, arguments=arguments)
    with pytest.raises(ServerError) as caught:
        await up(config, DRAFT, tmp_path / "servers", lambda *_: None)
    message = str(caught.value)
    assert "s3cret" not in message
    assert "first error is: RuntimeError: no access for ***" in message
    assert "'--hf-token', '***'" in message
    # The server has them, the key without its line feed.
    log = (tmp_path / "servers" / "draft.log").read_text()
    assert "'A_NAME': 'plain-s3cret'" in log
    assert "'VLLM_API_KEY': 'key-s3cret'" in log
    assert "token-s3cret" in log


async def test_from_a_recorded_configuration_the_values_are_those_of_this_process(
    tmp_path: Path, chatty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "k")
    monkeypatch.delenv("OTHER", raising=False)
    path = tmp_path / "config.yaml"
    path.write_text(config_yaml(of(chatty, environment={"OTHER": "given"})))
    with pytest.raises(ConfigError, match=r"server\.environment\.OTHER has no value here"):
        plan_servers(load_config(path), DRAFT)
    monkeypatch.setenv("OTHER", "exported")
    with pytest.raises(ServerError, match="'OTHER': 'exported'"):
        await up(load_config(path), DRAFT, tmp_path / "servers", lambda *_: None)


def test_what_stands_for_a_secret_is_not_given_to_a_server(
    tmp_path: Path, chatty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "k")
    path = tmp_path / "config.yaml"
    path.write_text(config_yaml(of(chatty, arguments=["--hf-token=abc"])))
    with pytest.raises(ConfigError, match=r"server\.arguments holds \*\*\*.*put it in again"):
        plan_servers(load_config(path), DRAFT)


def test_a_key_that_is_none_is_said_before_a_server_starts(
    chatty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "one\ntwo")
    with pytest.raises(ConfigError, match="variable A_KEY holds a line feed") as caught:
        plan_servers(of(chatty), DRAFT)
    assert "two" not in str(caught.value)


def test_the_end_of_a_log_is_shown_without_what_looks_like_a_key(tmp_path: Path) -> None:
    log = tmp_path / "draft.log"
    log.write_text("ServerArgs(api_key='s3cret')\nready\n")
    assert tail(log, 2) == "ServerArgs(api_key='***')\nready"


@pytest.mark.parametrize("pid", ["-1", "0", "1", "99999999999", "1e999", "null", '"x"'])
def test_a_record_of_no_process_is_never_signalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pid: str
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something was signalled")

    monkeypatch.setattr(processes, "_signal", refuse)
    log, url = tmp_path / "draft.log", "http://127.0.0.1:9"
    (tmp_path / "draft.json").write_text(
        f'{{"author": "draft", "engine": "vllm", "model": "m", "url": "{url}", "log": "{log}", '
        f'"pid": {pid}, "created": 0}}'
    )
    for use in (lambda: read_record(tmp_path, "draft"), lambda: down(tmp_path)):
        with pytest.raises(ServerError, match=r"draft\.json is not what atts servers up writes: "):
            use()
