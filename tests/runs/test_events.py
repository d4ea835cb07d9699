"""What hooks of other packages are told of a run."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from killed_run import make_config, make_models

from atts.config import Config
from atts.errors import StoreError
from atts.runs import events, jobs
from atts.runs.events import Event
from atts.runs.observer import SilentObserver
from atts.store.run_directory import read_run


class Entry:
    """What ``importlib.metadata`` gives of a package's entry point."""

    def __init__(self, name: str, load: Callable[[], object]) -> None:
        self.name, self.value, self.load = name, f"package:{name}", load


class Watch(SilentObserver):
    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def warned(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / "problems.jsonl"
    rows = [{"id": f"p{i}", "question": f"{i}+{i}?", "answer": "4"} for i in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"control": "online", "calibration": None}
    made = make_config(path, tmp_path / "none.json")
    return made.model_copy(
        update={"samples": 2, "take_over": made.take_over.model_copy(update=settings)}
    )


def install(monkeypatch: pytest.MonkeyPatch, **hooks: Callable[[], object]) -> None:
    entries = [Entry(name, load) for name, load in hooks.items()]
    monkeypatch.setattr(events, "entry_points", lambda group: entries if group else [])


async def test_a_hook_is_told_of_every_chain_in_order_and_of_the_end(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Event] = []
    threads = set()

    def hook(event: Event) -> None:
        told.append(event)
        threads.add(threading.current_thread())

    install(monkeypatch, mine=lambda: hook)
    summary = await jobs.run(config, make_models(0.0), tmp_path / "run")
    assert [event.kind for event in told] == ["begun", *["chain"] * 6, "ended"]
    assert [event.done for event in told] == [0, 1, 2, 3, 4, 5, 6, 6]
    assert {(event.run, event.total) for event in told} == {(tmp_path / "run", 6)}
    in_the_file = read_run(tmp_path / "run").chains
    assert [event.chain for event in told[1:-1]] == list(in_the_file)
    assert told[-1].summary == summary
    assert threads != {threading.main_thread()}
    told.clear()
    await jobs.run(config, make_models(0.0), tmp_path / "run")
    assert [(event.kind, event.done) for event in told] == [("begun", 6), ("ended", 6)]


async def test_hooks_that_fail_are_left_and_the_run_goes_on(
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kinds: list[str] = []

    def fails(event: Event) -> None:
        raise RuntimeError(f"no network at {event.done}")

    def good(event: Event) -> None:
        kinds.append(event.kind)

    install(monkeypatch, bad=lambda: fails, broken=lambda: 1 / 0, good=lambda: good)
    watch = Watch()
    summary = await jobs.run(config, make_models(0.0), tmp_path / "run", watch)
    assert summary.chains == 6
    assert kinds == ["begun", *["chain"] * 6, "ended"]
    expected = "the atts.events hook bad = package:bad is told no more of this run: RuntimeError"
    assert [expected in warning for warning in watch.warnings] == [True]
    assert "broken = package:broken cannot be loaded: ZeroDivisionError" in caplog.text


async def test_a_hook_that_hangs_is_left_at_the_end(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "END_SECONDS", 0.05)
    release = threading.Event()
    install(monkeypatch, slow=lambda: lambda _: release.wait(30))
    watch = Watch()
    summary = await jobs.run(config, make_models(0.0), tmp_path / "run", watch)
    release.set()
    assert summary.chains == 6
    assert any("slow = package:slow has not taken all events" in w for w in watch.warnings)


async def test_a_run_that_breaks_off_ends_without_a_summary(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Event] = []
    install(monkeypatch, mine=lambda: told.append)

    def full(*_: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr("atts.store.run_directory.RunStore.append", full)
    with pytest.raises(StoreError):
        await jobs.run(config, make_models(0.0), tmp_path / "run")
    assert [event.kind for event in told] == ["begun", "ended"]
    assert told[-1].summary is None
