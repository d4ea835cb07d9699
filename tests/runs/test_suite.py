"""Suites: the matrix, one failing entry, and going on."""

import socket
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from fakes import FakeEngine, byte_tokenizer

from atts.config import Config, ModelOptions, load_config
from atts.engines.servers import lifecycle, processes
from atts.engines.servers.lifecycle import FOLDER
from atts.engines.servers.placed import DEFAULT, with_urls
from atts.errors import (
    AttsError,
    ConfigError,
    EngineConnectionError,
    EngineGoneError,
    ServerError,
    StoreError,
)
from atts.files import to_jsonl
from atts.grading.grader import Grader
from atts.methods.chain import Model, Models
from atts.runs import jobs, suite
from atts.runs.observer import SilentObserver
from atts.runs.suite import load_suite, run_suite
from atts.store.run_directory import lock_run, read_run
from atts.types import Author, Problem

CONFIGS = Path(__file__).parents[2] / "configs"


class World:
    """Models and servers as the suite sees them, and what it did with them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.happened: list[str] = []
        self.broken: str | None = None
        self.engines: list[FakeEngine] = []
        monkeypatch.setattr(suite, "open_models", self.open_models)
        monkeypatch.setattr(suite, "answers", self.answers)
        monkeypatch.setattr(suite, "up", self.up)
        monkeypatch.setattr(suite, "warm_up", self.warm_up)
        monkeypatch.setattr(suite, "down", self.down)

    @asynccontextmanager
    async def open_models(self, _: Config, authors: Collection[Author]) -> AsyncIterator[Models]:
        def engine() -> FakeEngine:
            self.engines.append(FakeEngine(write=lambda _: "\\boxed{4}"))
            return self.engines[-1]

        yield {author: Model(engine(), byte_tokenizer()) for author in authors}

    async def answers(self, *_: object) -> bool:
        return False

    async def up(
        self, config: Config, authors: Collection[Author], *_: object, go_on: bool
    ) -> None:
        assert go_on
        if config.draft.model == self.broken:
            raise ServerError("out of memory")
        self.happened.append(f"up {config.draft.model} {'+'.join(authors)}")

    async def warm_up(self, options: ModelOptions, chains: int) -> float:
        self.happened.append(f"warm {options.model} for {chains}")
        return 1.0

    def down(
        self, folder: Path, authors: Collection[Author] = ("draft", "target"), tell: object = None
    ) -> None:
        del tell
        self.happened.append(f"down {folder.parent.name} {'+'.join(authors)}")

    @property
    def requests(self) -> int:
        return sum(len(engine.generated) for engine in self.engines)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    for name in ("a", "b", "calibration"):
        problems = [Problem(id=f"{name}{i}", question=f"2 + {i}?", answer="4") for i in range(3)]
        (tmp_path / f"{name}.jsonl").write_text(to_jsonl(problems))
    served = {"engine": "vllm"}
    (tmp_path / "two.yaml").write_text(
        yaml.safe_dump({"draft": served | {"model": "two"}, "target": served})
    )

    def problems_of(name: str) -> dict[str, Any]:
        return {"problems": {"source": str(tmp_path / f"{name}.jsonl"), "count": None}}

    tree = {
        "base": {
            "samples": 2,
            "take_over": {"control": "split"},
            "calibration": {**problems_of("calibration"), "samples": 2},
        },
        "pairs": {"one": {"draft": served | {"model": "one"}, "target": served}, "two": "two.yaml"},
        "problems": {"a": problems_of("a"), "b": problems_of("b")},
        "methods": ["target-only", "atts"],
        "coverages": ["marginal", "conditional"],
    }
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def ignore(_: str) -> None:
    """Says nothing."""


async def run(file: Path, out: Path) -> list[tuple[str, str]]:
    outcomes = await run_suite(load_suite(file), out, ignore, lambda _: SilentObserver())
    return [(f"{o.entry.pair}/{o.entry.name}", o.status) for o in outcomes]


NAMES = [
    f"{pair}/{problems}/{run}"
    for pair in ("one", "two")
    for problems in ("a", "b")
    for run in ("target-only", "atts-marginal", "atts-conditional")
]


async def test_the_matrix_is_run_pair_by_pair_with_servers_up_meanwhile(
    file: Path, tmp_path: Path, world: World
) -> None:
    assert await run(file, tmp_path / "out") == [(name, "done") for name in NAMES]
    assert world.happened == [
        "up one draft+target",
        "warm one for 128",
        "warm bundled/target for 128",
        "down one draft+target",
        "up two draft+target",
        "warm two for 128",
        "warm bundled/target for 128",
        "down two draft+target",
    ]
    recorded = read_run(tmp_path / "out/one/b/atts-conditional")
    assert recorded.config.take_over.coverage == "conditional"
    assert len(recorded.chains) == 6
    # One marginal calibration serves both problem sets, a conditional one is of its problems.
    made = sorted(path.name[:15] for path in (tmp_path / "out/one").glob("calibration-*"))
    assert made == ["calibration-con", "calibration-con", "calibration-mar"]


class Elsewhere:
    """Servers on other machines."""

    def __init__(self) -> None:
        self.happened: list[str] = []

    async def up(
        self, pair: str, config: Config, authors: Sequence[Author], folder: Path, _say: object
    ) -> Config:
        self.happened.append(f"up {pair} {'+'.join(authors)} {folder.name}")
        return with_urls(config, {"draft": (f"http://{pair}:1",)})

    def down(self, folder: Path, say: object = None) -> None:
        del say
        self.happened.append(f"down {folder.parent.name}")


async def test_servers_may_be_elsewhere(file: Path, tmp_path: Path, world: World) -> None:
    elsewhere = Elsewhere()
    outcomes = await run_suite(
        load_suite(file),
        tmp_path / "out",
        ignore,
        lambda _: SilentObserver(),
        servers=elsewhere,
    )
    assert {outcome.status for outcome in outcomes} == {"done"}
    assert world.happened == []
    assert elsewhere.happened == [
        "up one draft+target servers",
        "down one",
        "up two draft+target servers",
        "down two",
    ]
    assert read_run(tmp_path / "out/two/b/atts-marginal").config.draft.urls == ("http://two:1",)
    assert await run(file, tmp_path / "out") == [(name, "done before") for name in NAMES]


async def test_what_is_done_is_not_done_again(file: Path, tmp_path: Path, world: World) -> None:
    await run(file, tmp_path / "out")
    before, happened = world.requests, list(world.happened)
    assert await run(file, tmp_path / "out") == [(name, "done before") for name in NAMES]
    assert (world.requests, world.happened) == (before, happened)
    # An entry that lost its last chains is gone on with.
    chains = tmp_path / "out/two/b/atts-marginal/chains.jsonl"
    chains.write_text("".join(chains.read_text().splitlines(keepends=True)[:4]))
    statuses = dict(await run(file, tmp_path / "out"))
    assert statuses.pop("two/b/atts-marginal") == "done"
    assert set(statuses.values()) == {"done before"}
    # A chain here takes a request of the draft, perhaps one more of the target.
    assert before < world.requests <= before + 2 * 2


async def test_a_failing_entry_is_reported_and_the_others_go_on(
    file: Path, tmp_path: Path, world: World
) -> None:
    (tmp_path / "a.jsonl").write_text("not a problem\n")
    statuses = dict(await run(file, tmp_path / "out"))
    assert [name for name, status in statuses.items() if status == "failed"] == [
        name for name in NAMES if "/a/" in name
    ]
    assert {status for name, status in statuses.items() if "/b/" in name} == {"done"}
    assert world.happened[-1] == "down two draft+target"


async def test_a_corrupt_entry_is_reported_and_the_others_go_on(
    file: Path, tmp_path: Path, world: World
) -> None:
    await run(file, tmp_path / "out")
    (tmp_path / "out/one/a/target-only/config.yaml").write_text("{")
    (tmp_path / "out/two/b/atts-marginal/chains.jsonl").write_text("no chain\n" * 3)
    happened = list(world.happened)
    statuses = dict(await run(file, tmp_path / "out"))
    corrupt = {"one/a/target-only", "two/b/atts-marginal"}
    assert {name for name, status in statuses.items() if status == "failed"} == corrupt
    assert {statuses[name] for name in NAMES if name not in corrupt} == {"done before"}
    assert world.happened == happened, "no server is started for what cannot be done"


async def test_answers_are_compared_by_one_grader(
    file: Path, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    del world
    made = []
    begin = Grader.__init__

    def counted(self: Grader, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        made.append(self)
        begin(self, *arguments, **options)

    monkeypatch.setattr(Grader, "__init__", counted)
    await run(file, tmp_path / "out")
    await run(file, tmp_path / "out")
    assert len(made) == 2


async def test_a_pair_whose_servers_do_not_start_fails_alone(
    file: Path, tmp_path: Path, world: World
) -> None:
    world.broken = "one"
    outcomes = await run_suite(
        load_suite(file), tmp_path / "out", ignore, lambda _: SilentObserver()
    )
    assert [o.status for o in outcomes] == ["failed"] * 6 + ["done"] * 6
    assert outcomes[0].error == "out of memory"


@pytest.mark.parametrize("error", [EngineConnectionError, ConfigError])
async def test_servers_that_cannot_be_warmed_are_told_and_the_entries_try(
    file: Path,
    tmp_path: Path,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    error: type[AttsError],
) -> None:
    del world

    async def warm_up(*_: object) -> float:
        raise error("the connection broke")

    monkeypatch.setattr(suite, "warm_up", warm_up)
    said: list[str] = []
    outcomes = await run_suite(load_suite(file), tmp_path, said.append, lambda _: SilentObserver())
    assert {outcome.status for outcome in outcomes} == {"done"}
    assert "one: the draft's servers could not be warmed: the connection broke" in said


@pytest.fixture
def served(file: Path, tmp_path: Path) -> Path:
    """The suite, whose servers are stand-ins that can be started."""
    stand_in = Path(__file__).parents[1] / "engines" / "servers" / "stand_in_server.py"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{stand_in}" "$@"\n')
    python.chmod(0o700)
    tree = yaml.safe_load(file.read_text())
    with ExitStack() as ports:
        for name in ("one", "two"):
            pair = {}
            for author in ("draft", "target"):
                probe = ports.enter_context(socket.socket())
                probe.bind(("127.0.0.1", 0))
                server = {"executable": str(python), "port": probe.getsockname()[1]}
                pair[author] = {"engine": "vllm", "server": server}
            tree["pairs"][name] = pair
    file.write_text(yaml.safe_dump(tree))
    return file


async def start_servers(file: Path, out: Path, pair: str) -> list[int]:
    """As a start of the suite that was killed has left them."""
    config = next(entry.config for entry in load_suite(file) if entry.pair == pair)
    records = await lifecycle.up(
        config, ("draft", "target"), out / pair / "servers", lambda *_: None
    )
    return [record.pid for record in records]


def alive(pids: list[int]) -> list[int]:
    return [
        pid
        for pid in pids
        if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    ]


@pytest.fixture
def real_servers(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    for name in ("answers", "up", "down"):
        monkeypatch.setattr(suite, name, getattr(lifecycle, name))
    monkeypatch.setattr(processes, "CHILD_SECONDS", 0.3)
    return world


async def test_a_suite_that_is_started_again_owns_the_servers_that_it_has_left(
    served: Path, tmp_path: Path, real_servers: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    left = await start_servers(served, out, "two")
    left += await start_servers(served, out, "one")
    begun: list[list[int]] = []
    opened = real_servers.open_models

    @asynccontextmanager
    async def open_models(config: Config, authors: Collection[Author]) -> AsyncIterator[Models]:
        begun.append(alive(left))
        async with opened(config, authors) as models:
            yield models

    monkeypatch.setattr(suite, "open_models", open_models)
    assert await run(served, out) == [(name, "done") for name in NAMES]
    # The first pair goes on with its own, in whose way those of the second would be.
    assert begun == [left[2:], []]
    assert alive(left) == []
    assert not list(out.rglob("servers/*.json"))


async def test_servers_that_a_suite_has_left_after_its_last_chain_are_ended(
    served: Path, tmp_path: Path, real_servers: World
) -> None:
    del real_servers
    out = tmp_path / "out"
    await run(served, out)
    left = await start_servers(served, out, "one")
    assert await run(served, out) == [(name, "done before") for name in NAMES]
    assert alive(left) == []


async def test_two_starts_of_a_suite_do_not_end_each_others_servers(
    file: Path, tmp_path: Path, world: World
) -> None:
    lock = lock_run(tmp_path / "out")
    with pytest.raises(StoreError, match="another process"):
        await run(file, tmp_path / "out")
    assert world.happened == []
    lock.release()


async def test_a_pair_whose_server_is_gone_is_not_waited_for_again(
    file: Path, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other entries of the pair need the same server; those of the next pair do not."""
    asked = 0

    def gone(_: str) -> str:
        nonlocal asked
        asked += 1
        raise EngineGoneError("waited in vain")

    @asynccontextmanager
    async def open_models(config: Config, authors: Collection[Author]) -> AsyncIterator[Models]:
        async with world.open_models(config, authors) as models:
            if config.draft.model == "one":
                models["target"] = Model(FakeEngine(write=gone), byte_tokenizer())
            yield models

    monkeypatch.setattr(suite, "open_models", open_models)
    assert [status for _, status in await run(file, tmp_path / "out")] == [
        *["failed"] * 6,
        *["done"] * 6,
    ]
    assert asked == 6  # by the chains of the first entry, which began together


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"pairs": {}, "problems": {"a": {}}}, "pairs"),
        ({"pairs": {"one": {}}, "problems": {"a": {}}, "metods": []}, "metods"),
        ({"pairs": {"one": {"draft": {"modell": "x"}}}, "problems": {"a": {}}}, "draft.modell"),
        ({"pairs": {"one": "nowhere.yaml"}, "problems": {"a": {}}}, "nowhere.yaml"),
        ([], "must hold keys and values"),
    ],
)
def test_a_wrong_suite_is_refused_before_anything_is_done(
    tree: object, says: str, tmp_path: Path
) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match=says):
        load_suite(path)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_the_ready_files_are_right(path: Path) -> None:
    if not path.name.startswith("suite"):
        config = load_config(path)
        assert {config.draft.engine, config.target.engine} == {"sglang"}
        assert config.draft.server.port != config.target.server.port
        for options in (config.draft, config.target):
            assert options.server.tensor_parallel == len(options.server.gpus)
        if not config.draft.urls:  # else it is on another machine
            assert not set(config.draft.server.gpus) & set(config.target.server.gpus)
        return
    entries = load_suite(path)
    # Five pairs, four problem sets, two methods of one model and atts by two coverages.
    assert len({(entry.pair, entry.name) for entry in entries}) == 5 * 4 * (2 + 2)
    engine = path.stem.removeprefix("suite-")
    assert {entry.config.draft.engine for entry in entries} == {engine}
    assert {entry.config.target.engine for entry in entries} == {engine}


async def test_a_suite_empties_the_caches_of_its_own_servers_and_of_those_started_here(
    file: Path, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[tuple[Path, ...]] = set()

    async def empty_caches(
        _: Config, models: Models, authors: object, folders: tuple[Path, ...]
    ) -> dict[Author, bool]:
        del models, authors
        asked.add(folders)
        return {}

    monkeypatch.setattr(jobs, "empty_caches", empty_caches)
    await run(file, tmp_path)
    assert world.happened
    assert asked == {(tmp_path / pair / FOLDER, DEFAULT) for pair in ("one", "two")}
