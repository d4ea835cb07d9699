"""What the commands do, as functions: on one small run that several tests share."""

from pathlib import Path

import pytest
from fakes import FakeEngine, byte_tokenizer

import atts
from atts.errors import ConfigError, GradingError, ProblemError
from atts.methods.chain import Model, Models


def models() -> Models:
    return {
        author: Model(FakeEngine(lambda _: "So \\boxed{4}"), byte_tokenizer())
        for author in ("draft", "target")
    }


async def make_run(folder: Path, method: str = "atts") -> str:
    source = folder / "problems.jsonl"
    source.write_text('{"id": "p", "question": "2 + 2?", "answer": "4"}\n')
    config = atts.load_config(
        settings=[f"method={method}", f"problems.source={source}", "samples=2"]
    )
    await atts.run(config, models(), str(folder / method))  # a text, as everywhere
    return str(folder / method)


async def test_report_regrade_and_compare(tmp_path: Path) -> None:
    one, other = await make_run(tmp_path), await make_run(tmp_path, "draft-only")
    html, figures = tmp_path / "report.html", tmp_path / "figures"
    found = atts.report(one, Path(other), html=str(html), figures=str(figures))
    assert list(found) == ["atts", "draft-only"]
    assert {summary.accuracy and summary.accuracy.estimate for summary in found.values()} == {1.0}
    assert html.read_text().startswith("<!")
    assert any(figures.iterdir())

    compared = await atts.compare([one, other], reference=other, folder=str(tmp_path))
    assert (compared.reference, compared.problems) == ("draft-only", 1)

    assert atts.read_run(one).chains[0].answer == "4"
    corrected = tmp_path / "corrected.jsonl"
    corrected.write_text('{"id": "p", "question": "2 + 2?", "answer": "5"}\n')
    dry = await atts.regrade(one, problems=str(corrected), dry_run=True)
    assert (dry.corrected, dry.written) == (["p"], [])
    regraded = await atts.regrade(Path(one), problems=str(corrected))
    assert regraded.after.accuracy
    assert regraded.after.accuracy.estimate == 0.0
    assert {record["correct"] for record in atts.read_records(one)} == {False}


async def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one run"):
        atts.report()
    one = await make_run(tmp_path)
    with pytest.raises(ConfigError, match="the reference x is none of the runs"):
        await atts.compare([one], reference="x")
    with pytest.raises(ConfigError, match="name the model"):
        await atts.regrade(one, judge="llm")
    with pytest.raises(ProblemError):
        await atts.compare(["atts:problems.source=missing.jsonl"], folder=str(tmp_path))
    with pytest.raises(GradingError, match="budget"):
        await atts.compare([one], budget=0.5)


async def test_a_run_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(atts.AttsError, match="nowhere"):
        await atts.compare(["atts:draft.model=/nowhere"], folder=tmp_path)


async def test_tuning_refuses_what_cannot_be_certified(tmp_path: Path) -> None:
    settings = ["calibration.problems.count=4"]
    with pytest.raises(ConfigError, match="too few to certify"):
        await atts.tune(models=models(), directory=str(tmp_path), settings=settings)


async def test_tuning_gives_what_it_found(tmp_path: Path) -> None:
    found, certificate = await atts.tune(
        models=models(),
        directory=str(tmp_path),
        settings=["calibration.problems.count=20", "samples=1", "calibration.samples=1"],
        rates=[0.5],
        loss=0.5,
        confidence=0.5,
    )
    assert [point.rate for point in found.points] == [0.5]
    assert (certificate is None) == (found.chosen is None)


async def test_simulating_works_inside_a_running_loop(tmp_path: Path) -> None:
    run = await make_run(tmp_path)
    named = ["draft.model=QwQ-32B", "target.model=QwQ-32B"]
    (outcome,) = atts.simulate(run, ["atts"], settings=named)
    assert outcome.chains == 2
    assert outcome.wall_seconds > 0.0


def test_answers_alone() -> None:
    assert atts.extract_answer("So \\boxed{\\frac{1}{2}}") == "\\frac{1}{2}"
    assert atts.extract_answer("The answer is (B).", ("3", "4")) == "B"
    assert atts.same_answer("1/2", "\\frac{1}{2}") is True
    assert atts.same_answer("x+1", "1+x") is True
    assert atts.same_answer("7", "9" * 10_000) is None
