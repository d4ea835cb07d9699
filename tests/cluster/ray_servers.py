"""Servers on a cluster that loses a node; see ``make test-ray``."""

from pathlib import Path
from typing import Any

import psutil
import pytest
from placing import make_config, stand_in, stand_ins, started_cluster, until
from typer.testing import CliRunner, Result

from atts.cli.app import app
from atts.cluster import servers as placing
from atts.engines.loading import server_urls
from atts.types import Author


def node_of(cluster: Any, pid: int) -> Any:  # noqa: ANN401
    """The node of the cluster on which a server's actor is."""
    above = {each.pid for each in psutil.Process(pid).parents()}
    return next(
        node
        for node in cluster.list_all_nodes()
        if any(each.process.pid in above for each in node.all_processes.get("raylet", []))
    )


async def test_a_server_moves_where_its_node_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, config = tmp_path / "runs" / "servers", make_config(stand_in(tmp_path))

    def now() -> Any:  # noqa: ANN401
        ((_, kept),) = placing.status(folder, "target")
        return kept

    target: tuple[Author, ...] = ("target",)
    with started_cluster(2, 2) as cluster:
        await placing.up(config, target, folder, cluster.address, lambda *_: None)
        before = now()
        cluster.remove_node(node_of(cluster, before.pid), allow_graceful=False)
        until(lambda: (kept := now()) and kept.is_answering and kept.pid != before.pid)
        assert server_urls(config.target) == (now().url,)
        until(lambda: not psutil.pid_exists(before.pid))
        placing.down(folder)
    assert stand_ins() == []


def test_nothing_outlives_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["servers", *arguments])

    python = stand_in(tmp_path)
    settings = ["draft.engine=vllm", "draft.model=tiny", f"draft.server.executable={python}"]
    options = [word for setting in settings for word in ("--set", setting)]
    with started_cluster() as cluster:
        result = invoke("up", *options, "--only", "draft", "--ray", cluster.address)
        assert result.exit_code == 0, result.output
        assert "draft: tiny at http://127.0.0.1:40000, on " in result.stderr
        shown = invoke("status")
        assert (shown.exit_code, "answers" in shown.stdout) == (0, True)
        assert "loading weights" in invoke("logs", "draft").stdout
        assert invoke("logs", "draft", "--follow").exit_code == 2
        assert len(stand_ins()) == 1
    until(lambda: not stand_ins())
    result = invoke("down")
    assert result.exit_code == 1
    assert "If that cluster has ended, so have they: remove" in result.stderr
