"""The main job with the two models that come with atts: small, but nothing is faked."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from atts.cli.demo import demo_configs
from atts.config import Config, ModelOptions
from atts.engines.base import GenerateRequest, Sampling
from atts.models.model_files import model_path
from atts.models.prompts import Tokenizer
from atts.problems.arithmetic import stories
from atts.runs import jobs
from atts.runs.observer import SilentObserver
from atts.runs.setup import open_models
from atts.store.run_directory import read_run
from atts.types import Chain, ChainKey, Problem

PAIR = {name: Path(model_path(f"bundled/{name}")) for name in ("draft", "target")}


def small(config: Config) -> Config:
    problems = config.calibration.problems.model_copy(update={"count": 6})
    calibration = config.calibration.model_copy(update={"problems": problems, "samples": 2})
    return config.model_copy(update={"calibration": calibration})


def parameters(folder: Path) -> int:
    """Counted from the header of the safetensors file."""
    with (folder / "model.safetensors").open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    shapes = [tensor["shape"] for name, tensor in header.items() if name != "__metadata__"]
    total = 0
    for shape in shapes:
        size = 1
        for length in shape:
            size *= length
        total += size
    return total


def test_the_pair_is_small_and_of_different_kinds() -> None:
    files = [file for folder in PAIR.values() for file in folder.iterdir()]
    assert sum(file.stat().st_size for file in files) < 16e6
    assert 10 * parameters(PAIR["draft"]) <= parameters(PAIR["target"])
    draft, target = (Tokenizer.load(ModelOptions(model=f"bundled/{name}")) for name in PAIR)
    text = "\n\nWait, 12 * 25 = 300 shells."
    assert draft.encode(text) != target.encode(text)
    assert draft.decode(draft.encode(text)) == target.decode(target.encode(text)) == text
    for folder in PAIR.values():
        assert AutoConfig.from_pretrained(folder).architectures == ["LlamaForCausalLM"]


class Counter(SilentObserver):
    def __init__(self) -> None:
        super().__init__()
        self.total = self.before = self.made = 0

    def started(self, total: int, done: int) -> None:
        self.total, self.before = total, done

    def chain_done(self, chain: Chain) -> None:
        assert chain.end != "failed", chain.error
        self.made += 1

    def warned(self, message: str) -> None:
        raise AssertionError(message)


async def test_calibrate_run_and_resume(tmp_path: Path) -> None:
    configs = {
        name: small(config) for name, config in demo_configs(3, 2, tmp_path).items()
    }  # the four runs of the demo, and a conditional calibration
    marginal = configs["atts-marginal"]
    where = tmp_path / "calibration-conditional" / "calibration.json"
    conditional = marginal.take_over.model_copy(
        update={"coverage": "conditional", "calibration": where}
    )
    configs["atts-conditional"] = marginal.model_copy(update={"take_over": conditional})
    async with open_models(marginal) as models:
        for config in configs.values():
            if path := config.take_over.calibration:
                calibration = await jobs.calibrate(config, models, path.parent, Counter())
                assert calibration.coverage == config.take_over.coverage
        for name, config in configs.items():
            first, again = Counter(), Counter()
            summary = await jobs.run(config, models, tmp_path / name, first)
            assert (first.total, first.before, first.made, summary.failed) == (6, 0, 6, 0)
            assert await jobs.run(config, models, tmp_path / name, again) == summary
            assert (again.before, again.made) == (6, 0)
            written = summary.tokens.draft_written, summary.tokens.target_written
            assert (written[0] > 0) == (name != "target-only")
            if name.startswith("atts"):
                assert summary.take_over is not None
                assert summary.tokens.target_scored > 0
                assert_turns_reuse_the_past(read_run(tmp_path / name).chains)
            else:
                assert summary.take_over is None


def assert_turns_reuse_the_past(chains: tuple[Chain, ...]) -> None:
    """After the first turn, no request computes the prompt again."""
    later = [turn for chain in chains for turn in chain.turns[1:]]
    assert later
    for turn in later:
        assert turn.segments[0].cached_tokens > 40
        assert turn.decision is None or turn.decision.cached_tokens > 40


def decisions_and_texts(
    chains: tuple[Chain, ...],
) -> list[tuple[ChainKey, str, list[tuple[float, bool]]]]:
    return sorted(
        (
            chain.key,
            chain.text,
            [(t.decision.p_value, t.decision.take_over) for t in chain.turns if t.decision],
        )
        for chain in chains
    )


@pytest.mark.parametrize("mode", ["continue", "replace"])
async def test_writing_ahead_changes_nothing(tmp_path: Path, mode: str) -> None:
    config = small(demo_configs(3, 2, tmp_path)["atts-marginal"])
    take_over = config.take_over.model_copy(update={"mode": mode})
    path = take_over.calibration
    assert path
    chains = {}
    async with open_models(config) as models:
        for overlap in ("on", "off"):
            limits = config.limits.model_copy(update={"overlap": overlap})
            config = config.model_copy(update={"take_over": take_over, "limits": limits})
            if overlap == "on":
                await jobs.calibrate(config, models, path.parent)
            await jobs.run(config, models, tmp_path / overlap)
            chains[overlap] = read_run(tmp_path / overlap).chains
    assert decisions_and_texts(chains["on"]) == decisions_and_texts(chains["off"])
    turns = {overlap: [t for c in chains[overlap] for t in c.turns] for overlap in chains}
    assert any(turn.discarded for turn in turns["on"])
    assert not any(turn.discarded for turn in turns["off"])
    taken_over = [(t.decision, t.segments[-1]) for t in turns["on"] if t.decision]
    for decision, written in taken_over:
        if decision.take_over:
            # The target goes on from what scoring has just cached: all of it, or what came before.
            found = decision.scored_tokens if mode == "continue" else 0
            assert written.cached_tokens >= decision.cached_tokens + found


async def test_the_target_mends_a_wrong_draft(tmp_path: Path) -> None:
    """Taken over in the middle of a wrong line, it breaks off and does the step again."""
    config = demo_configs(1, 1, tmp_path)["target-only"]
    mended = 0
    async with open_models(config) as models:
        engine, tokenizer = models["target"]
        for story in islice(stories("test"), 10):
            step = story.steps[0]
            problem = Problem(id="p", question=story.question, answer=str(story.answer))
            wrong = f"{step.left} {step.op} {step.right} = {step.result + 10} {story.unit}"
            ids = tokenizer.prompt(problem, config.prompt) + tokenizer.encode(wrong)
            greedy = Sampling(max_tokens=30, temperature=0.0, top_p=1.0, seed=0)
            written = tokenizer.decode(
                list((await engine.generate(GenerateRequest(ids, greedy))).token_ids)
            )
            mended += f"Wait, {step.left} {step.op} {step.right} = {step.result} " in written
    assert mended >= 8
