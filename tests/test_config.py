"""The configuration: every way in which it can be wrong, and what the digest covers."""

import os
from pathlib import Path

import pytest
import yaml

from atts.config import (
    FORMER_DEFAULTS,
    PRESETS,
    Config,
    differing_keys,
    flatten,
    load_config,
    parse_config,
)
from atts.errors import ConfigError

OF_ONE_METHOD = {
    "auto",
    "sync_ranking",
    "specreason",
    "speculative_thinking",
    "best_of_n",
    "self_consistency",
}


def test_no_file_and_no_settings_are_the_defaults() -> None:
    assert load_config() == Config()


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}"])
def test_an_empty_file_is_the_defaults(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert load_config(path) == Config()


def test_settings_change_a_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("samples: 4\ntake_over: {rate: 0.2, mode: replace}\n")
    config = load_config(
        path, ["take_over.rate=0.3", "problems.count=null", "prompt.system=a=b", "samples=5"]
    )
    assert config.samples == 5
    assert (config.take_over.rate, config.take_over.mode) == (0.3, "replace")
    assert config.problems.count is None
    assert config.prompt.system == "a=b"


def test_part_of_a_group_leaves_the_rest_of_it_as_it_stands_there() -> None:
    config = load_config(None, ["draft.device=cpu", "calibration.problems.count=5"])
    assert config.draft.model == "bundled/draft"
    assert config.target == Config().target
    assert config.calibration.problems.split == "calibration"


def test_the_last_of_equal_settings_counts() -> None:
    assert load_config(None, ["samples=2", "samples=3"]).samples == 3


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("nonsense=1", "nonsense: unknown key"),
        ("sampels=1", "sampels: unknown key; did you mean samples?"),
        ("rate=0.3", "rate: unknown key; did you mean take_over.rate?"),
        ("take_over.rat=0.3", "take_over.rat: unknown key; did you mean take_over.rate?"),
        ("take_over.rate=1.5", "take_over.rate: Input should be less than or equal to 1"),
        ("take_over.rate=-0.1", "take_over.rate: Input should be greater than or equal to 0"),
        ("take_over.rate=.nan", "take_over.rate: "),
        ("take_over.rate=", "take_over.rate: "),
        ("sampling.temperature=.inf", "sampling.temperature: Input should be a finite number"),
        ("sampling.temperature=-1", "sampling.temperature: "),
        ("sampling.top_p=0", "sampling.top_p: "),
        ("samples=0", "samples: "),
        ("samples=1.5", "samples: "),
        ("samples=many", "samples: "),
        ("seed=-1", "seed: "),
        ("problems.count=0", "problems.count: "),
        ("problems.split=validation", "problems.split: "),
        ("method=magic", "method: "),
        ("draft.model=''", "draft.model: "),
        ("take_over=3", "take_over: "),
        ("limits.attempts=0", "limits.attempts: "),
    ],
)
def test_a_wrong_key_or_value_is_named(setting: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [setting])
    assert f"\n  {message}" in str(caught.value)
    assert "the command line" in str(caught.value)


def test_every_wrong_key_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("samples: 0\ncolour: red\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert "samples:" in str(caught.value)
    assert "colour:" in str(caught.value)


@pytest.mark.parametrize("setting", ["samples", "=5", ""])
def test_a_setting_without_key_or_value_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match="--set takes key=value"):
        load_config(None, [setting])


@pytest.mark.parametrize("value", ["[", "{a", "2026-99-99", "[" * 400])
def test_a_setting_that_is_not_yaml_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="the value is not valid YAML"):
        load_config(None, [f"samples={value}"])


def test_a_setting_below_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="samples is a value, not a group"):
        load_config(None, ["samples=3", "samples.more=1"])


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*missing\.yaml"):
        load_config(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"samples: [", "is not valid YAML"),
        (b"seed: 2026-99-99", "is not valid YAML"),
        (b"a: &a [*a", "is not valid YAML"),
        (b"samples: !!python/object/apply:os.getcwd []", "is not valid YAML"),
        (b"\xff\xfe\xfa", "cannot read the configuration"),
        (b"- samples", "must hold keys and values, not a list"),
        (b"42", "must hold keys and values, not a int"),
        (b"1: 2", "wrong configuration"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_config(tmp_path)


def test_a_configuration_survives_yaml(tmp_path: Path) -> None:
    config = load_config(None, ["take_over.calibration=a/b.json", "prompt.system='\u00e9 [x]: #'"])
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    again = load_config(path)
    assert again == config
    assert again.digest() == config.digest()


def test_the_digest_covers_what_results_depend_on() -> None:
    digest = Config().digest()
    assert len(digest) == 16
    choices: dict[str, object] = {
        "count": 7,
        "thinking": "off",
        "chat_format": "harmony",
        "thought_ends": ["</plan>"],
        "open": "Solve: {question}",
        "multiple_choice": "{question} {choices}",
        "program": "Write: {question}",
        "split": "train",
        "dtype": "float16",
        "mode": "replace",
        "coverage": "conditional",
        "method": "draft-only",
        "control": "online",
        "by_turn": False,
        "track": "all",
        "per_turn": 3,
        "overlap": "off",
        "in_flight": 3,
        "kind": "worst-window",
        "when": "adaptive",
        "confidence": 0.75,
        "floor": -9.0,
        "engine": "vllm",
        "gpus": [3],
        "urls": ["http://other:1"],
        "memory_fraction": 0.5,
        "context_length": 99,
        "take_overs": 3,
        "rating": "average",
        "author": "draft",
        "time_out_seconds": 3.5,
        "temperature": 0.25,
        "top_p": 0.25,
        "draft_tokens_min": 3,
        "draft_tokens_max": 700,
        "opening": "target",
        "record_surprises": "on",
        "by": "coin",
        "quantization": "fp8",
        "cache_dtype": "fp8_e5m2",
    }
    by_type = {
        "list": ["x"],
        "str": "other",
        "int": 7,
        "float": 0.25,
        "NoneType": "x.json",
    }
    for key, value in flatten(Config().model_dump(mode="json")).items():
        if ".speculative." in key:  # its keys depend on each other: the next test
            continue
        leaf = key.rpartition(".")[2]
        if leaf == "stop":  # below
            continue
        other = not value if isinstance(value, bool) else by_type[type(value).__name__]
        other = choices.get(leaf, other)
        changed = load_config(None, [f"{key}={yaml.safe_dump(other)}"])
        if (group := key.partition(".")[0]) in OF_ONE_METHOD:
            assert changed.digest() == digest, key
            method = f"method={group.replace('_', '-')}"
            if key == "best_of_n.author":
                other = "target"
            mine = load_config(None, [method, f"{key}={yaml.safe_dump(other)}"])
            assert mine.digest() != load_config(None, [method]).digest(), key
            continue
        # Limits and places change no result; of the calibration, the certificate and a folder the
        # content counts, not where it is.
        neutral = key.startswith(("limits.", "calibration.")) or key in (
            "take_over.calibration",
            "take_over.certificate",
            "take_over.record_surprises",
            "problems.folder",
        )
        neutral |= ".server." in key and leaf not in ("quantization", "cache_dtype")
        neutral |= leaf in ("urls", "api_key_env", "served_as", "timeout_seconds")
        assert (changed.digest() == digest) == neutral, key


def test_speculative_decoding_names_a_run_of_its_own_by_the_same_calibration() -> None:
    plain = Config()
    by_draft = ["method=draft", "draft=small", "tokens=7"]
    for setting in (["method=ngram"], ["method=ngram", "tokens=7"], by_draft):
        other = load_config(None, [f"target.server.speculative.{each}" for each in setting])
        assert other.digest() != plain.digest()
        assert other.calibration_fingerprint() == plain.calibration_fingerprint()
        keys = differing_keys(plain.what_results_depend_on(), other.what_results_depend_on())
        assert {key.rpartition(".")[0] for key in keys} == {"target.server.speculative"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method=draft"], "method draft needs draft, the model that proposes"),
        (["method=eagle3"], "method eagle3 needs draft"),
        (["draft=small"], "method off takes no draft; set method to draft or eagle3"),
        (["method=ngram", "draft=small"], "method ngram takes no draft"),
        (["method=ngram", "tokens=0"], "speculative.tokens"),
    ],
)
def test_speculative_decoding_needs_what_it_needs(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, [f"target.server.speculative.{each}" for each in settings])


def test_the_digest_leaves_out_the_options_of_other_methods() -> None:
    for method, own in {"atts": set(), "best-of-n": {"best_of_n"}}.items():
        keys = load_config(None, [f"method={method}"]).what_results_depend_on()
        assert {key.partition(".")[0] for key in keys} & OF_ONE_METHOD == own


def test_stop_strings_count_for_results_and_for_a_calibration() -> None:
    plain, stopping = (load_config(None, more) for more in ([], ["sampling.stop=[So]"]))
    assert plain.digest() != stopping.digest()
    ours, theirs = plain.calibration_fingerprint(), stopping.calibration_fingerprint()
    assert differing_keys(ours, theirs) == ["sampling.stop"]


def test_the_calibration_fingerprint_leaves_out_what_a_calibration_outlives() -> None:
    ours = Config().calibration_fingerprint()
    theirs = load_config(
        None, ["samples=3", "seed=4", "problems.count=5", "draft.device=cpu", "limits.chains=1"]
    ).calibration_fingerprint()
    assert differing_keys(ours, theirs) == []
    other = load_config(
        None, ["turns.draft_tokens=5", "take_over.rate=0.1", "target.dtype=float16"]
    )
    assert differing_keys(ours, other.calibration_fingerprint()) == [
        "take_over.rate",
        "target.dtype",
        "turns.draft_tokens",
    ]


def test_parse_config_names_its_source() -> None:
    with pytest.raises(ConfigError, match="wrong configuration in the demo"):
        parse_config({"samples": 0}, "the demo")


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(Config(), "samples", 3)  # noqa: B010  (mypy knows better)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("turn.max_turns=3", "turn: unknown key; did you mean turns?"),
        ("take_over=0.3", "take_over: is a group of keys, and takes no value itself"),
    ],
)
def test_a_wrong_group_is_explained(setting: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(settings=[setting])
    assert told in str(caught.value)


def test_a_preset_lies_below_all_that_is_said_otherwise() -> None:
    for name in PRESETS:
        config = parse_config({"preset": name, "take_over": {"rate": 0.2}}, "a test")
        assert config.take_over.rate == 0.2
        assert (config.take_over.control, config.take_over.by_turn) == ("split", False)
        assert (config.take_over.mode, config.take_over.score.kind) == ("continue", "mean")
        assert (config.samples, config.turns.draft_tokens, config.turns.target_tokens) == (
            16,
            500,
            500,
        )
        # What is written down is what it stands for, and reads the same without the name.
        assert "preset" not in config.model_dump()
    assert load_config(None, ["preset=reference"]).calibration.allow_overlap
    changed = load_config(None, ["preset=paper", "take_over.control=online"])
    assert changed.take_over.control == "online"


@pytest.mark.parametrize("name", ["papers", 3, None, {"paper": 1}])
def test_a_preset_that_is_not_there_is_refused(name: object) -> None:
    with pytest.raises(ConfigError, match=r"preset: there is no .*only paper and reference"):
        parse_config({"preset": name}, "a test")


def test_a_run_from_before_a_key_is_read_as_it_was_made(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("take_over: {rate: 0.3}\n")
    old = load_config(tmp_path / "config.yaml", defaults=FORMER_DEFAULTS)
    assert (old.take_over.control, old.take_over.rate, old.stop.repeating) == ("split", 0.3, False)
    assert load_config(tmp_path / "config.yaml").take_over.control == "adaptive"


def test_a_key_that_older_versions_lack_leaves_digests_alone() -> None:
    assert not any("thought_ends" in key for key in Config().what_results_depend_on())
    ends = parse_config({"draft": {"thought_ends": ["</plan>"]}}, "a test")
    assert ends.what_results_depend_on()["draft.thought_ends"] == ["</plan>"]
    with pytest.raises(ConfigError, match="thought_ends"):
        parse_config({"draft": {"thought_ends": [""]}}, "a test")


def test_a_pipe_is_no_configuration(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="a pipe, not a plain file"):
        load_config(tmp_path / "c.yaml")


def test_relative_models_of_a_file_are_looked_for_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, below = tmp_path / "configs", tmp_path / "cwd"
    (beside / "mine" / "draft").mkdir(parents=True)
    (beside / "weights.gguf").touch()
    (below / "there" / "target").mkdir(parents=True)
    (below / "mine" / "draft").mkdir(parents=True)
    file = beside / "mine.yaml"
    file.write_text(
        "draft: {model: mine/draft, engine: llamacpp, gguf: weights.gguf}\n"
        "target: {model: there/target}\n"
    )
    monkeypatch.chdir(below)
    config = load_config(file)
    assert config.draft.model == str(beside / "mine" / "draft")
    assert config.draft.gguf == str(beside / "weights.gguf")
    assert config.target.model == "there/target"
    # From beside the file, and by settings, a path means what it says, and keeps its digest.
    monkeypatch.chdir(beside)
    assert load_config(file).draft.model == "mine/draft"
    monkeypatch.chdir(below)
    assert load_config(file, ["draft.model=mine/draft"]).draft.model == "mine/draft"
    file.write_text("draft: {model: Qwen/Qwen3-0.6B}\ntarget: null\n")
    with pytest.raises(ConfigError):
        load_config(file)
    file.write_text("draft: {model: Qwen/Qwen3-0.6B}\n")
    assert load_config(file).draft.model == "Qwen/Qwen3-0.6B"
