"""``atts run --shard`` and ``atts merge``: what is called, printed and returned."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from killed_run import make_models
from typer.testing import Result

from atts.runs import jobs, setup
from atts.store.run_directory import read_run

Invoke = Callable[..., Result]
SETTINGS = ("--set", "problems.source=p.jsonl", "--set", "problems.count=null")


@pytest.fixture
def sharded(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """``atts`` on scripted models, in a folder with 5 problems."""

    class Opened:
        def __init__(self, *_: object) -> None:
            pass

        async def __aenter__(self) -> object:
            return make_models(0.0)

        async def __aexit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(setup, "open_models", Opened)
    lines = [{"id": f"p{n}", "question": f"{n} + {n}?", "answer": "4"} for n in range(5)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = (*SETTINGS, "--set", "method=draft-only", "--set", "samples=2")

    def call(command: str, *arguments: object) -> Result:
        return invoke(command, *(settings if command == "run" else ()), *arguments)

    return call


def test_shards_are_made_in_folders_of_their_own_and_merged(
    sharded: Invoke, tmp_path: Path
) -> None:
    for number in (1, 2):
        result = sharded("run", "--shard", f"{number}/2")
        assert result.exit_code == 0, result.output
    shards = sorted((tmp_path / "runs").iterdir())
    assert [path.name.partition("-shard-")[2] for path in shards] == ["1-of-2", "2-of-2"]

    result = sharded("merge", "runs")
    assert result.exit_code == 0, result.output
    whole = tmp_path / "runs" / shards[0].name.partition("-shard-")[0]
    assert f"Wrote 10 chains of 2 shards to runs/{whole.name}" in result.stderr
    assert "5 x 2" in result.stdout
    assert len(read_run(whole).chains) == 10
    # It is the folder in which atts run looks for the run itself.
    again = sharded("run")
    assert f"Everything is in runs/{whole.name}" in again.stderr
    assert len((whole / "chains.jsonl").read_bytes().splitlines()) == 10


def test_what_is_missing_is_named(sharded: Invoke, tmp_path: Path) -> None:
    sharded("run", "--shard", "3/3", "--out", "three")
    sharded("run", "--shard", "1/3", "--out", "one")
    (tmp_path / "one" / "chains.jsonl").write_bytes(b"")
    result = sharded("merge", "one", "three", "--to", "whole")
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert "Shard 2/3 is missing: 4 chains of 2 problems" in said
    assert "Shard 1/3 (one) lacks 4 chains: p0 0, p0 1, p3 0 and 1 more" in said
    assert "atts run --config whole/config.yaml --out whole" in said
    assert sharded("run", "--out", "whole").exit_code == 0
    assert len(read_run(tmp_path / "whole").chains) == 10


@pytest.mark.parametrize("share", ["0/3", "4/3", "one", "2/6"])
def test_a_share_that_cannot_be_is_wrong_use(sharded: Invoke, tmp_path: Path, share: str) -> None:
    result = sharded("run", "--shard", share)
    assert result.exit_code == 2
    assert "Error: --shard" in result.stderr
    assert not (tmp_path / "runs").exists()


def test_going_on_keeps_the_share(sharded: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "run", stopped)
    result = sharded("run", "--shard", "1/2", "--out", "one")
    assert result.exit_code == 130
    assert "--shard 1/2" in " ".join(result.stderr.split())
