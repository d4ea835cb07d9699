"""Open files: the limit is raised where it may be, and else the chains in flight follow it."""

import asyncio
import resource
import shlex
import sys
from pathlib import Path

import psutil
import pytest
from engines.stand_ins import VllmStandIn, serving

from atts.config import Config, ModelOptions, parse_config
from atts.engines.inprocess.engine import load_model
from atts.models.model_files import model_path
from atts.runs.open_files import RESERVE, fitted
from atts.store.run_directory import read_run

USED = 10


class Machine:
    """What a process may open here, at most, and what it was allowed in the end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, soft: int, hard: int) -> None:
        self.soft, self.hard = soft, hard
        monkeypatch.setattr(resource, "getrlimit", lambda _: (self.soft, self.hard))
        monkeypatch.setattr(resource, "setrlimit", self.set)
        monkeypatch.setattr(psutil.Process, "num_fds", lambda _: USED)

    def set(self, _: int, limits: tuple[int, int]) -> None:
        if self.hard != resource.RLIM_INFINITY:
            assert limits[0] <= self.hard
        self.soft = limits[0]


def config_of(draft: str, target: str, chains: int = 500) -> Config:
    tree = {
        "draft": {"engine": draft},
        "target": {"engine": target},
        "limits": {"chains": chains, "draft_requests": 400, "target_requests": 100},
    }
    return parse_config(tree, "a test")


@pytest.mark.parametrize(
    ("draft", "target", "needed"),
    [("vllm", "sglang", 1000), ("vllm", "inprocess", 800), ("inprocess", "vllm", 200)],
)
@pytest.mark.parametrize("hard", [4096, resource.RLIM_INFINITY])
def test_the_limit_is_raised_as_far_as_needed(
    monkeypatch: pytest.MonkeyPatch, draft: str, target: str, needed: int, hard: int
) -> None:
    machine = Machine(monkeypatch, 64, hard)
    config = config_of(draft, target)
    assert fitted(config) == (config, None)
    assert machine.soft == USED + RESERVE + needed


@pytest.mark.parametrize("soft", [2048, resource.RLIM_INFINITY])
def test_a_limit_that_suffices_stays(monkeypatch: pytest.MonkeyPatch, soft: int) -> None:
    machine = Machine(monkeypatch, soft, resource.RLIM_INFINITY)
    config = config_of("vllm", "vllm")
    assert fitted(config) == (config, None)
    assert machine.soft == soft


def test_models_in_this_process_need_none(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 20, 20)
    config = config_of("inprocess", "inprocess")
    assert fitted(config) == (config, None)
    assert machine.soft == 20


@pytest.mark.parametrize(
    ("hard", "target", "chains"),
    # A quarter is kept for all else, and a chain has up to two connections to each server.
    [
        (64, "vllm", (64 - 16 - USED) // 4),
        (64, "inprocess", (64 - 16 - USED) // 2),
        (12, "vllm", 1),
    ],
)
def test_else_the_chains_in_flight_follow_it(
    monkeypatch: pytest.MonkeyPatch, hard: int, target: str, chains: int
) -> None:
    machine = Machine(monkeypatch, 12, hard)
    config = config_of("vllm", target)
    fewer, word = fitted(config)
    assert fewer.limits == config.limits.model_copy(update={"chains": chains})
    assert fewer.digest() == config.digest()
    assert word
    assert f"may open {hard} files: enough for {chains} chains in flight" in word
    assert "limits.chains=500" in word
    assert machine.soft == hard
    few = config_of("vllm", target, chains=chains)
    assert fitted(few) == (few, None)


async def test_a_run_with_few_open_files_loses_no_chain(tmp_path: Path) -> None:
    """64 chains at once, in a process that may open 40 files."""
    options = ModelOptions(model="bundled/target", device="cpu")
    server = VllmStandIn(load_model(options, model_path(options.model)), "v2")
    settings = {
        "method": "target-only",
        "problems.count": 4,
        "samples": 16,
        "turns": "{max_turns: 2, draft_tokens: 4, target_tokens: 4}",
        "target.engine": "vllm",
        "target.served_as": "tiny",
        "limits.chains": 64,
        "limits.chains_min": 64,
    }
    async with serving(server.app) as url:
        given = settings | {"target.urls": f"[{url}]"}
        command = [sys.executable, "-m", "atts", "run", "--out", str(tmp_path / "run")]
        for key, value in given.items():
            command += ["--set", f"{key}={value}"]
        process = await asyncio.create_subprocess_shell(
            f"ulimit -n 40; exec {shlex.join(command)}",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
    assert process.returncode == 0, said.decode()
    assert "this process may open 40 files: enough for" in said.decode()
    assert "serves no request" not in said.decode()
    assert [chain.error for chain in read_run(tmp_path / "run").chains] == [None] * 64
