"""docs/records.md: each of its three hooks is told of a run, by stand-ins for what they send to."""

import re
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from fake_hub import a_run

from atts.analysis.graded_run import grade_run
from atts.analysis.summary import summarise
from atts.config import Config
from atts.runs.events import Event
from atts.store.run_directory import read_run

PAGE = (Path(__file__).parents[2] / "docs" / "records.md").read_text(encoding="utf-8")
HOOKS = [
    block for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M) if "hook" in block
]


@pytest.fixture
def events(tmp_path: Path) -> list[Event]:
    a_run(tmp_path / "run")
    run = read_run(tmp_path / "run")
    begun = Event("begun", tmp_path / "run", Config(), 0, 2)
    chains = [
        begun._replace(kind="chain", done=number, chain=chain)
        for number, chain in enumerate(run.chains, start=1)
    ]
    return [begun, *chains, begun._replace(kind="ended", done=2, summary=summarise(grade_run(run)))]


def told(hook: str, events: list[Event], monkeypatch: pytest.MonkeyPatch, *modules: str) -> Any:  # noqa: ANN401
    """The stand-in for the first module, after the hook was told everything."""
    stand_ins: dict[str, Any] = {}
    for name in modules:
        stand_ins[name] = MagicMock()
        monkeypatch.setitem(sys.modules, name, stand_ins[name])
    names: dict[str, Any] = {}
    exec(hook, names)  # noqa: S102 - our own page
    for event in events:
        names["hook"](event)
    return stand_ins[modules[0]]


def test_weights_and_biases(events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = told(HOOKS[0], events, monkeypatch, "wandb")
    assert wandb.init.call_args.kwargs["name"] == "run"
    assert [call.args for call in wandb.log.call_args_list] == [
        ({"tokens": 4, "seconds": 2.0}, 1),
        ({"tokens": 0, "seconds": 1.0}, 2),
    ]
    wandb.summary.__setitem__.assert_called_once_with("accuracy", 0.5)
    wandb.finish.assert_called_once_with()


def test_mlflow(events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = told(HOOKS[1], events, monkeypatch, "mlflow")
    assert mlflow.log_params.call_args.args[0]["take_over.rate"] == Config().take_over.rate
    assert [call.args for call in mlflow.log_metric.call_args_list] == [
        ("target_tokens", 4, 1),
        ("target_tokens", 0, 2),
        ("accuracy", 0.5),
    ]
    mlflow.end_run.assert_called_once_with()


def test_tensorboard(events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    board = told(HOOKS[2], events, monkeypatch, "torch.utils.tensorboard")
    (folder,) = {call.args[0] for call in board.SummaryWriter.call_args_list}
    assert folder == "tensorboard/run"
    writer = board.SummaryWriter.return_value
    assert [call.args for call in writer.add_scalar.call_args_list] == [
        ("target_tokens", 4, 1),
        ("target_tokens", 0, 2),
    ]
    writer.close.assert_called_once_with()
