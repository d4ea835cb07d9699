"""A cluster of several nodes on this machine, for tests."""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import psutil

from atts.cluster.connection import load_ray

MARK = "ATTS_TEST_CLUSTER"
"""The environment variable by which the processes of a cluster are found."""


@contextlib.contextmanager
def a_cluster(nodes: int, at_head: int = 0) -> Iterator[Any]:
    """Ray's ``Cluster`` of a head and so many nodes with a processor each, on the loopback address.

    ``at_head`` processors are the head's.
    """
    load_ray(is_local=True)
    os.environ[MARK] = f"{os.getpid()}-{time.monotonic_ns()}"
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": at_head, "include_dashboard": False}
    )
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


def processes(name: str) -> list[psutil.Process]:
    """The living processes of the cluster with this name, such as ``Worker``."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError, IndexError):
            its = process.cmdline()[0].startswith(f"ray::{name}")
            if its and process.environ().get(MARK) == os.environ[MARK]:
                found.append(process)
    return found
