"""Configuration files of the original Speculative Thinking project."""

from pathlib import Path

import pytest

from atts.config import Config, load_config
from atts.errors import ConfigError
from atts.methods.speculative_thinking import SpeculativeThinkingOptions

# All keys that its files have, with values that are not the defaults.
ORIGINAL = """
mode: "vllm"
target_model_name: "large"
speculative_model_name: "small"
target_model_gpu: 2
speculative_model_gpu: 1
TRIGGER_TOKENS: ["\\n\\n", "."]
TARGET_VALIDATION_KEYWORDS:
  verify: ["prove"]
  negative: ["but"]
  positive: ["sure"]
help_think_word: "Hm."
help_recap_words: "Again:"
not_reasoning: true
choose_large: false
max_target_tokens: 21
begin: true
begin_token_num: 101
original_recap_token_num: 126
recap_after_negative_num: 16
add_each_recap: 26
add_each_neg: 6
max_recap_token_num: 201
max_negative_num: 31
time_out: 180
"""


def load(tmp_path: Path, text: str, *settings: str) -> Config:
    path = tmp_path / "1b_32b.yml"
    path.write_text(text)
    return load_config(path, list(settings))


def test_every_key_becomes_one_of_ours(tmp_path: Path) -> None:
    config = load(tmp_path, ORIGINAL, "samples=4")
    assert (config.method, config.samples) == ("speculative-thinking", 4)
    for model, name, gpus in ((config.target, "large", 2), (config.draft, "small", 1)):
        assert (model.model, model.engine, model.server.tensor_parallel) == (name, "vllm", gpus)
    assert config.target.server.port == 40001
    assert config.of(SpeculativeThinkingOptions).model_dump() == {
        "triggers": ("\n\n", "."),
        "draft_tokens": 1024,
        "target_tokens": 21,
        "choose_target": False,
        "always_ask": True,
        "affirm": ("sure",),
        "reflect": ("but",),
        "verify": ("prove",),
        "think_words": "Hm.",
        "verify_tokens": 126,
        "begin": True,
        "begin_tokens": 101,
        "recap_words": "Again:",
        "recap_tokens": 126,
        "recap_tokens_step": 26,
        "recap_tokens_most": 201,
        "recap_after": 16,
        "recap_after_step": 6,
        "recap_after_most": 31,
        "time_out_seconds": 180.0,
    }


def test_what_is_off_there_is_off_here(tmp_path: Path) -> None:
    text = ORIGINAL.replace('"Hm."', "null").replace("180", "-1").replace('"vllm"', '"hf"')
    config = load(tmp_path, text)
    assert config.of(SpeculativeThinkingOptions).think_words == ""
    assert config.of(SpeculativeThinkingOptions).time_out_seconds is None
    assert config.target.engine == "inprocess"


def test_without_a_speculative_model_the_target_is_alone(tmp_path: Path) -> None:
    config = load(tmp_path, ORIGINAL.replace('"small"', "null"))
    assert (config.method, config.target.model) == ("target-only", "large")


@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        ("begin:", "start:", r"1b_32b\.yml looks like a file of Speculative Thinking.*: start$"),
        ("begin:", "samples: 3\nbegin:", "unknown keys: samples"),
        ("  negative:", "  nasty:", "TARGET_VALIDATION_KEYWORDS holds lists of words under"),
        ('mode: "vllm"', 'mode: "other"', r"(draft|target)\.engine: Input should be"),
        ('mode: "vllm"', "mode: {a: b}", r"(draft|target)\.engine: Input should be"),
        ("time_out: 180", "time_out: abc", r"speculative_thinking\.time_out_seconds: Input should"),
        ("time_out: 180", "time_out: {a: b}", r"speculative_thinking\.time_out_seconds: Input"),
        ("max_target_tokens: 21", "max_target_tokens: 0", r"speculative_thinking\.target_tokens"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, was: str, now: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, ORIGINAL.replace(was, now))
