"""Directories that version 0.1.0 left: a suite of the bundled pair, its calibration and two runs.

They must be read, reported, graded and resumed like those of today.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from atts.analysis.graded_run import grade_run
from atts.analysis.profile import profile
from atts.analysis.summary import summarise
from atts.cli.app import app
from atts.conformal.calibration import Calibration
from atts.exchange.tables import read_records
from atts.store.contents import CALIBRATION, CHAINS, CONFIG, SUMMARY
from atts.store.environment import read_environments
from atts.store.run_directory import read_run

BEFORE = Path(__file__).parents[1] / "data" / "before"
ALONE = Path("suite/bundled/arithmetic/target-only")
ATTS = Path("suite/bundled/arithmetic/atts-marginal")
CALIBRATED = Path("suite/bundled/calibration-marginal-5d07eccc2733b487")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them to work in; paths in them start here."""
    shutil.copytree(BEFORE, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def atts(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


def as_then(now: Any, then: Any) -> Any:  # noqa: ANN401  (whatever JSON holds)
    """``now``, by the keys of ``then``; numbers that agree to 1e-12 are those of ``then``, as the
    last digits of quantiles differ between libraries.
    """
    if isinstance(then, dict):
        return {key: as_then(now[key], value) for key, value in then.items()}
    if isinstance(then, list) and isinstance(now, list) and len(now) == len(then):
        return [as_then(a, b) for a, b in zip(now, then, strict=True)]
    if isinstance(then, float) and math.isclose(now, then, rel_tol=1e-12, abs_tol=1e-12):
        return then
    return now


@pytest.mark.parametrize("directory", [ALONE, ATTS])
def test_a_run_is_summed_up_as_it_was(folder: Path, directory: Path) -> None:
    run = read_run(folder / directory)
    then = json.loads((folder / directory / SUMMARY).read_text())
    now = json.loads(summarise(grade_run(run)).model_dump_json())
    if then["drift"]:  # turn 0 has its own group now, so more evidence is needed
        del then["drift"]["needed"]
    assert as_then(now, then) == then
    assert len(run.chains) == 4
    assert profile(run).chains == 4
    assert len(read_environments(folder / directory)) == 1
    assert [row["correct"] for row in read_records(folder / directory)] == [True] * 4


@pytest.mark.parametrize("directory", [ALONE, ATTS, CALIBRATED])
def test_its_configuration_has_the_digest_that_it_had(folder: Path, directory: Path) -> None:
    first = (folder / directory / CONFIG).read_text().splitlines()[0]
    assert first == f"# digest: {read_run(folder / directory).config.digest()}"


def test_its_grades_are_read(folder: Path) -> None:
    assert len(read_run(folder / ATTS).grades) == 4
    assert not read_run(folder / ALONE).grades


def test_its_calibration_follows_from_its_chains(folder: Path) -> None:
    run = read_run(folder / CALIBRATED)
    text = (folder / CALIBRATED / CALIBRATION).read_text()
    assert json.loads(Calibration.from_chains(run.chains, run.config).to_json()) == json.loads(text)
    assert read_run(folder / ATTS).calibration == Calibration.from_json(text, CALIBRATION)


def test_a_suite_that_is_done_is_not_done_again(folder: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(folder.rglob(CHAINS))}
    assert len(before) == 3
    result = atts("suite", "suite.yaml", "--out", "suite")
    assert result.stdout.count("done") == 2
    assert {path: path.read_bytes() for path in sorted(folder.rglob(CHAINS))} == before


def test_a_run_goes_on_where_it_stopped(folder: Path) -> None:
    path = folder / ATTS / CHAINS
    *lines, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines))
    atts("run", "--config", ATTS / CONFIG, "--out", ATTS)
    now = path.read_bytes().splitlines(keepends=True)
    assert now[:-1] == lines
    made, lost = json.loads(now[-1]), json.loads(last)
    assert (made["problem_id"], made["sample"]) == (lost["problem_id"], lost["sample"])
    assert made["end"] != "failed"


def test_reports_of_it_are_made(folder: Path) -> None:
    for command in ("report", "compare"):
        assert "accuracy per chain" in atts(command, ALONE, ATTS).stdout
    assert "T_c" in atts("profile", ATTS).stdout
    assert "as recorded" in atts("replay", ATTS).stdout
    assert (folder / ATTS).is_dir()
