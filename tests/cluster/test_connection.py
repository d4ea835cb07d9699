"""Connecting to Ray; what needs a cluster is in test_run.py."""

import sys

import pytest

from atts.cluster.connection import connected
from atts.errors import ConfigError


def test_without_ray_the_command_that_adds_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'atts-lm\[ray\]'"), connected("auto"):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "127.0.0.1:99999999"])
def test_where_no_cluster_is_the_command_that_starts_one_is_named(address: str) -> None:
    with pytest.raises(ConfigError, match="ray start --head"), connected(address):
        pass


def test_a_client_that_is_no_node_is_refused() -> None:
    with pytest.raises(ConfigError, match="must run on a node"), connected("ray://10.0.0.1:10001"):
        pass
