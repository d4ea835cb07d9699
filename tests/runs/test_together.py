"""Runs of a method whose chains wait for each other: no deadlock, and nothing lost on resuming."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from killed_run import make_config, make_models

from atts.analysis.summary import Summary
from atts.config import Config
from atts.errors import ConfigError, EngineError
from atts.methods.chain import Models, OpenChain
from atts.runs import jobs, setup
from atts.store.contents import CHAINS
from atts.store.run_directory import read_run
from atts.types import Chain


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """6 problems x 4 chains, in a pool that holds the chains of one problem and one more."""
    problems = tmp_path / "problems.jsonl"
    lines = [json.dumps({"id": f"p{i}", "question": f"{i}?", "answer": "4"}) for i in range(6)]
    problems.write_text("\n".join(lines) + "\n")
    config = make_config(problems, tmp_path / "none.json")
    return config.model_copy(
        update={
            "method": "sync-ranking",
            "limits": config.limits.model_copy(update={"chains": 5}),
        }
    )


def what_matters(chains: Iterable[Chain]) -> Sequence[object]:
    return sorted(
        (c.key, c.end, c.text, [(t.decision.p_value, t.decision.take_over) for t in c.turns])  # type: ignore[union-attr]
        for c in chains
    )


async def run(config: Config, models: Models, directory: Path, retry: bool = False) -> Summary:
    return await asyncio.wait_for(jobs.run(config, models, directory, None, retry), 60)


async def test_the_take_over_rate_is_the_nominal_one(config: Config, tmp_path: Path) -> None:
    summary = await run(config, make_models(0.0), tmp_path / "run")
    assert summary.chains == 24
    assert summary.take_over
    # Each of the 6 problems is off by less than one take-over.
    decisions = summary.take_over.decisions
    assert abs(summary.take_over.realised.estimate - 0.4) * decisions < 6
    assert summary.drift is None


@pytest.mark.parametrize("kept", [1, 6, 11, 23])
@pytest.mark.parametrize("mode", ["continue", "rewind"])
async def test_a_run_that_was_stopped_goes_on_to_the_same_chains(
    config: Config, tmp_path: Path, kept: int, mode: str
) -> None:
    score = config.take_over.score.model_copy(update={"kind": "largest-surprise"})
    take_over = config.take_over.model_copy(update={"mode": mode, "score": score})
    config = config.model_copy(update={"take_over": take_over})
    whole = await run(config, make_models(0.0), tmp_path / "whole")
    await run(config, make_models(0.001), tmp_path / "stopped")
    path = tmp_path / "stopped" / CHAINS
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:kept]))
    resumed = await run(config, make_models(0.0), tmp_path / "stopped")
    assert what_matters(read_run(tmp_path / "stopped").chains) == what_matters(
        read_run(tmp_path / "whole").chains
    )
    assert (resumed.accuracy, resumed.take_over) == (whole.accuracy, whole.take_over)


async def test_a_failed_chain_is_done_again_without_its_problem(
    config: Config, tmp_path: Path
) -> None:
    models = make_models(0.0)
    score, calls = models["target"].engine.score, iter(range(1000))

    async def failing(*args: object) -> object:
        if next(calls) in (2, 30):
            raise EngineError("lost")
        return await score(*args)  # type: ignore[arg-type]

    models["target"].engine.score = failing  # type: ignore[method-assign, assignment]
    summary = await run(config, models, tmp_path / "run")
    assert (summary.chains, summary.failed) == (24, 2)
    again = await run(config, make_models(0.0), tmp_path / "run", retry=True)
    assert (again.chains, again.failed) == (24, 0)


async def test_nobody_waits_for_a_chain_that_cannot_be_begun(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = iter(range(1000))
    begin = OpenChain.__init__

    def failing(self: OpenChain, *arguments: Any) -> None:  # noqa: ANN401
        if next(prompts) in (2, 9):
            raise RuntimeError("of a template")
        begin(self, *arguments)

    monkeypatch.setattr(OpenChain, "__init__", failing)
    summary = await run(config, make_models(0.0), tmp_path / "run")
    assert (summary.chains, summary.failed) == (24, 2)
    lost = [chain.error for chain in read_run(tmp_path / "run").chains if chain.end == "failed"]
    assert lost == ["RuntimeError: of a template"] * 2


def test_too_small_a_pool_is_refused_before_any_work(config: Config) -> None:
    limits = config.limits.model_copy(update={"chains": 3})
    with pytest.raises(ConfigError, match=r"limits\.chains=3 is below samples=4.*sync-ranking"):
        setup.prepare_run(config.model_copy(update={"limits": limits}))
    atts = config.model_copy(update={"limits": limits, "method": "draft-only"})
    assert setup.prepare_run(atts).config.limits.chains == 3
