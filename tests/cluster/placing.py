"""A cluster that is played by this machine, and servers that stand in for vLLM's."""

import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from atts.config import Config, parse_config

STAND_IN = Path(__file__).parents[1] / "engines" / "servers" / "stand_in_server.py"


@contextmanager
def started_cluster(*gpus: int) -> Iterator[Any]:
    """A cluster whose nodes have so many GPUs, the one with the command none; Ray is connected."""
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster()
    try:
        for count in (0, *gpus):
            made.add_node(num_cpus=4, num_gpus=count)
        ray.init(address=made.address, log_to_driver=False)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def stand_in(folder: Path) -> str:
    """An executable that runs the stand-in, whatever module it is asked for."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def make_config(python: str, **target: Any) -> Config:  # noqa: ANN401
    """Two drafts with a GPU each, and a target on two GPUs."""
    server = {"executable": python, "start_seconds": 60.0, "arguments": ["--childless"]}
    return parse_config(
        {
            "draft": {"engine": "vllm", "model": "tiny", "server": server | {"replicas": 2}},
            "target": {
                "engine": "vllm",
                "model": "tiny",
                "server": server | {"port": 41000, "tensor_parallel": 2} | target,
            },
        },
        "a test",
    )


def until(condition: Callable[[], object]) -> None:
    """Wait for something."""
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends, "in vain"
        time.sleep(0.1)


def stand_ins() -> list[psutil.Process]:
    """Those that live."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if str(STAND_IN) in command and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found
