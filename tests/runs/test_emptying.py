"""Whose caches are emptied before a run."""

from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from fakes import FakeEngine, byte_tokenizer

from atts.config import Config, ModelOptions, parse_config
from atts.engines.servers.placed import (
    DEFAULT,
    PlacedServer,
    Placement,
    settings_of,
    write_placement,
)
from atts.methods.chain import Model, Models
from atts.runs import emptying
from atts.runs.emptying import empty_caches
from atts.types import Author

SERVED = {"draft": {"engine": "sglang"}, "target": {"engine": "vllm"}}
ALL: tuple[Author, ...] = ("draft", "target")


class Forgetful(FakeEngine):
    def __init__(self) -> None:
        super().__init__()
        self.forgot = 0

    async def empty_cache(self) -> bool:
        self.forgot += 1
        return True


def models() -> Models:
    return {author: Model(Forgetful(), byte_tokenizer()) for author in ALL}


def started(*which: tuple[Author, Path]) -> Callable[[ModelOptions, Author, Path], bool]:
    return lambda _, author, folder: (author, folder) in which


async def test_ours_are_emptied_and_the_servers_of_others_are_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = parse_config(SERVED, "a test")
    folders = (tmp_path, DEFAULT)
    assert await empty_caches(config, models(), ALL, folders) == {}
    monkeypatch.setattr(emptying, "started_here", started(("target", DEFAULT)))
    assert await empty_caches(config, models(), ALL, folders) == {"target": True}
    assert await empty_caches(config, models(), ("draft",), folders) == {}
    assert await empty_caches(config, models(), ALL, ()) == {}


async def test_all_are_emptied_where_that_is_asked_for() -> None:
    config = parse_config(SERVED | {"limits": {"empty_caches": True}}, "a test")
    found = models()
    assert await empty_caches(config, found, ALL, ()) == {"draft": True, "target": True}
    assert [getattr(model.engine, "forgot", None) for model in found.values()] == [1, 1]


async def test_a_model_in_this_process_is_never_taken_for_a_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(emptying, "started_here", lambda *_: True)
    assert await empty_caches(Config(), models(), ALL, (DEFAULT,)) == {}
    asked = parse_config({"limits": {"empty_caches": True}}, "a test")
    assert await empty_caches(asked, None, ALL, ()) == {"draft": False, "target": False}


async def test_a_record_that_cannot_be_read_empties_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "target.json").write_text("{}")
    config = parse_config(SERVED, "a test")
    assert await empty_caches(config, models(), ALL, (tmp_path,)) == {}
    assert "target.json is not what atts servers up writes" in caplog.text


async def test_servers_of_models_that_are_elsewhere_are_told_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were placed on a cluster from this folder are ours."""
    monkeypatch.chdir(tmp_path)
    flushed = []

    async def flush(request: web.Request) -> web.Response:
        flushed.append(request.path)
        return web.Response()

    app = web.Application()
    app.router.add_get("/flush_cache", flush)
    config = parse_config(SERVED, "a test")
    async with TestServer(app) as one, TestServer(app) as other:
        servers = [
            PlacedServer(name=f"s{i}", node="n", url=str(server.make_url("")).rstrip("/"))
            for i, server in enumerate((one, other))
        ]
        placement = Placement(
            author="draft",
            engine="sglang",
            model=config.draft.model,
            settings=settings_of(config.draft),
            cluster="c",
            group="g",
            servers=tuple(servers),
        )
        DEFAULT.mkdir(parents=True)
        write_placement(DEFAULT, placement)
        assert await empty_caches(config, None, ALL, (DEFAULT,)) == {"draft": True}
        assert flushed == ["/flush_cache"] * 2
        # A suite's stand in its own folder, and its runs are told their addresses.
        write_placement(tmp_path / "suite", placement)
        DEFAULT.joinpath("draft.cluster.json").unlink()
        told = config.draft.model_copy(update={"urls": tuple(each.url for each in servers)})
        config = config.model_copy(update={"draft": told})
        assert await empty_caches(config, None, ALL, (tmp_path / "suite",)) == {"draft": True}
        assert await empty_caches(config, None, ALL, (DEFAULT,)) == {}
    assert flushed == ["/flush_cache"] * 4
