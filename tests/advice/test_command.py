"""``atts advise`` as a user has it, and ``atts.advise``: on stand-ins, and on stored runs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

import atts
from atts.advice.advising import read_advice
from atts.cli.app import app
from atts.config import Config
from atts.errors import ConfigError
from atts.methods.chain import Models
from atts.store.run_directory import config_yaml

Invoke = Callable[..., Result]
QUICK = ("--problems", 3, "--samples", 2, "--in-flight", 1, "--in-flight", 4)
WAY = "atts:take_over.rate=0.4"


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(each) for each in arguments])


@pytest.fixture
def my_yaml(planned: Config, tmp_path: Path, opened: list[Models]) -> str:
    (tmp_path / "my.yaml").write_text(config_yaml(planned))
    assert not opened
    return "my.yaml"


def test_it_measures_predicts_and_writes(invoke: Invoke, my_yaml: str, tmp_path: Path) -> None:
    told = invoke("advise", "-c", my_yaml, *QUICK, "--way", WAY, "--loss", 0.9, "--out", "here",
                  "--write", "advised.yaml")  # fmt: skip
    assert told.exit_code == 0, told.output
    for part in ("minus target-only", "last chain, s", "limited by", "cache"):
        assert part in told.stdout
    assert "Probing the engines: 4 in flight" in told.stderr
    advice = read_advice(tmp_path / "here" / "advice.json")
    assert advice.why in told.stderr.replace("\n", " ")
    assert [way.name for way in advice.ways] == ["target-only", WAY]
    assert [one.chains for one in advice.ways[0].predictions] == [12, 12]
    tree = yaml.safe_load((tmp_path / "advised.yaml").read_text())
    assert tree["method"] == ("atts" if advice.choice else "target-only")
    assert tree["limits"]["chains"] == advice.in_flight

    runs = sorted(str(path) for path in (tmp_path / "here").glob("*-*") if path.is_dir())
    again = invoke("advise", *runs, "--d", 0.1, "--s", 0.01, "--json", "--loss", 0.9)
    found = json.loads(again.stdout)
    assert found["by"] == "d = 0.1 and s = 0.01"
    assert found["ways"][0]["relative"] == 1.0
    priced = invoke("advise", *runs, "--prices", "here/advice.json", "--format", "csv")
    assert "limited by" in priced.stdout
    assert "Not predicted" not in priced.stderr, "what was probed is what is asked for"
    beyond = invoke("advise", *runs, "--prices", "here/advice.json", "--in-flight", 99)
    assert "Not predicted: 99 in flight" in beyond.stderr.replace("\n", " ")
    timed = invoke("advise", "here", "--format", "md")
    assert "time a chain, x" in timed.stdout
    assert timed.exit_code == 0, timed.output


def test_what_was_not_probed_is_not_predicted(invoke: Invoke, my_yaml: str, tmp_path: Path) -> None:
    told = invoke("advise", "-c", my_yaml, *QUICK, "--way", WAY, "--seconds", 0, "--out", "here")
    assert told.exit_code == 0, told.output
    said = told.stderr.replace("\n", " ")
    assert "Not predicted: 4 in flight, which did not fit 0 s of probing" in said
    advice = read_advice(tmp_path / "here" / "advice.json")
    assert [[one.in_flight for one in way.predictions] for way in advice.ways] == [[1], [1]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--d", 0.1], "--d and --s are given together"),
        (["--prices", "x.json"], "are for stored runs"),
        (["--loss", 1.5], "must lie in [0, 1)"),
        (["--way", "nonsense"], "nonsense is no method"),
    ],
)
def test_wrong_use_is_told_before_a_model_is_opened(
    invoke: Invoke, my_yaml: str, opened: list[Models], options: list[object], message: str
) -> None:
    result = invoke("advise", "-c", my_yaml, *options)
    assert result.exit_code == 2
    assert message in result.stderr.replace("\n", " ")
    assert not opened


@pytest.mark.usefixtures("opened")
async def test_as_a_function(planned: Config, tmp_path: Path) -> None:
    found = await atts.advise(
        planned, ways=[WAY], directory=tmp_path / "here", problems=3, samples=2, in_flight=(1, 4),
        loss=0.9, write=tmp_path / "advised.yaml",
    )  # fmt: skip
    assert atts.load_config(tmp_path / "advised.yaml").limits.chains == found.in_flight
    runs = [path for path in (tmp_path / "here").glob("*-*") if path.is_dir()]
    again = await atts.advise(runs=runs, loss=0.9, prices=tmp_path / "here" / "advice.json")
    assert again.prices == found.prices
    with pytest.raises(ConfigError, match="stored runs"):
        await atts.advise(planned, costs=(0.1, 0.1))
    with pytest.raises(ConfigError, match="not both"):
        await atts.advise(runs=runs, costs=(0.1, 0.1), prices="x")
    with pytest.raises(ConfigError, match="0 or more"):
        await atts.advise(runs=runs, costs=(-0.1, 0.1))
    with pytest.raises(ConfigError, match="1 or more"):
        await atts.advise(planned, directory=tmp_path / "x", in_flight=())
