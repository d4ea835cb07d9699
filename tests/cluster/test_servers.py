"""Servers on a cluster; what takes longer is in ray_servers.py."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from placing import make_config, stand_in, stand_ins, started_cluster, until

from atts.cluster import servers as placing
from atts.engines.loading import server_urls
from atts.engines.servers.keeper import Kept
from atts.engines.servers.placed import located, read_placement
from atts.errors import ServerError
from atts.types import Author

ray = pytest.importorskip("ray")
BOTH: tuple[Author, ...] = ("draft", "target")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with started_cluster(2, 2) as cluster:
        yield cluster


@pytest.fixture
def python(tmp_path: Path) -> str:
    return stand_in(tmp_path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "runs" / "servers"
    placing.down(tmp_path / "runs" / "servers")


async def test_servers_are_placed_found_kept_and_ended(
    cluster: Any,  # noqa: ANN401
    python: str,
    folder: Path,
) -> None:
    config = make_config(python)
    told: list[str] = []
    placed = await placing.up(
        config, BOTH, folder, cluster.address, lambda author, what, _: told.append(author + what)
    )
    assert {"draftanswers", "targetanswers"} <= set(told)
    assert [len(placement.servers) for placement in placed] == [2, 1]
    assert placed == [read_placement(folder, author) for author in BOTH]
    # A run in this folder finds them, and nobody with other settings.
    assert server_urls(config.draft) == tuple(server.url for server in placed[0].servers)
    assert located(config).target.urls == server_urls(config.target)
    assert located(make_config(python, port=42000)).target.urls == ()
    with pytest.raises(ServerError, match="are up already"):
        await placing.up(config, BOTH, folder, cluster.address, lambda *_: None)

    # One that dies, and one whose actor dies, answer again where they were.
    def both() -> list[Kept | None]:
        return [kept for _, kept in placing.status(folder, "draft")]

    first, second = both()
    assert first
    assert second
    os.kill(first.pid, signal.SIGKILL)
    actor = psutil.Process(second.pid).parent()
    assert actor
    actor.kill()
    gone = {first.pid, second.pid}
    until(lambda: all(kept and kept.is_answering and kept.pid not in gone for kept in both()))
    assert read_placement(folder, "draft") == placed[0]
    assert all("loading weights" in text for _, text in placing.logs(folder, "draft", 5))

    assert placing.down(folder) == placed
    assert stand_ins() == []
    assert placing.down(folder) == []
    assert placing.status(folder, "draft") == []
    until(lambda: ray.available_resources().get("GPU") == 4.0)


async def test_what_has_no_room_or_cannot_start_is_told_and_leaves_nothing(
    cluster: Any,  # noqa: ANN401
    python: str,
    folder: Path,
) -> None:
    config = make_config(python, tensor_parallel=3, start_seconds=0.1)
    with pytest.raises(ServerError, match=r"no room for the target's servers after .* 1 x 3 GPUs"):
        await placing.up(config, BOTH, folder, cluster.address, lambda *_: None)
    config = make_config(python, arguments=["--die-after", "0", "--childless"])
    with pytest.raises(ServerError, match=r"target's server on .*OutOfMemoryError"):
        await placing.up(config, BOTH, folder, cluster.address, lambda *_: None)
    assert stand_ins() == []
    assert list(folder.glob("*.cluster.json")) == []
