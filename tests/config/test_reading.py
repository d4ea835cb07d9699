"""YAML that cannot be meant, or stands for more than anybody wrote."""

import os
from pathlib import Path

import pytest

from atts.config import load_config
from atts.config.reading import LARGEST_FILE, parse_yaml, read_yaml
from atts.errors import ConfigError
from atts.runs.suite import load_suite

LAUGHS = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("samples: 1\nsamples: 2", "the key 'samples' is there twice"),
        ("draft: {device: cpu}\ndraft: {dtype: float32}", "the key 'draft' is there twice"),
        ("draft: {device: cpu, device: cuda}", "the key 'device' is there twice"),
        ("draft: &a {server: *a}", "part of itself"),
        ("a: &a [*a]", "part of itself"),
        (LAUGHS, "more than 100,000 values"),
        ("[" * 2000, "nested too deep"),
        ("samples: 1\0", "special characters"),
        *((f"samples: !!{kind} x", "not valid YAML") for kind in ("bool", "timestamp", "value")),
        ("samples: !!int ''", "not valid YAML"),
    ],
)
def test_what_cannot_be_meant_is_refused_everywhere(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    for load in (load_config, load_suite):
        with pytest.raises(ConfigError, match=f"(?s)a.yaml is not valid YAML: .*{told}|{told}"):
            load(path)
    with pytest.raises(ValueError, match=r".") as caught:
        parse_yaml(text)
    assert len(str(caught.value)) < 1000


def test_recursive_aliases_on_every_axis_of_a_suite(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text("base: &a {draft: *a}\nchanges: *a\npairs: {p: *a}\nproblems: {a: *a}\n")
    with pytest.raises(ConfigError, match="part of itself"):
        load_suite(path)


def test_an_alias_is_a_value_of_its_own_and_a_merge_no_repetition(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("draft: &m {model: a, device: cpu}\ntarget: {<<: *m, model: b}\n")
    config = load_config(path, ["draft.device=cuda"])
    assert (config.draft.device, config.target.device, config.target.model) == ("cuda", "cpu", "b")
    path.write_text("draft: &m {model: a, server: &s {port: 5}}\ntarget: *m\n")
    config = load_config(path, ["draft.server.port=6"])
    assert config.target.server.port == 5


@pytest.mark.parametrize("path", ["pipe", "/dev/zero", "/dev/stdin"])
def test_what_is_no_plain_file_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*not a plain file"):
        load_config(Path(path))


def test_a_file_has_a_size(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"#" * (LARGEST_FILE + 1))
    with pytest.raises(ConfigError, match="larger than 1,000,000 bytes"):
        read_yaml(path)
    path.write_bytes(b"#" * LARGEST_FILE)
    assert read_yaml(path) == {}
