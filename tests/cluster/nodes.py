"""A cluster of several nodes on this machine, for tests: its head has no place for workers."""

import contextlib
from collections.abc import Iterator
from typing import Any

import psutil

from atts.cluster.connection import load_ray


@contextlib.contextmanager
def a_cluster(nodes: int, cpus: int = 1) -> Iterator[Any]:
    """Ray's ``Cluster``, on the loopback address."""
    load_ray(is_local=True)
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=cpus)
        yield cluster
    finally:
        cluster.shutdown()


def processes(name: str, below: int | None = None) -> list[psutil.Process]:
    """The living processes of Ray with this name, such as ``Worker``; of one node's ``below``."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, IndexError):
            if process.cmdline()[0].startswith(f"ray::{name}") and (
                below is None or below in {parent.pid for parent in process.parents()}
            ):
                found.append(process)
    return found
