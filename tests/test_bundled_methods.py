"""Every method with the two models that come with atts: nothing is faked."""

from pathlib import Path

import pytest

from atts.config import Config, parse_config
from atts.runs import jobs
from atts.runs.setup import open_models
from atts.store.run_directory import read_run
from atts.types import Chain

METHODS = ("sync-ranking", "specreason", "speculative-thinking", "best-of-n", "self-consistency")


def config_of(method: str) -> Config:
    return parse_config(
        {
            "method": method,
            "samples": 3,
            "problems": {"count": 1},
            "turns": {"max_turns": 8, "draft_tokens": 32, "target_tokens": 24},
            "specreason": {"first_target_steps": 1},
            "speculative_thinking": {"always_ask": True},
        },
        "a test",
    )


async def test_every_method_solves_problems(tmp_path: Path) -> None:
    made: dict[str, tuple[Chain, ...]] = {}
    async with open_models(config_of("specreason")) as models:
        for method in METHODS:
            summary = await jobs.run(config_of(method), models, tmp_path / method)
            assert (summary.chains, summary.failed) == (3, 0), method
            assert (summary.selected is not None) == (method in METHODS[3:])
            made[method] = read_run(tmp_path / method).chains
            assert any(chain.answer for chain in made[method]), method

    steps = [
        segment
        for chain in made["specreason"]
        for turn in chain.turns[:-1]
        for segment in turn.segments
        if segment.kept
    ]
    assert all("\n\n" in step.text[-3:] for step in steps)
    assert all(chain.turns[0].segments[0].author == "target" for chain in made["specreason"])
    ratings = [turn.rating for chain in made["specreason"] for turn in chain.turns[1:]]
    assert all(rating and 0 <= rating.value <= 9 for rating in ratings)
    # The chain's past was in the cache: of what was sent, no more than was new was computed.
    assert any(rating and rating.cached_tokens > 0 for rating in ratings)

    guided = [
        [segment.tokens for segment in turn.segments if segment.author == "target"]
        for chain in made["speculative-thinking"]
        for turn in chain.turns
    ]
    assert any(guided)
    # A few tokens, and more of them after a verification.
    assert all(first <= 20 and sum(more) <= 125 for first, *more in filter(None, guided))
    waited = [t.waited_seconds for chain in made["sync-ranking"] for t in chain.turns]
    assert any(waited)


async def test_rewinding_repairs_what_the_target_finds_surprising(tmp_path: Path) -> None:
    """With two tokenizers, in calibration and run: every chain's text is what both models saw."""
    tree = {
        "samples": 3,
        "problems": {"count": 4},
        "calibration": {"problems": {"count": 4}, "samples": 2},
        "turns": {"max_turns": 8, "draft_tokens": 24, "target_tokens": 16},
        "take_over": {
            "mode": "rewind",
            "control": "split",
            "score": {"kind": "largest-surprise"},
        },
    }
    config = parse_config(tree, "a test")
    async with open_models(config, ("draft", "target")) as models:
        await jobs.calibrate(config, models, tmp_path / "calibration")
        path = tmp_path / "calibration" / "calibration.json"
        take_over = config.take_over.model_copy(update={"calibration": path})
        config = config.model_copy(update={"take_over": take_over})
        summary = await jobs.run(config, models, tmp_path / "run")
    assert (summary.chains, summary.failed) == (12, 0)
    cut = 0
    for chain in read_run(tmp_path / "run").chains:
        for turn in chain.turns:
            draft = turn.segments[0]
            if turn.decision is None:
                continue
            assert turn.decision.score == pytest.approx(max(turn.decision.surprises), abs=0.006)
            assert len(turn.decision.surprises) == turn.decision.scored_tokens
            if draft.cut:
                assert turn.decision.take_over
                cut += 1
    assert cut > 0
