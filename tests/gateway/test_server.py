"""What is seen to before a server listens."""

from pathlib import Path

import pytest

from atts.config import Config, parse_config
from atts.gateway.server import ServeOptions, with_room
from atts.runs import open_files

OPTIONS = ServeOptions(directory=Path("kept"), most_waiting=500)


def test_there_are_open_files_for_every_client(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(open_files, "allow_open_files", lambda needed: asked.append(needed))
    config = Config()
    assert with_room(config, OPTIONS) == config
    assert asked == [64 + 128 * 2 * 2 + 128 + 500]


def test_fewer_chains_are_in_flight_where_there_are_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(open_files, "allow_open_files", lambda _: 256)
    models = {author: {"engine": "vllm"} for author in ("draft", "target")}
    served = with_room(parse_config(models, "a test"), OPTIONS)
    assert served.limits.chains < 128
    assert "ulimit" in caplog.text
