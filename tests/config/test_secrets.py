"""Keys, passwords and the values of environments: they reach a server, and nothing else."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from atts.config import Config, parse_config
from atts.config.secrets import HIDDEN, hide, hide_arguments, key_in
from atts.errors import ConfigError
from atts.store.run_directory import RunStore, config_yaml, read_run
from atts.types import Problem

PROBLEM = Problem(id="p", question="1+1?", answer="2")
SERVER = {
    "environment": {"HF_TOKEN": "hf-s3cret-1", "NAME": "s3cret-2"},
    "arguments": [
        "--api-key",
        "s3cret-3",
        "--hf-token=s3cret-4",
        "--from",
        "https://me:s3cret-5@h/x",
    ],
}


@pytest.fixture
def secretive() -> Config:
    return parse_config({"draft": {"engine": "vllm", "server": SERVER}}, "a test")


def test_nothing_of_a_secret_is_written_down_and_the_run_goes_on(
    tmp_path: Path, secretive: Config
) -> None:
    with RunStore.open(tmp_path, secretive, [PROBLEM], None):
        pass
    for path in tmp_path.iterdir():
        assert "s3cret" not in path.read_text()
    recorded = read_run(tmp_path).config
    assert recorded.draft.server.environment == {"HF_TOKEN": None, "NAME": None}
    assert recorded.draft.server.arguments[0] == "--api-key"
    with RunStore.open(tmp_path, secretive, [PROBLEM], None):  # the same command again
        pass
    with RunStore.open(tmp_path, recorded, [PROBLEM], None):
        pass
    assert recorded.digest() == secretive.digest()


def test_what_is_shown_of_a_configuration_has_none(secretive: Config) -> None:
    assert "s3cret" not in repr(secretive)
    assert "s3cret" not in config_yaml(secretive)
    value = secretive.draft.server.environment["HF_TOKEN"]
    assert value is not None
    assert value.get_secret_value() == "hf-s3cret-1"
    # A part of the program that makes one configuration of another keeps them.
    assert parse_config(secretive.model_dump(), "a test") == secretive


def test_a_directory_that_has_them_from_before_is_read(tmp_path: Path, secretive: Config) -> None:
    with RunStore.open(tmp_path, secretive, [PROBLEM], None):
        pass
    tree = yaml.safe_load((tmp_path / "config.yaml").read_text())
    tree["draft"]["server"] |= SERVER
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    assert read_run(tmp_path).config == secretive


@pytest.mark.parametrize("around", ["{}\n", "\n {} ", "{}\r\n", "{}"])
def test_blanks_around_a_key_are_no_part_of_it(
    monkeypatch: pytest.MonkeyPatch, around: str
) -> None:
    monkeypatch.setenv("A_KEY", around.format("sec ret"))
    assert key_in("A_KEY") == "sec ret"


@pytest.mark.parametrize("key", ["se\ncret", "se\rcret", "se\x1bcret", "one\ntwo\n"])
def test_a_key_with_a_line_feed_within_is_refused_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("A_KEY", key)
    with pytest.raises(ConfigError, match="variable A_KEY holds a line feed") as caught:
        key_in("A_KEY")
    assert "cret" not in str(caught.value)
    assert "one" not in re.sub("another|one of", "", str(caught.value))


@pytest.mark.parametrize("key", ["", " \n"])
def test_an_empty_key_is_none(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("A_KEY", key)
    assert key_in("A_KEY") is None


@pytest.mark.parametrize(
    "log",
    [
        "server_args=ServerArgs(model_path='m', api_key='s3cret', max_total_tokens=None)",
        "non-default args: {'api_key': ['s3cret'], 'hf_token': 's3cret', 'port': 1}",
        "python -m vllm --api-key s3cret --port 1",
        "python -m sglang --admin-api-key=s3cret",
        "HF_TOKEN=s3cret",
        'headers: {"Authorization": "Bearer s3cret/+="}',
        "GET https://user:s3cret@host/path",
        "401: the token 's3cret' is not valid",
        "password: s3cret",
    ],
)
def test_what_looks_like_a_secret_in_a_log_is_hidden(log: str) -> None:
    assert "s3cret" not in hide(log)
    assert HIDDEN in hide(log)


@pytest.mark.parametrize(
    "log",
    [
        "Prefill batch, #new-seq: 1, #new-token: 7, #cached-token: 0, token usage: 0.02",
        "KeyError: 'model.layers.0'",
        "ServerArgs(api_key=None, skip_tokenizer_init=False, max_num_tokens=8192)",
        "INFO 10:00 [core.py:12] Available KV cache memory: 3.1 GiB at http://127.0.0.1:40000/v1",
        "torch.OutOfMemoryError: CUDA out of memory",
    ],
)
def test_what_tells_of_a_fault_stays(log: str) -> None:
    assert hide(log) == log


def test_known_values_are_hidden_where_they_stand_alone() -> None:
    text = "dir /data/me/cache, mode off, offset 255, port 255"
    known = ["/data/me/cache", "off", "255"]
    assert hide(text, known) == "dir ***, mode ***, offset 255, port 255"


def test_only_arguments_that_are_named_like_keys_are_hidden() -> None:
    plain = ["--max-num-batched-tokens", "9", "--tokenizer", "t", "--ssl-keyfile", "/k", "--flag"]
    assert hide_arguments(plain) == plain
    several = [
        "--api-key",
        "one",
        "two",
        "--port",
        "3",
        "--Password=x",
        "--header",
        "Bearer abcdefgh",
    ]
    assert hide_arguments(several) == [
        *("--api-key", HIDDEN, HIDDEN, "--port", "3"),
        *(f"--Password={HIDDEN}", "--header", f"Bearer {HIDDEN}"),
    ]


@pytest.mark.parametrize("piece", ["-", "--", "a-", "token ", "://", "api_key=", " ", "Bearer "])
def test_a_long_log_is_gone_through_once(piece: str) -> None:
    log = piece * (200_000 // len(piece))
    assert len(hide(log)) <= len(log) + 3


@given(st.lists(st.text(max_size=8) | st.sampled_from(["--api-key", "--x", "--token=a"])))
def test_hiding_again_changes_nothing(arguments: list[str]) -> None:
    once = hide_arguments(arguments)
    assert hide_arguments(once) == once
    assert len(once) == len(arguments)
