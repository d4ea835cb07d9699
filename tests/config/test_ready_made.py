"""The configurations of the source's folder: each is one, and says of itself what holds."""

from pathlib import Path

import pytest

from atts.config import load_config
from atts.runs.suite import load_suite

FOLDER = Path(__file__).parents[2] / "configs"
PAIRS = sorted(path for path in FOLDER.glob("*.yaml") if not path.name.startswith("suite"))


@pytest.mark.parametrize("path", PAIRS, ids=[path.stem for path in PAIRS])
def test_a_pair_is_a_configuration_for_servers_that_do_not_clash(path: Path) -> None:
    config = load_config(path)
    draft, target = config.draft, config.target
    assert draft.model != target.model
    assert draft.engine == target.engine != "inprocess"
    assert draft.server.port != target.server.port
    for options in (draft, target):
        assert options.server.tensor_parallel == len(options.server.gpus)
    if not draft.urls:
        assert not set(draft.server.gpus) & set(target.server.gpus)
    assert load_config(path, ["draft.engine=vllm", "target.engine=vllm"]).target.engine == "vllm"


@pytest.mark.parametrize("name", ["suite-sglang.yaml", "suite-vllm.yaml"])
def test_a_suite_has_its_pairs(name: str) -> None:
    assert {entry.pair for entry in load_suite(FOLDER / name)} <= {path.stem for path in PAIRS}
