"""What is prepared once for a run, and runs that complete themselves with it."""

import json
from pathlib import Path

import pytest
from killed_run import make_models

from atts.analysis.summary import Summary
from atts.config import Config, parse_config
from atts.errors import CalibrationError, ProblemError
from atts.grading.grader import Grader
from atts.runs import setup
from atts.runs.jobs import complete
from atts.runs.observer import SilentObserver
from atts.runs.setup import finished_run, lacks_calibration, prepare_run
from atts.store.contents import CALIBRATION, CHAINS
from atts.types import Chain


@pytest.fixture
def config(tmp_path: Path) -> Config:
    for name, count in (("p", 3), ("h", 4)):
        lines = [
            json.dumps({"id": f"{name}{i}", "question": f"{i}?", "answer": "4"})
            for i in range(count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")

    def problems(name: str) -> dict[str, object]:
        return {"source": str(tmp_path / f"{name}.jsonl"), "count": None}

    return parse_config(
        {
            "problems": problems("p"),
            "samples": 2,
            "turns": {"max_turns": 4, "draft_tokens": 9, "target_tokens": 9},
            "take_over": {"control": "split"},
            "calibration": {"problems": problems("h"), "samples": 2},
        },
        "a test",
    )


def calibration_directory(config: Config, folder: Path) -> Path:
    lacking = prepare_run(config, folder).lacking
    assert lacking
    return lacking.directory


async def make(config: Config, folder: Path, named: list[str]) -> Summary:
    def observe(name: str) -> SilentObserver:
        named.append(name)
        return SilentObserver()

    prepared = prepare_run(config, folder)
    with Grader() as grader:
        made = await complete(prepared, make_models(0.0), folder / "run", grader, observe, "it")
    return made.summary


async def test_the_calibration_is_made_once_and_the_run_is_gone_on_with(
    config: Config, tmp_path: Path
) -> None:
    named: list[str] = []
    assert finished_run(tmp_path / "run", config) is None
    first = await make(config, tmp_path, named)
    assert named == ["it: calibration", "it"]
    made = calibration_directory(config, tmp_path)
    assert (made / CALIBRATION).is_file()
    run = finished_run(tmp_path / "run", config)
    assert run
    assert run.config.take_over.calibration == made / CALIBRATION
    # A chain that is lost is made again, by the calibration that is there.
    calibrated = (made / CHAINS).read_bytes()
    chains = (tmp_path / "run" / CHAINS).read_text().splitlines(keepends=True)
    (tmp_path / "run" / CHAINS).write_text("".join(chains[:-1]))
    assert finished_run(tmp_path / "run", config) is None
    again = await make(config, tmp_path, named)
    assert again.accuracy_by_problem == first.accuracy_by_problem
    assert (made / CHAINS).read_bytes() == calibrated


async def test_another_configuration_or_calibration_is_not_finished_run(
    config: Config, tmp_path: Path
) -> None:
    await make(config, tmp_path, [])
    made = calibration_directory(config, tmp_path)

    def by(path: Path) -> Config:
        options = config.take_over.model_copy(update={"calibration": path})
        return config.model_copy(update={"take_over": options})

    assert finished_run(tmp_path / "run", by(made / CALIBRATION)) is not None
    tree = json.loads((made / CALIBRATION).read_text())
    tree["scores"].pop("h0")
    (tmp_path / "other.json").write_text(json.dumps(tree))
    assert finished_run(tmp_path / "run", by(tmp_path / "other.json")) is None
    assert finished_run(tmp_path / "run", by(tmp_path / "missing.json")) is None
    assert finished_run(tmp_path / "run", config.model_copy(update={"seed": 1})) is None


async def test_a_failed_chain_is_not_finished_run(config: Config, tmp_path: Path) -> None:
    await make(config, tmp_path, [])
    path = tmp_path / "run" / CHAINS
    lines = path.read_text().splitlines()
    lost = Chain.model_validate_json(lines[0]).model_copy(update={"end": "failed", "error": "lost"})
    path.write_text("\n".join([lost.model_dump_json(), *lines[1:], ""]))
    assert finished_run(tmp_path / "run", config) is None
    summary = await make(config, tmp_path, [])
    assert summary.failed == 0
    assert finished_run(tmp_path / "run", config) is not None


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({"take_over": {"control": "split"}}, True),
        ({"take_over": {"control": "split"}, "method": "target-only"}, False),
        ({}, False),
        ({"take_over": {"control": "online"}}, False),
        ({"take_over": {"control": "adaptive"}}, False),
        ({"take_over": {"control": "split", "calibration": "mine.json"}}, False),
    ],
)
def test_a_calibration_is_made_where_it_is_needed_and_none_is_given(
    config: Config, changes: dict[str, object], needed: bool
) -> None:
    tree = config.model_dump(exclude={"take_over"}) | changes
    assert lacks_calibration(parse_config(tree, "a test")) == needed


async def test_everything_is_prepared_once(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each problem set is read once, and each control made once, for a run and its calibration."""
    happened: list[str] = []

    def noted(name: str) -> None:
        function = getattr(setup, name)

        def call(*arguments: object) -> object:
            happened.append(name)
            return function(*arguments)

        monkeypatch.setattr(setup, name, call)

    noted("load_problems")
    noted("make_control")
    await make(config, tmp_path, [])
    assert happened == ["load_problems", "load_problems", "make_control"]
    happened.clear()
    conditional = config.model_copy(
        update={"take_over": config.take_over.model_copy(update={"coverage": "conditional"})}
    )
    await make(conditional, tmp_path / "conditional", [])
    assert happened == ["load_problems", "make_control"]


def test_what_is_wrong_with_a_run_is_found_without_its_calibration(
    config: Config, tmp_path: Path
) -> None:
    with pytest.raises(CalibrationError, match="atts calibrate"):
        prepare_run(config)
    lacking = config.calibration.model_copy(
        update={"problems": config.problems.model_copy(update={"source": "nowhere.jsonl"})}
    )
    with pytest.raises(ProblemError, match="nowhere"):
        prepare_run(config.model_copy(update={"calibration": lacking}), tmp_path)
