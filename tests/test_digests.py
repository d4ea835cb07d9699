"""Digests as the version before computed them: its runs must be found and resumed."""

import hashlib
from pathlib import Path

import pytest
import yaml

from atts.config import differing_keys, load_config

EVERY_KEY = Path(__file__).parent / "config_before.yaml"
"""What that version printed as its defaults: all keys that it had."""

BEFORE: list[tuple[list[str], str, str]] = [
    ([], "74cfbf7084f91bcb", "6feb1f417e229bc2"),
    (["method=target-only"], "c3ea2d652b833246", "6feb1f417e229bc2"),
    (["method=draft-only"], "319664ca199f596b", "6feb1f417e229bc2"),
    (["method=sync-ranking"], "1561e9fcac536c4b", "6feb1f417e229bc2"),
    (["method=specreason"], "414ad8012bc61026", "6feb1f417e229bc2"),
    (["method=speculative-thinking"], "5a4e5ad35d69a6d7", "6feb1f417e229bc2"),
    (["method=best-of-n"], "4c055edfbe1b0e04", "6feb1f417e229bc2"),
    (["method=self-consistency"], "a4b8f32bbed3d2fe", "6feb1f417e229bc2"),
    (["method=sync-ranking", "sync_ranking.take_overs=3"], "1230f4ae511e3ea3", "6feb1f417e229bc2"),
    (["method=specreason", "specreason.threshold=5"], "9e97f1ced02cafc0", "6feb1f417e229bc2"),
    (["specreason.threshold=5"], "74cfbf7084f91bcb", "6feb1f417e229bc2"),
    (["method=best-of-n", "best_of_n.author=target"], "7673db20b5209a36", "6feb1f417e229bc2"),
    (
        ["method=speculative-thinking", "speculative_thinking.triggers=[x]"],
        "5eefa8a615e7bc89",
        "6feb1f417e229bc2",
    ),
    (
        [
            "take_over.mode=replace",
            "take_over.rate=0.2",
            "take_over.score.kind=worst-window",
            "take_over.score.window=8",
        ],
        "dc7a930bc5dfa90a",
        "3516fc5bc96f46b8",
    ),
    (
        [
            "take_over.control=adaptive",
            "take_over.coverage=conditional",
            "take_over.budget.per_turn=2",
        ],
        "2957dda3246057a9",
        "8f30f00eb063b73f",
    ),
    (
        [
            "problems.source=math500",
            "draft.model=Qwen/Qwen2.5-Coder-0.5B-Instruct",
            "draft.engine=sglang",
            "sampling.temperature=0.3",
            "stop.when=majority",
            "turns.draft_tokens=48",
        ],
        "82d8cd89f799cfb2",
        "34196456b26d5cfa",
    ),
]
"""Settings, ``Config.digest()``, and a hash of ``Config.calibration_fingerprint()``."""


@pytest.mark.parametrize(("settings", "digest", "fingerprint"), BEFORE)
def test_digests_have_not_changed(settings: list[str], digest: str, fingerprint: str) -> None:
    config = load_config(EVERY_KEY, settings)
    assert config.digest() == digest
    keys = yaml.safe_dump(config.calibration_fingerprint(), sort_keys=True)
    assert hashlib.sha256(keys.encode()).hexdigest()[:16] == fingerprint


@pytest.mark.parametrize("setting", ["quantization=fp8", "cache_dtype=fp8_e4m3"])
def test_a_calibration_is_bound_to_what_the_cache_is_made_of(setting: str) -> None:
    plain = load_config(None, [])
    other = load_config(None, [f"target.server.{setting}"])
    key = f"target.server.{setting.partition('=')[0]}"
    ours, theirs = plain.calibration_fingerprint(), other.calibration_fingerprint()
    assert differing_keys(ours, theirs) == [key]
    assert plain.digest() != other.digest()
