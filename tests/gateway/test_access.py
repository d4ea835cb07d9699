"""Keys, and who is let in without one."""

from pathlib import Path

import pytest

from atts.errors import ConfigError
from atts.gateway.access import KEY_VARIABLE, check_host, read_key


def test_the_key_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key"
    file.write_text("of-the-file\n")
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert read_key(None) is None
    monkeypatch.setenv(KEY_VARIABLE, "of-the-environment")
    assert read_key(None) == "of-the-environment"
    assert read_key(file) == "of-the-file"


@pytest.mark.parametrize("content", ["", "two words", "sch\u00f6n", "line\nline"])
def test_a_file_that_holds_no_key_is_refused_without_its_content(
    tmp_path: Path, content: str
) -> None:
    file = tmp_path / "key"
    file.write_text(content)
    with pytest.raises(ConfigError, match="one word") as caught:
        read_key(file)
    assert not content or content not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        read_key(tmp_path / "nowhere")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "gpu1"])  # noqa: S104
def test_other_machines_need_a_key(host: str) -> None:
    with pytest.raises(ConfigError, match=KEY_VARIABLE):
        check_host(host, None)
    check_host(host, "key")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    check_host(host, None)
