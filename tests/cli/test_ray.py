"""``--ray``: who is asked to make the chains."""

from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import Result

from atts.cli.options import opening
from atts.runs.setup import open_models

Invoke = Callable[..., Result]
SUITE = """
base: {samples: 1}
pairs: {one: {}}
problems: {a: {problems: {source: arithmetic, count: 2}}}
methods: [target-only]
"""


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--set", "method=target-only"),
        ("calibrate",),
        ("compare", "target-only", "draft-only"),
        ("suite", "s.yaml"),
    ],
)
def test_a_cluster_that_is_not_there_ends_the_command_before_any_model(
    invoke: Invoke, words: tuple[str, ...]
) -> None:
    Path("s.yaml").write_text(SUITE)
    result = invoke(*words, "--ray", "127.0.0.1:1")
    assert result.exit_code == 2
    assert "--ray 127.0.0.1:1: there is no such Ray cluster" in result.stderr
    assert "ray start --head" in result.stderr
    assert not list(Path().glob("**/chains.jsonl"))


def test_models_are_opened_here_unless_a_cluster_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with opening(None) as opened:
        assert opened is open_models
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    from atts.cluster import connection
    from atts.cluster.run import open_workers

    monkeypatch.setattr(connection, "connected", nullcontext)
    with opening("auto") as opened:
        assert opened is open_workers
