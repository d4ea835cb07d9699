"""A whole run over servers, in a process of its own, as a user starts it."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from engines.stand_ins import BLOCK, SGLangStandIn, StandIn, VllmStandIn, serve_stand_in

import atts
from atts.config import EngineName, ModelOptions
from atts.engines.base import Sampling
from atts.engines.inprocess.engine import load_model
from atts.models.model_files import model_path
from atts.store.run_directory import read_run

WITHOUT_TORCH = """
import importlib.machinery, sys

# A machine without PyTorch; where it is installed, transformers imports it with any tokenizer.
find = importlib.machinery.PathFinder.find_spec
def without_torch(name, path=None, target=None):
    return None if name.partition(".")[0] == "torch" else find(name, path, target)
importlib.machinery.PathFinder.find_spec = without_torch

from atts.cli.app import app
app(sys.argv[1:], standalone_mode=False)
assert "torch" not in sys.modules
"""


def bundled(kind: EngineName, name: str) -> StandIn:
    options = ModelOptions(model=f"bundled/{name}", device="cpu")
    model = load_model(options, model_path(options.model))
    return SGLangStandIn(model) if kind == "sglang" else VllmStandIn(model, "v2")


async def test_calibrate_and_run_over_servers_without_torch(tmp_path: Path) -> None:
    async with (
        serve_stand_in(bundled("sglang", "draft")) as draft,
        serve_stand_in(bundled("vllm", "target")) as target,
    ):
        settings = {
            "draft.engine": "sglang",
            "draft.urls": [draft.url],
            "draft.served_as": "tiny",
            "target.engine": "vllm",
            "target.urls": [target.url],
            "target.served_as": "tiny",
            "problems.count": 3,
            "samples": 2,
            "take_over.control": "split",
            "take_over.mode": "continue",
            "take_over.score.kind": "mean",
            "turns": "{max_turns: 6, draft_tokens: 24, target_tokens: 24}",
            "calibration.problems.count": 3,
            "calibration.samples": 2,
        }

        async def atts(command: str, out: Path, **more: object) -> None:
            given = [f"{key}={value}" for key, value in (settings | more).items()]
            arguments = [command, "--out", str(out)]
            for setting in given:
                arguments += ["--set", setting]
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", WITHOUT_TORCH, *arguments
            )
            assert await process.wait() == 0

        await atts("calibrate", tmp_path / "calibration")
        path = tmp_path / "calibration" / "calibration.json"
        await atts("run", tmp_path / "run", **{"take_over.calibration": path})
        off = {"take_over.calibration": path, "limits.overlap": "off"}
        await atts("run", tmp_path / "off", **off)
    run = read_run(tmp_path / "run")
    assert len(run.chains) == 6
    assert [chain.error for chain in run.chains] == [None] * 6
    decisions = [turn.decision for chain in run.chains for turn in chain.turns if turn.decision]
    assert decisions
    assert any(decision.cached_tokens > 0 for decision in decisions)
    assert {c.key: c.text for c in run.chains} == {
        c.key: c.text for c in read_run(tmp_path / "off").chains
    }
    turns = [turn for chain in run.chains for turn in chain.turns]
    assert any(turn.discarded for turn in turns)  # the draft wrote ahead
    taken_over = [
        (t.decision, t.segments[-1]) for t in turns if t.decision and t.decision.take_over
    ]
    assert taken_over
    for decision, written in taken_over:
        # What was scored is cached, in whole blocks, where the target goes on.
        assert written.cached_tokens > decision.cached_tokens + decision.scored_tokens - BLOCK


@pytest.mark.parametrize("always", [False, True])
async def test_ids_past_the_vocabulary_never_reach_a_chain_of_the_draft_alone(
    tmp_path: Path, always: bool
) -> None:
    """There is no target whose tokenizer or scores would stumble over them."""
    server = bundled("vllm", "draft")
    work, spoiled = server.work, 0

    async def spoiling(ids: list[int], sampling: Sampling) -> tuple[list[int], str, Any]:
        nonlocal spoiled
        written, reason, at = await work(ids, sampling)
        if sampling.max_tokens > 1 and (always or not spoiled):  # one alone is asked for at first
            spoiled += 1
            written = [server.vocabulary + 7, *written[1:]]
        return written, reason, at

    server.work = spoiling  # type: ignore[method-assign]
    async with serve_stand_in(server):
        settings = [
            *("method=draft-only", "problems.count=1", "samples=2", "turns.max_turns=2"),
            *("draft.engine=vllm", f"draft.urls=[{server.url}]", "draft.served_as=tiny"),
            *("limits.attempts=2", "limits.backoff_seconds=0", "limits.chains=1"),
        ]
        config = atts.load_config(settings=settings)
        async with atts.open_models(config) as models:
            await atts.run(config, models, tmp_path / "run")
    errors = [chain.error for chain in read_run(tmp_path / "run").chains]
    assert spoiled == (4 if always else 1)
    asked = [body["sampling_params"]["max_tokens"] > 1 for body in server.bodies]
    assert sum(asked) == (4 if always else 3)  # of two chains
    if always:
        says = "a token id is '519', where the model's vocabulary has 512"
        assert [says in (error or "") for error in errors] == [True, True]
    else:
        assert errors == [None, None]
