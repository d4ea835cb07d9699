"""What was answered, as run directories that reports read."""

import asyncio
import os
from pathlib import Path

import pytest
from gateway.conftest import TEXT, GatedEngine, Start, until

from atts.analysis.report import read_report
from atts.config import Config
from atts.errors import StoreError
from atts.gateway import recording
from atts.grading.grader import Grader
from atts.store.growing_run import GrowingRun
from atts.store.run_directory import RecordedRun, read_run
from atts.types import Chain, Problem


def runs(tmp_path: Path) -> list[RecordedRun]:
    folders = [path for path in (tmp_path / "serve").iterdir() if path.is_dir()]
    return [read_run(folder) for folder in sorted(folders)]


async def test_nothing_is_written_down_unless_asked(start: Start, tmp_path: Path) -> None:
    async with start() as running:
        await running.chat()
    assert runs(tmp_path) == []


async def test_questions_of_one_kind_are_one_run(start: Start, tmp_path: Path) -> None:
    async with start(record=True) as running:
        first = (await running.chat(n=2)).json()
        second = (await running.chat(n=2, seed=7)).json()
        await running.chat(model="target-only")
    by_method = {run.config.method: run for run in runs(tmp_path)}
    run = by_method["atts"]
    assert [problem.id for problem in run.problems] == [first["id"], second["id"]]
    assert [problem.messages[-1].content for problem in run.problems] == ["What is 17 + 25?"] * 2
    assert [chain.text for chain in run.chains] == [TEXT] * 4
    assert run.config.samples == 2
    assert len(by_method["target-only"].chains) == 1


async def test_a_report_reads_it_at_any_time(start: Start, tmp_path: Path) -> None:
    async with start(record=True) as running:
        await running.chat(n=2)
        (folder,) = (path for path in (tmp_path / "serve").iterdir() if path.is_dir())
        with Grader() as grader:
            report = read_report("served", folder, grader)
    assert report.summary.chains == report.summary.expected_chains == 2
    assert report.environments


async def test_a_restarted_server_goes_on_with_it(start: Start, tmp_path: Path) -> None:
    for _ in range(2):
        async with start(record=True) as running:
            await running.chat()
    (run,) = runs(tmp_path)
    assert len(run.chains) == 2


async def test_of_a_client_that_leaves_what_had_ended_is_kept(start: Start, tmp_path: Path) -> None:
    draft = GatedEngine()
    async with start(draft=draft, record=True, on_socket=True) as running:
        leaving = asyncio.create_task(running.chat(model="draft-only", n=2))
        await until(lambda: draft.in_flight == 2)
        draft.let.release()
        await until(lambda: running.solver.open_chains == 1)
        leaving.cancel()
        await asyncio.wait([leaving])
        await until(lambda: not running.solver.open_chains)
    (run,) = runs(tmp_path)
    assert [chain.text for chain in run.chains] == [TEXT]


async def test_a_disk_that_is_full_keeps_no_answer_back(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise StoreError("cannot write: no space left")

    monkeypatch.setattr(GrowingRun, "add", full)
    async with start(record=True) as running:
        response = await running.chat()
    assert response.status_code == 200
    assert "no space left" in caplog.text


async def test_few_directories_are_held_open(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "MOST_OPEN", 1)
    async with start(record=True) as running:
        for temperature in (0.5, 0.6, 0.5):
            await running.chat(temperature=temperature)
    assert sorted(len(run.chains) for run in runs(tmp_path)) == [1, 2]


def chain(name: str) -> Chain:
    return Chain(
        problem_id=name, sample=0, end="stop", answer=None, turns=(), started=0.0, done=1.0
    )


def add(run: GrowingRun, name: str) -> None:
    run.add(Problem(id=name, question="1 + 1?"), [chain(name)])


def test_torn_lines_of_a_killed_process_are_cut_off(tmp_path: Path) -> None:
    with GrowingRun(tmp_path, Config(), None) as run:
        add(run, "a")
    for name in ("problems.jsonl", "chains.jsonl"):
        with (tmp_path / name).open("ab") as file:
            file.write(b'{"id": "torn' + b"x" * 2**21)
    with GrowingRun(tmp_path, Config(), None) as run:
        add(run, "b")
    found = read_run(tmp_path)
    assert [problem.id for problem in found.problems] == ["a", "b"]
    assert [each.problem_id for each in found.chains] == ["a", "b"]


def test_a_run_of_another_configuration_is_left_alone(tmp_path: Path) -> None:
    GrowingRun(tmp_path, Config(), None).close()
    with pytest.raises(StoreError, match="another configuration"):
        GrowingRun(tmp_path, Config(samples=3), None)
    GrowingRun(tmp_path, Config(), None).close()  # and the lock was let go


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def half(file: int, data: bytes) -> int:
        if b'"b"' not in data:
            return write(file, data)
        write(file, data[:5])
        raise OSError(28, "No space left on device")

    with GrowingRun(tmp_path, Config(), None) as run:
        add(run, "a")
        monkeypatch.setattr(os, "write", half)
        with pytest.raises(StoreError, match="No space left"):
            add(run, "b")
        monkeypatch.undo()
        add(run, "c")
    assert [problem.id for problem in read_run(tmp_path).problems] == ["a", "c"]
