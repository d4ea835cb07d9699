"""Tuning, with scripted engines and real run directories, and its command."""

import json
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from killed_run import make_config, make_models
from scipy.stats import binom
from typer.testing import CliRunner

from atts.analysis.graded_run import GradedRun, grade_run
from atts.cli.app import app
from atts.cli.tune import _refusal
from atts.config import Config, parse_config
from atts.errors import ConfigError
from atts.grading.grader import Grader
from atts.methods.chain import Models
from atts.problems import load_problems
from atts.runs import setup
from atts.runs.tuning import certify, prepare_tuning, tune
from atts.store.contents import CALIBRATION
from atts.store.run_directory import RecordedRun, read_run
from atts.types import Chain, Problem

PROBLEMS = [Problem(id=f"p{n}", question="2 + 2?", answer="4") for n in range(60)]


def answered(problem: str, *answers: str | None) -> list[Chain]:
    return [
        Chain(
            problem_id=problem,
            sample=sample,
            end="answer" if answer else "turns",
            answer=answer,
            turns=(),
            started=0,
            done=1,
        )
        for sample, answer in enumerate(answers)
    ]


def run_of(answers: Callable[[int], tuple[str | None, ...]]) -> GradedRun:
    chains = tuple(chain for n in range(60) for chain in answered(f"p{n}", *answers(n)))
    with Grader() as grader:
        return grade_run(RecordedRun(Config(), tuple(PROBLEMS), chains), grader)


def test_losses_are_problems_that_only_the_target_solved() -> None:
    target = run_of(lambda n: ("4", "4", "5") if n < 50 else ("5", "5", None))
    tried = {
        0.8: run_of(lambda _: ("4", "5", "4")),
        0.4: run_of(lambda n: ("4", "4", "4") if n >= 2 else (None, None, "5")),
        0.2: run_of(lambda n: ("5", "5", "4") if n < 25 else ("4", "4", "4")),
        0.1: run_of(lambda _: ("4", "4", "4")),
    }
    tuning = certify(target, tried, limit=0.1, confidence=0.9)
    assert [point.rate for point in tuning.points] == [0.8, 0.4, 0.2, 0.1]
    assert [point.losses for point in tuning.points] == [0, 2, 25, 0]
    # 0.1 comes after a rate that failed, so it is not even tested.
    assert [point.certified for point in tuning.points] == [True, True, False, False]
    assert tuning.chosen == tuning.points[1]
    assert tuning.target.majority_vote.estimate == pytest.approx(50 / 60)
    assert tuning.points[0].majority_vote.estimate == 1.0, "what is won does not count against it"


def test_a_tied_vote_counts_as_a_loss_where_it_can() -> None:
    target, tried = run_of(lambda _: ("4", "5")), {0.5: run_of(lambda _: ("5", "4"))}
    tuning = certify(target, tried, limit=0.1, confidence=0.9)
    assert tuning.points[0].losses == 60
    assert tuning.chosen is None


def labelled(tmp_path: Path, count: int, **take_over: object) -> Config:
    path = tmp_path / "labelled.jsonl"
    lines = [json.dumps({"id": f"t{n}", "question": f"{n}?", "answer": "4"}) for n in range(count)]
    path.write_text("\n".join(lines))
    config = make_config(tmp_path / "problems.jsonl", tmp_path / "none.json")
    tree = config.model_dump(mode="json")
    tree["calibration"] = {"problems": {"source": str(path), "count": None}, "samples": 4}
    tree["take_over"] |= {"control": "split", "calibration": None, **take_over}
    tree["stop"] |= {"repeating": False}
    return parse_config(tree, "the test")


def test_too_few_problems_are_refused_with_how_many_would_do(tmp_path: Path) -> None:
    config = labelled(tmp_path, 80)
    with pytest.raises(ConfigError, match=r"40 problems are too few.*takes 45.*so 90 in calib"):
        prepare_tuning(config, [0.5], 0.05, 0.9)
    conditional = labelled(tmp_path, 40, coverage="conditional")
    with pytest.raises(ConfigError, match=r"40 problems are too few.*takes 45 in calibration"):
        prepare_tuning(conditional, [0.5], 0.05, 0.9)


@pytest.mark.parametrize(
    "take_over", [{"control": "online"}, {"control": "adaptive"}, {"budget": {"in_flight": 2}}]
)
def test_controls_that_mix_problems_are_refused(
    tmp_path: Path, take_over: dict[str, object]
) -> None:
    with pytest.raises(ConfigError, match="losses are not independent"):
        prepare_tuning(labelled(tmp_path, 80, **take_over), [0.5], 0.1, 0.9)


@pytest.mark.parametrize(
    "stop", [{"when": "adaptive"}, {"when": "majority"}, {"repeating": True}, {"confidence": 0.9}]
)
def test_runs_that_stop_early_are_refused_before_anything_runs(
    tmp_path: Path, stop: dict[str, object]
) -> None:
    tree = labelled(tmp_path, 80).model_dump(mode="json")
    tree["stop"] |= stop
    with pytest.raises(ConfigError, match=r"votes of all chains.*Leave out all of stop"):
        prepare_tuning(parse_config(tree, "the test"), [0.5], 0.1, 0.9)


@pytest.mark.parametrize(
    ("rates", "limit", "confidence"),
    [([], 0.1, 0.9), ([0.0], 0.1, 0.9), ([0.5], 0, 0.9), ([0.5], 0.1, 1)],
)
def test_impossible_wishes_are_refused(
    tmp_path: Path, rates: list[float], limit: float, confidence: float
) -> None:
    with pytest.raises(ConfigError, match="must lie in"):
        prepare_tuning(labelled(tmp_path, 80), rates, limit, confidence)


async def test_a_tuning_calibrates_and_certifies_on_different_problems(tmp_path: Path) -> None:
    config = labelled(tmp_path, 60)
    plan = prepare_tuning(config, [0.8, 0.4], 0.4, 0.9)
    tuning, certificate = await tune(
        plan, make_models(0.0), tmp_path / "tune", [0.4, 0.8], 0.4, 0.9, lambda _: None
    )
    assert [point.rate for point in tuning.points] == [0.8, 0.4]
    assert certificate
    assert tuning.chosen
    assert certificate.rate == tuning.chosen.rate
    assert set(certificate.problem_ids) == {f"t{n}" for n in range(1, 60, 2)}
    calibration = json.loads((tmp_path / "tune/calibration-0.8" / CALIBRATION).read_text())
    assert set(calibration["scores"]) <= {f"t{n}" for n in range(0, 60, 2)}
    assert tuning.points[0].target_tokens.estimate > tuning.points[1].target_tokens.estimate

    # Again: nothing is run anew.
    models: Models = {}
    again, same = await tune(plan, models, tmp_path / "tune", [0.4, 0.8], 0.4, 0.9, lambda _: None)
    assert (again, same) == (tuning, certificate)


def test_a_run_quotes_its_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def open_models(
        _config: Config, _authors: Collection[str] | None = None
    ) -> AsyncIterator[Models]:
        yield make_models(0.0)

    monkeypatch.setattr(setup, "open_models", open_models)
    monkeypatch.chdir(tmp_path)
    config = labelled(tmp_path, 60)
    (tmp_path / "problems.jsonl").write_text('{"id": "p", "question": "?", "answer": "4"}')
    (tmp_path / "my.json").write_text(config.model_dump_json())  # YAML knows all of JSON
    command = ["tune", "-c", "my.json", "--rate", "0.8", "--loss", "0.4", "--out", "tune"]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "100"})
    assert result.exit_code == 0, result.output
    assert "target alone" in result.stdout
    *_, last = result.stdout.splitlines()
    assert last.startswith("atts run -c my.json --set take_over.rate=0.8".replace("-c", "--config"))

    result = CliRunner().invoke(app, [*last.split()[1:], "--out", "run"])
    assert result.exit_code == 0, result.output
    quote = "certified: accuracy by majority vote at most 40 points below"
    assert quote in result.stderr
    assert read_run(tmp_path / "run").certificate
    report = CliRunner().invoke(app, ["report", "run"])
    assert f"run: {quote}" in report.stderr
    assert len(load_problems(config.problems)) == 1

    result = CliRunner().invoke(app, [*command, "--loss", "0.02"])
    assert result.exit_code == 2
    assert "30 problems are too few" in result.stderr
    result = CliRunner().invoke(app, [*last.split()[1:], "--set", "samples=2", "--out", "other"])
    assert result.exit_code == 2
    assert "the certificate was made for another configuration: samples is 4" in result.stderr
    result = CliRunner().invoke(
        app, [*last.split()[1:], "--set", "stop.when=adaptive", "--out", "early"]
    )
    assert result.exit_code == 2
    assert "stop.when is 'never' there, 'adaptive' in the run" in " ".join(result.stderr.split())


def test_what_is_not_certified_is_said_plainly() -> None:
    target = run_of(lambda _: ("4",))
    few = certify(target, {0.8: run_of(lambda n: ("4" if n > 2 else "5",))}, 0.1, 0.9)
    assert few.chosen is None
    assert "3 of 60 problems are lost" in _refusal(few)
    # 5 % of 78 is 4, rounded up.
    assert binom.cdf(4, 78, 0.1) <= 0.1 < binom.cdf(4, 77, 0.1)
    assert "as large a share is lost of more problems, 78 would do" in _refusal(few)
    many = certify(target, {0.8: run_of(lambda n: ("4" if n > 9 else "5",))}, 0.1, 0.9)
    assert "no number of problems would do" in _refusal(many)
