"""Which runs a comparison lacks, and how they are made."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from killed_run import make_models

from atts.config import Config
from atts.errors import ConfigError, EngineError, ProblemError, StoreError
from atts.grading.grader import Grader
from atts.methods.chain import Models
from atts.runs import candidates as module
from atts.runs.candidates import Candidate, named_runs, parse_candidates, prepare, run_missing
from atts.runs.observer import SilentObserver


class World:
    """Where models come from, and which were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[str] = []
        self.broken: str | None = None
        monkeypatch.setattr(module, "open_models", self.open_models)

    @asynccontextmanager
    async def open_models(self, config: Config) -> AsyncIterator[Models]:
        if config.method == self.broken:
            raise EngineError("no server there")
        self.opened.append(config.method)
        yield make_models(0.0)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    for name in "ph":
        lines = [
            json.dumps({"id": f"{name}{i}", "question": f"{i}?", "answer": "4"}) for i in range(3)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "my.yaml").write_text(
        f"""
problems: {{source: {tmp_path}/p.jsonl, count: null}}
calibration: {{problems: {{source: {tmp_path}/h.jsonl, count: null}}, samples: 2}}
samples: 2
turns: {{max_turns: 4, draft_tokens: 9, target_tokens: 9}}
take_over: {{control: split}}
"""
    )
    return tmp_path / "my.yaml"


def ignore(_: str) -> None:
    """Says nothing."""


def candidates(file: Path, *texts: str) -> list[Candidate]:
    return parse_candidates(texts, file, ["seed=5"], file.parent / "runs")


async def make(file: Path, *texts: str) -> tuple[list[str], list[str]]:
    """The names of the runs that were missing, and of those that could not be made."""
    folder = file.parent / "runs"
    plan = prepare(candidates(file, *texts), folder)
    with Grader() as grader:
        failed = await run_missing(plan, grader, lambda _: SilentObserver(), ignore)
    return list(plan.missing), failed


def test_a_method_and_its_settings(file: Path) -> None:
    plain, changed = candidates(
        file, "atts", "atts:take_over.rate=0.2,problems.count=2,prompt.system=a, b"
    )
    assert plain.config
    assert changed.config
    assert (plain.config.seed, plain.config.samples, plain.config.take_over.rate) == (5, 2, 0.4)
    assert changed.config.take_over.rate == 0.2
    assert changed.config.problems.count == 2
    assert changed.config.prompt.system == "a, b"
    # The folder is the one that atts run takes.
    assert plain.directory == file.parent / "runs" / f"atts-{plain.config.digest()}"


@pytest.mark.parametrize("text", ["attts", "attts:seed=1", "nowhere/run", "atts:seed", "atts:x=1"])
def test_what_is_neither_a_method_nor_a_directory_is_refused(file: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        candidates(file, text)


def test_directories_are_named_after_their_folders(file: Path) -> None:
    folders = [file.parent / name for name in ("x/one", "x/two", "y/one", "y/atts")]
    for folder in folders:
        folder.mkdir(parents=True)
    one, two, again, atts = map(str, folders)
    assert [c.name for c in candidates(file, "atts", one, two, two)] == ["atts", "one", "two"]
    assert [c.name for c in candidates(file, one, again)] == [one, again]
    assert [c.name for c in candidates(file, "atts", atts)] == ["atts", atts]


async def test_what_is_missing_is_made_and_the_rest_is_used(file: Path, world: World) -> None:
    assert await make(file, "target-only", "atts") == (["target-only", "atts"], [])
    assert world.opened == ["target-only", "atts"]
    texts = ("draft-only", "atts", "target-only")
    assert await make(file, *texts) == (["draft-only"], [])
    assert world.opened == ["target-only", "atts", "draft-only"]
    # Run directories are taken as they stand.
    folder = file.parent / "runs"
    directories = sorted(str(path) for path in folder.iterdir() if path.name[0] in "dt")
    found = candidates(file, *directories)
    plan = prepare(found, folder)
    assert plan.missing == {}
    assert [named.run.config.method for named in named_runs(found, plan)] == [
        "draft-only",
        "target-only",
    ]


async def test_a_run_that_cannot_be_made_does_not_keep_the_others(file: Path, world: World) -> None:
    world.broken = "draft-only"
    missing, failed = await make(file, "draft-only", "target-only")
    assert (missing, failed) == (["draft-only", "target-only"], ["draft-only"])
    assert world.opened == ["target-only"]


@pytest.mark.parametrize(
    ("texts", "error", "says"),
    [
        (["atts", "atts:seed=5"], ConfigError, "atts and atts:seed=5 are both"),
        (["atts", "atts:problems.source=nowhere.jsonl"], ProblemError, "nowhere.jsonl"),
        (["atts:calibration.problems.source=nowhere.jsonl"], ProblemError, "nowhere.jsonl"),
        (["atts", "atts:problems.source=arithmetic"], ConfigError, "share no problem"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_done(
    file: Path, world: World, texts: list[str], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        prepare(candidates(file, *texts), file.parent / "runs")
    assert world.opened == []


def test_a_directory_without_a_run_is_refused(file: Path) -> None:
    with pytest.raises(StoreError, match="not a run directory"):
        prepare(candidates(file, str(file.parent)), file.parent / "runs")
