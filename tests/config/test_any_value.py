"""Whatever stands at a key, a configuration is valid or refused by the name of the key."""

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atts.config import Config, flatten, load_config
from atts.errors import ConfigError
from atts.store.run_directory import config_yaml

LEAVES = flatten(Config().model_dump())
KEYS = sorted(
    {
        ".".join(leaf.split(".")[:depth])
        for leaf in LEAVES
        for depth in range(1, leaf.count(".") + 2)
    }
)
NAMES = sorted({key.rpartition(".")[2] for key in KEYS})
WORDS = ["on", "auto", "", "split", "***", "http://[::1", "a=b", "1e999", "{question}", "\0", "/"]

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**400)
    | st.integers(-2, 20)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(WORDS)
    | st.binary(max_size=5)
    | st.dates()
    | st.datetimes()
)
values = st.recursive(
    scalars,
    lambda each: (
        st.lists(each, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5) | scalars, each, max_size=3)
    ),
    max_leaves=6,
)
one_path = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def loaded(path: Path | None, settings: list[str] | None = None) -> tuple[Config | None, str]:
    """The configuration, or what is said against it; any other exception is a fault."""
    try:
        return load_config(path, settings), ""
    except ConfigError as error:
        return None, str(error)


@one_path
@given(st.sampled_from(KEYS), values)
def test_any_value_at_any_key(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "a.yaml"
    tree = value
    for name in reversed(key.split(".")):
        tree = {name: tree}
    path.write_text(yaml.safe_dump(tree))
    config, told = loaded(path)
    if config is None:
        group, _, leaf = key.rpartition(".")
        assert f"  {key}" in told or (f"  {group}:" in told and leaf in told)
        assert len(told) < 10_000
        return
    written = config_yaml(config)
    path.write_text(written)
    again = load_config(path)
    assert again.digest() == config.digest()
    assert config_yaml(again) == written


PIECES = [
    *("a", ": ", "- ", "\n", "  ", "&a", "*a", "{", "}", "[", "]", "'", '"', "<<", "? ", "|", ","),
    *("!!set", "!!int ", "!!float ", "!!binary ", "!!timestamp ", "!!omap ", "!!bool ", "!!null "),
    *("draft", "samples", "1", "2026-01-01", "0x", "#", "%", "---", "...", "\t", "\\", "="),
]


@one_path
@given(st.text(st.characters(exclude_categories=["Cs"])) | st.lists(st.sampled_from(PIECES)))
def test_any_text_is_a_configuration_or_none(tmp_path: Path, text: str | list[str]) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text := "".join(text))
    for file, more in ((path, []), (None, [f"samples={text}"]), (None, [text])):
        config, told = loaded(file, more)
        assert isinstance(config, Config) or 0 < len(told) < 10_000


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("sampling.stop=['']", "sampling.stop.0: String should have at least 1 character"),
        ("speculative_thinking.triggers=['']", "speculative_thinking.triggers.0: String should"),
        (
            "sampling.top_p=1e-300",
            "sampling.top_p: Input should be greater than or equal to 0.000001",
        ),
        ("draft.sampling.top_p=1e-300", "draft.sampling.top_p: Input should be greater than"),
        ('draft.server.environment={A: "a\\0b"}', "draft.server.environment.A: holds NUL"),
        ('draft.server.environment={"A=B": c}', r"draft.server.environment.A=B.\[key\]: the name"),
        ('draft.server.environment={"": c}', r"draft.server.environment.*: the name"),
        ('draft.server.environment.A="***"', r"draft.server.environment.A: .*put it in again"),
        ('draft.server.environment="***"', "draft.server.environment: .*put it in again"),
        ('prompt.system="\\ud800"', "prompt.system: holds NUL or half of a surrogate pair"),
        ("seed=0x" + "f" * 6000, "seed: is too large a number"),
        ("turns.max_turns=1e999", "turns.max_turns: "),
        ("turns.max_turns=.inf", "turns.max_turns: Input should be a finite number"),
        (f"preset={'x' * 9000}", "preset: there is no 'x{199}, only paper and reference$"),
        (f"{'x' * 9000}=1", "\n  x{200}: unknown key$"),
    ],
)
def test_what_would_fail_later_is_refused_at_the_start(setting: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config(None, [setting])


def test_many_faults_are_counted() -> None:
    with pytest.raises(ConfigError, match=r"\n  and 480 more$") as caught:
        load_config(None, [f"x{number}=1" for number in range(500)])
    assert "x19: unknown key" in str(caught.value)
