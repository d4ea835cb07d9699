"""What is sent to a server to warm it, and what is run to compile its kernels; with stand-ins."""

import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from engines.stand_ins import VllmStandIn, serving

from atts.config import ModelOptions, parse_config
from atts.engines.inprocess.engine import load_model
from atts.engines.servers.lifecycle import compile_deep_gemm, warm_up
from atts.engines.servers.plan import ServerPlan, plan_servers
from atts.errors import ServerError
from atts.models.model_files import model_path
from atts.types import Author


@pytest.mark.parametrize(("chains", "turns"), [(1, 1), (16, 1 + 4 + 16)])
async def test_as_many_turns_at_once_are_tried_as_a_run_has_chains(chains: int, turns: int) -> None:
    options = ModelOptions(model="bundled/target", device="cpu")
    server = VllmStandIn(load_model(options, model_path(options.model)), "v2")
    server.context = 100  # so that one length fits
    async with serving(server.app) as url:
        served = {"engine": "vllm", "served_as": "tiny", "urls": (url,)}
        assert await warm_up(options.model_copy(update=served), chains) > 0.0
    lengths = [options["max_tokens"] for options in server.requests]
    assert lengths.count(8) == turns  # written
    assert lengths.count(1) >= turns  # scored, and what connecting asks


def draft_plan(folder: Path, status: int) -> ServerPlan:
    python = folder / "python"
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && exit 0\necho "called with $@, $A_VARIABLE"\nexit {status}\n'
    )
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    server = {"executable": str(python), "port": 45123, "environment": {"A_VARIABLE": "a value"}}
    config = parse_config({"draft": {"engine": "sglang", "server": server}}, "a test")
    authors: tuple[Author, ...] = ("draft",)
    (plan,) = plan_servers(config, authors)
    return plan


def test_deep_gemm_is_compiled_with_the_arguments_of_the_server(tmp_path: Path) -> None:
    plan = draft_plan(tmp_path, status=0)
    assert compile_deep_gemm(plan, tmp_path / "logs") >= 0.0
    log = (tmp_path / "logs" / "draft-deep-gemm.log").read_text()
    arguments = " ".join(plan.command[3:])
    assert log == f"called with -m sglang.compile_deep_gemm {arguments}, a value\n"


def test_a_compilation_that_fails_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"status 7(?s:.*)called with -m sglang\.compile"):
        compile_deep_gemm(draft_plan(tmp_path, status=7), tmp_path / "logs")


def test_a_compilation_ends_with_the_process_that_waits_for_it(tmp_path: Path) -> None:
    waits = """
import os, subprocess, sys
from pathlib import Path
from atts.engines.servers.processes import run_leashed
child = "import os, sys; open(sys.argv[1], 'w').close(); os.execlp('sleep', 'sleep', '3600')"
there = str(Path(sys.argv[1]) / "there")
run_leashed([sys.executable, "-c", child, there], os.environ, Path(sys.argv[1]) / "log")
"""
    with subprocess.Popen([sys.executable, "-c", waits, tmp_path]) as process:
        while not (tmp_path / "there").exists():
            assert process.poll() is None
            time.sleep(0.02)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) == 2
        process.kill()
    _, left = psutil.wait_procs(children, timeout=30)
    assert not left
