"""What is run to compile a server's kernels, with a stand-in for the Python that has SGLang."""

import stat
from pathlib import Path

import pytest

from atts.config import parse_config
from atts.engines.servers.lifecycle import compile_deep_gemm
from atts.engines.servers.plan import ServerPlan, plan_servers
from atts.errors import ServerError
from atts.types import Author


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
