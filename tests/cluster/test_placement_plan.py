"""What is checked before servers are placed on a cluster."""

from pathlib import Path
from typing import Any

import pytest

from atts.cluster.placement_plan import plan_placements
from atts.cluster.servers import down, logs, status, up
from atts.config import Config, parse_config
from atts.engines.servers.placed import (
    PlacedServer,
    Placement,
    located,
    path_of,
    placed_urls,
    read_placement,
    settings_of,
    write_placement,
)
from atts.engines.servers.plan import plan_servers
from atts.errors import ConfigError, ServerError
from atts.types import Author

DRAFT: tuple[Author, ...] = ("draft",)


def of(server: dict[str, Any] | None = None, **draft: Any) -> Config:  # noqa: ANN401
    options = {"engine": "vllm", "model": "tiny", "server": server or {}, **draft}
    return parse_config({"draft": options}, "a test")


def test_a_server_has_as_many_gpus_as_are_named() -> None:
    for server, has_gpus, gpus in (
        ({}, True, 1),
        ({"tensor_parallel": 4}, True, 4),
        ({"tensor_parallel": 2, "gpus": [4, 5, 6, 7]}, True, 4),
        ({"gpus": [0]}, False, 1),  # which may come yet
        ({}, False, 0),
    ):
        (plan,) = plan_placements(of(server), ("draft", "target"), True, has_gpus)
        assert (plan.author, plan.gpus) == ("draft", gpus)


@pytest.mark.parametrize(
    ("alone", "host", "key", "told"),
    [
        (True, "127.0.0.1", None, None),
        (False, "127.0.0.1", None, "set api_key_env"),
        (True, "0.0.0.0", None, "set api_key_env"),  # noqa: S104
        (False, "0.0.0.0", "A_KEY", None),  # noqa: S104
        (False, "127.0.0.1", "A_KEY", None),
        (False, "10.0.0.7", "A_KEY", "is one machine's address"),
    ],
)
def test_other_machines_are_let_in_only_with_a_key(
    alone: bool, host: str, key: str | None, told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "s3cret")
    config = of({"host": host}, api_key_env=key)
    if told:
        with pytest.raises(ConfigError, match=told):
            plan_placements(config, DRAFT, alone, True)
    else:
        (plan,) = plan_placements(config, DRAFT, alone, True)
        assert plan.key == ("s3cret" if key else None)
        assert "s3cret" not in repr(plan.options)


def test_all_that_stands_in_the_way_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MISSING", raising=False)
    server = {"gpus": [0], "tensor_parallel": 2, "environment": {"MISSING": None}}
    config = of(server, urls=["http://elsewhere:1"], api_key_env="MISSING")
    with pytest.raises(ConfigError) as caught:
        plan_placements(config, DRAFT, True, True)
    told = str(caught.value)
    assert "server.environment.MISSING has no value here" in told
    assert "leave draft.urls empty" in told
    assert "tensor_parallel is 2, but server.gpus has only 1" in told
    with pytest.raises(ConfigError, match="there is no server to start"):
        plan_placements(parse_config({}, "a test"), ("draft", "target"), True, True)


def test_variables_are_taken_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "v4lue")
    config = of({"environment": {"HERE": None, "GIVEN": "w"}})
    (plan,) = plan_placements(config, DRAFT, True, True)
    given = plan.options.server.environment
    assert {name: value and value.get_secret_value() for name, value in given.items()} == {
        "HERE": "v4lue",
        "GIVEN": "w",
    }


async def test_a_cluster_that_ends_with_the_command_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="that cluster ends with the command"):
        await up(of(), DRAFT, tmp_path, "local", lambda *_: None)


def test_one_machine_starts_one_server_of_a_model() -> None:
    with pytest.raises(ConfigError, match=r"server.replicas is 3, and only a cluster has room"):
        plan_servers(of({"replicas": 3}), DRAFT)


def placement(config: Config, cluster: str = "127.0.0.1:1") -> Placement:
    servers = (
        PlacedServer(name="a", node="n", url="http://10.0.0.1:40000"),
        PlacedServer(name="b", node="", url=""),
    )
    return Placement(
        author="draft",
        engine="vllm",
        model="tiny",
        settings=settings_of(config.draft),
        cluster=cluster,
        group="g",
        servers=servers,
    )


def test_runs_find_servers_of_their_own_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = of()
    assert placed_urls(config.draft) == ()
    write_placement(Path("runs/servers"), placement(config))
    assert placed_urls(config.draft) == ("http://10.0.0.1:40000",)
    assert located(config).draft.urls == ("http://10.0.0.1:40000",)
    assert located(config).target == config.target
    assert placed_urls(of({"memory_fraction": 0.5}).draft) == ()
    given = of(urls=["http://elsewhere:1"])
    assert located(given) == given


def test_a_cluster_that_is_gone_is_told(tmp_path: Path) -> None:
    write_placement(tmp_path, placement(of()))
    for job in (
        lambda: down(tmp_path),
        lambda: status(tmp_path, "draft"),
        lambda: logs(tmp_path, "draft", 1),
    ):
        with pytest.raises(ServerError, match=r"has ended, so have they: remove .*draft.cluster"):
            job()
    assert read_placement(tmp_path, "draft")


def test_a_corrupt_record_is_told(tmp_path: Path) -> None:
    path_of(tmp_path, "draft").write_text("{}")
    with pytest.raises(ServerError, match="is not what atts servers up --ray writes"):
        read_placement(tmp_path, "draft")
    path_of(tmp_path, "draft").unlink()
    path_of(tmp_path, "draft").mkdir()
    with pytest.raises(ServerError, match="cannot read"):
        read_placement(tmp_path, "draft")
