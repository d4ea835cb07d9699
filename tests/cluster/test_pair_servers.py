"""A suite's servers on a cluster."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from placing import make_config, stand_in, stand_ins, started_cluster

from atts.cluster import servers as placing
from atts.cluster.pair_servers import PlacedServers
from atts.engines.servers.placed import placed_at
from atts.types import Author

pytest.importorskip("ray")
BOTH: tuple[Author, ...] = ("draft", "target")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with started_cluster(2, 2) as cluster:
        yield cluster


async def test_a_pair_s_servers_are_placed_taken_over_and_ended(
    cluster: Any,  # noqa: ANN401
    tmp_path: Path,
) -> None:
    config, folder = make_config(stand_in(tmp_path)), tmp_path / "servers"
    servers, said = PlacedServers(cluster.address), list[str]()
    reached = await servers.up("pair", config, BOTH, folder, said.append)
    assert len(reached.draft.urls) == 2
    assert reached.draft.urls == placed_at(folder, "draft")
    assert reached.target.urls == placed_at(folder, "target")
    assert reached.digest() == config.digest()
    before = {process.pid for process in stand_ins()}
    # The suite was killed: the next start finds them.
    assert await servers.up("pair", config, BOTH, folder, said.append) == reached
    assert {process.pid for process in stand_ins()} == before
    assert "pair: the draft's servers are still up, which this suite placed before" in said
    # With other settings the target's are ended, and others placed.
    other = make_config(stand_in(tmp_path), port=42000)
    again = await servers.up("pair", other, BOTH, folder, said.append)
    assert again.draft.urls == reached.draft.urls
    assert again.target.urls != reached.target.urls
    # What is given is left alone.
    given = await servers.up("pair", reached, BOTH, tmp_path / "others", said.append)
    assert given == reached
    servers.down(folder, said.append)
    assert stand_ins() == []
    assert [placing.status(folder, author) for author in BOTH] == [[], []]
