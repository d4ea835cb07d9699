"""What a message says of a value that a ``--set`` brought."""

from pathlib import Path

import pytest

from atts.config import load_config
from atts.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text("seed: 1\nsamples: 0\n")
    return path


def test_a_wrong_setting_is_not_the_fault_of_the_file(file: Path) -> None:
    with pytest.raises(ConfigError) as failed:
        load_config(file, ["samples=2", "prompt.system="])
    assert str(failed.value) == (
        "wrong configuration in the command line:\n  prompt.system: Input should be a valid string "
        "(--set prompt.system= means null; --set prompt.system='\"\"' is the empty text)"
    )
    assert load_config(file, ["samples=2", 'prompt.system=""']).prompt.system == ""


def test_where_both_are_wrong_each_is_told(file: Path) -> None:
    with pytest.raises(ConfigError) as failed:
        load_config(file, ["take_over.rate=0.3", "take_over.rate=7"])
    first, *faults = str(failed.value).splitlines()
    assert first == f"wrong configuration in {file}:"
    assert sorted(faults) == [
        "  samples: Input should be greater than or equal to 1",
        "  take_over.rate: Input should be less than or equal to 1 (of --set take_over.rate)",
    ]


def test_a_secret_of_a_setting_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as failed:
        load_config(None, ["draft.server.environment={HF_TOKEN: hf_abc, A: 1}"])
    assert "hf_abc" not in str(failed.value)
    assert "--set draft.server.environment" in str(failed.value)
