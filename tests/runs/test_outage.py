"""A run whose server goes away: no chain is burnt, and the same command goes on."""

import asyncio
import json
import sys
from functools import partial
from pathlib import Path

import pytest
from engines.stand_ins import StandIn, VllmStandIn, serving
from fakes import FakeEngine, byte_tokenizer

from atts.config import Config, ModelOptions, parse_config
from atts.engines.base import Completion, GenerateRequest, Load
from atts.engines.inprocess.engine import load_model
from atts.engines.limits import LimitedEngine
from atts.errors import EngineConnectionError, EngineGoneError
from atts.methods.chain import Model, Models
from atts.models.model_files import model_path
from atts.runs import jobs
from atts.runs.observer import SilentObserver
from atts.simulation.simulate import run_virtually
from atts.store.contents import CHAINS, SUMMARY
from atts.store.run_directory import read_run

PROBLEMS, SAMPLES = 20, 16


class DyingEngine(FakeEngine):
    """Serves so many requests, each for as long as its number says, and then none."""

    def __init__(self, served: int) -> None:
        super().__init__(write=lambda _: "\\boxed{2}")
        self.left = served

    async def generate(self, request: GenerateRequest) -> Completion:
        await asyncio.sleep(1.0)
        if not self.left:
            raise EngineConnectionError("no server is there")
        self.left -= 1
        return await super().generate(request)

    async def meter(self) -> Load:
        if not self.left:
            raise EngineConnectionError("no server is there")
        return Load(running=0, waiting=0, cache_use=0.0)


def config_of(folder: Path, **limits: object) -> Config:
    lines = [
        json.dumps({"id": f"p{i}", "question": f"{i}?", "answer": "2"}) for i in range(PROBLEMS)
    ]
    (folder / "problems.jsonl").write_text("\n".join(lines))
    tree = {
        "method": "draft-only",
        "problems": {"source": str(folder / "problems.jsonl"), "count": None},
        "samples": SAMPLES,
        "limits": {"patience_seconds": 60.0, **limits},
    }
    return parse_config(tree, "a test")


def models_of(engine: FakeEngine, config: Config) -> Models:
    limits = config.limits
    limited = LimitedEngine(
        engine,
        limits.draft_requests,
        limits.attempts,
        limits.backoff_seconds,
        limits.patience_seconds,
        "draft",
    )
    return {"draft": Model(limited, byte_tokenizer())}


class Watch(SilentObserver):
    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []
        self.waits: list[dict[str, float]] = []

    def warned(self, message: str) -> None:
        self.warnings.append(message)
        now = asyncio.get_running_loop().time()
        self.waits.append(self.activity.waits_for(now))


@pytest.mark.parametrize("chains", [128, 4, 1])
def test_a_dead_server_burns_no_chains_and_the_same_command_goes_on(
    tmp_path: Path, chains: int
) -> None:
    config = config_of(tmp_path, chains=chains)
    engine, watch = DyingEngine(81), Watch()
    run = partial(jobs.run, config, directory=tmp_path / "run")
    with pytest.raises(EngineGoneError, match="the same command goes on"):
        run_virtually(run(models=models_of(engine, config), observer=watch))
    ends = [chain.end for chain in read_run(tmp_path / "run").chains]
    assert (ends.count("answer"), ends.count("failed")) == (81, 0)
    assert not (tmp_path / "run" / SUMMARY).exists()
    assert len(watch.warnings) == 1
    assert watch.waits[0].keys() == {"draft"}
    assert 0.0 < watch.waits[0]["draft"] <= 60.0
    assert len(engine.generated) == 81

    summary = run_virtually(run(models=models_of(DyingEngine(1000), config)))
    assert (summary.chains, summary.failed) == (PROBLEMS * SAMPLES, 0)


def test_no_chain_begins_while_the_server_is_away(tmp_path: Path) -> None:
    config = config_of(tmp_path, chains=320, chains_min=8)

    class Failing(DyingEngine):
        async def meter(self) -> Load:
            """So that more chains might begin, and all at once."""
            in_flight.append(watch.activity.in_flight)
            return Load(running=0, waiting=0, cache_use=0.0)

    in_flight, watch = list[int](), Watch()
    with pytest.raises(EngineGoneError):
        run_virtually(jobs.run(config, models_of(Failing(0), config), tmp_path / "run", watch))
    assert len(in_flight) > 60  # it was looked at all the time
    assert max(in_flight) == 16  # by the first look, when nothing had failed yet, there were 8


def bundled_target() -> StandIn:
    options = ModelOptions(model="bundled/target", device="cpu")
    return VllmStandIn(load_model(options, model_path(options.model)), "v2")


async def test_a_command_whose_server_is_gone_says_so_and_goes_on_later(tmp_path: Path) -> None:
    """In a process of its own; the server is killed after its first replies."""
    settings = {
        "method": "target-only",
        "problems.count": 4,
        "samples": 8,
        "turns": "{max_turns: 2, draft_tokens: 4, target_tokens: 4}",
        "target.engine": "vllm",
        "target.served_as": "tiny",
        "limits.chains": 8,
        "limits.backoff_seconds": 0.01,
        "limits.patience_seconds": 0.5,
    }

    async def atts(url: str) -> asyncio.subprocess.Process:
        given = settings | {"target.urls": f"[{url}]"}
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "atts", "run", "--out", str(tmp_path / "run")),
            *(word for key, value in given.items() for word in ("--set", f"{key}={value}")),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )

    async def ended(process: asyncio.subprocess.Process, code: int) -> str:
        _, said = await process.communicate()
        assert process.returncode == code, said.decode()
        return said.decode()

    chains = tmp_path / "run" / CHAINS
    async with serving(bundled_target().app) as url:
        process = await atts(url)
        while (  # noqa: ASYNC110 - another process writes it
            not chains.exists() or chains.read_bytes().count(b"\n") < 4
        ):
            await asyncio.sleep(0.01)
    port = int(url.rpartition(":")[2])
    text = await ended(process, 75)
    assert "served no request for 0.5 s (limits.patience_seconds)" in text
    assert "the same command goes on from here:\n  atts run --set " in text
    assert text.endswith(f" --out {tmp_path / 'run'}\n")
    assert "Traceback" not in text
    made = read_run(tmp_path / "run").chains
    assert 4 <= len(made) < 32
    assert [chain.error for chain in made] == [None] * len(made)

    async with serving(bundled_target().app, port):
        text = await ended(await atts(url), 0)
    assert f"32 chains, {len(made)} of them done before" in text
    assert len(read_run(tmp_path / "run").chains) == 32
