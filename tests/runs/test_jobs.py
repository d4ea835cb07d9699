# mypy: disable-error-code="union-attr"
"""Calibrating and running, with scripted engines and real run directories."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest
from killed_run import SeededEngine, make_config, make_models
from recorded import summarised

from atts.config import Config, GateOptions
from atts.conformal.calibration import Calibration
from atts.errors import CalibrationError, ConfigError, EngineError, ProblemError
from atts.grading.grader import Grader
from atts.methods.chain import Model, Models
from atts.reports.summary_table import _rows, tokens_a_pass
from atts.runs import jobs, setup
from atts.runs.observer import SilentObserver
from atts.store.contents import CALIBRATION, CHAINS
from atts.store.environment import ENVIRONMENT, read_environments
from atts.store.run_directory import read_run
from atts.types import Author, Chain, Speculation

TESTS = Path(__file__).parents[1]


class Watch(SilentObserver):
    def __init__(self) -> None:
        super().__init__()
        self.in_flight: list[int] = []
        self.graded: list[tuple[int, int, int]] = []
        self.total = self.already = 0
        self.chains: list[Chain] = []
        self.warnings: list[str] = []

    def started(self, total: int, done: int) -> None:
        self.total, self.already = total, done

    def chain_done(self, chain: Chain) -> None:
        self.chains.append(chain)
        self.in_flight.append(self.activity.in_flight)

    def grading(self, done: int, total: int) -> None:
        self.graded.append((len(self.chains), done, total))

    def warned(self, message: str) -> None:
        self.warnings.append(message)


def write_problems(path: Path, name: str, count: int) -> Path:
    lines = [
        json.dumps({"id": f"{name}{i}", "question": f"{i}+{i}?", "answer": "4"})
        for i in range(count)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
async def config(tmp_path: Path) -> Config:
    """A configuration of 10 problems x 4 chains whose calibration has been made."""
    problems = write_problems(tmp_path / "problems.jsonl", "p", 10)
    held_out = write_problems(tmp_path / "held_out.jsonl", "h", 20)
    config = make_config(problems, tmp_path / "calibration" / CALIBRATION)
    options = config.calibration.problems.model_copy(
        update={"source": str(held_out), "count": None}
    )
    config = config.model_copy(
        update={"calibration": config.calibration.model_copy(update={"problems": options})}
    )
    await jobs.calibrate(config, make_models(0.0), tmp_path / "calibration")
    return config


def what_matters(chain: Chain) -> tuple[object, ...]:
    """A chain without its times."""
    decisions = [(t.decision.score, t.decision.take_over) for t in chain.turns if t.decision]
    return chain.key, chain.end, chain.answer, chain.text, decisions


@pytest.mark.usefixtures("config")
def test_a_calibration_holds_the_scores_of_every_turn(tmp_path: Path) -> None:
    text = (tmp_path / "calibration" / CALIBRATION).read_text()
    calibration = Calibration.from_json(text, "calibration")
    chains = read_run(tmp_path / "calibration").chains
    decisions = [t.decision for c in chains for t in c.turns if t.decision]
    assert len(chains) == 20 * 16
    recorded = sorted(
        (c.problem_id, number, t.decision.score)
        for c in chains
        for number, t in enumerate(c.turns)
        if t.decision
    )
    assert recorded == sorted(
        (problem_id, number, score)
        for problem_id, scored in calibration.scores.items()
        for turns in scored
        for number, score in enumerate(turns)
        if score is not None
    )
    assert set(calibration.scores) == {f"h{i}" for i in range(20)}
    assert max(len(c.turns) for c in chains) > 1
    # Both rounds take over at the nominal rate: within four standard deviations here.
    rate = sum(d.take_over for d in decisions) / len(decisions)
    assert rate == pytest.approx(0.4, abs=4 * (0.24 / len(decisions)) ** 0.5)


async def test_conditional_calibration_runs_other_chains_on_the_same_problems(
    config: Config, tmp_path: Path
) -> None:
    take_over = config.take_over.model_copy(
        update={"coverage": "conditional", "calibration": tmp_path / "conditional" / CALIBRATION}
    )
    config = config.model_copy(update={"take_over": take_over})
    await jobs.calibrate(config, make_models(0.0), tmp_path / "conditional")
    summary = await jobs.run(config, make_models(0.0), tmp_path / "run")
    assert summary.chains == 40
    calibrating = {c.key: c.text for c in read_run(tmp_path / "conditional").chains}
    running = {c.key: c.text for c in read_run(tmp_path / "run").chains}
    assert running.keys() < calibrating.keys()
    same = sum(calibrating[key] == text for key, text in running.items())
    assert same < len(running) / 2


async def test_running_again_makes_nothing_again(config: Config, tmp_path: Path) -> None:
    first = await jobs.run(config, make_models(0.0), tmp_path / "run")
    before = (tmp_path / "run" / CHAINS).read_bytes()
    models, watch = make_models(0.0), Watch()
    again = await jobs.run(config, models, tmp_path / "run", watch)
    assert again == first
    assert (watch.total, watch.already, watch.chains) == (40, 40, [])
    assert (tmp_path / "run" / CHAINS).read_bytes() == before


async def test_a_run_records_what_speculative_decoding_brought(
    config: Config, tmp_path: Path
) -> None:
    told = [10, 25, 25, 25, 25, 4]  # before and after each start; at last it was started again

    class Speculating(SeededEngine):
        async def speculation(self) -> Speculation:
            passes = told.pop(0)
            return Speculation(passes=passes, proposed=3 * passes, accepted=passes)

    models = make_models(0.0)
    models["target"] = models["target"]._replace(engine=Speculating())
    summaries = [await jobs.run(config, models, tmp_path / "run") for _ in range(3)]
    assert [each.speculation["target"].passes for each in summaries] == [15, 15, 19]
    run = read_run(tmp_path / "run")
    assert run.speculation == summaries[-1].speculation
    assert tokens_a_pass(summaries[-1]) == "2.00 (33 % accepted)"
    (tmp_path / "run" / ENVIRONMENT).write_text("[{}]")  # a report needs it for nothing else
    assert read_run(tmp_path / "run").speculation == {}


async def test_runs_and_calibrations_record_whose_caches_were_emptied(
    config: Config, tmp_path: Path
) -> None:
    class Forgetful(SeededEngine):
        async def empty_cache(self) -> bool:
            return True

    models = make_models(0.0)
    models["target"] = models["target"]._replace(engine=Forgetful())
    asked = config.limits.model_copy(update={"empty_caches": True})
    asking = config.model_copy(update={"limits": asked})
    directories = (tmp_path / "run", tmp_path / "calibrated")
    for _ in range(2):  # the second time a calibration has nothing to do
        await jobs.run(asking, models, directories[0])
        await jobs.calibrate(asking, models, directories[1])
    emptied = {"draft": False, "target": True}
    told = [[each.caches_emptied for each in read_environments(d)] for d in directories]
    assert told == [[emptied, emptied], [emptied]]
    await jobs.run(config, models, tmp_path / "other")
    assert [each.caches_emptied for each in read_environments(tmp_path / "other")] == [{}]


@pytest.mark.parametrize("folders", [(), (Path("servers"),)])
async def test_only_runs_that_are_compared_empty_the_caches_of_servers_by_themselves(
    config: Config, tmp_path: Path, folders: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, ...]] = []

    async def empty_caches(
        _: Config, models: Models, authors: object, folders: tuple[Path, ...]
    ) -> dict[Author, bool]:
        del models, authors
        asked.append(folders)
        return {}

    monkeypatch.setattr(jobs, "empty_caches", empty_caches)
    prepared = setup.prepare_run(config, tmp_path)
    with Grader() as grader:
        name, observe = "a", lambda _: SilentObserver()
        await jobs.run(config, make_models(0.0), tmp_path / "run")
        await jobs.complete(
            prepared, make_models(0.0), tmp_path / "compared", grader, observe, name, folders
        )
    assert asked == [(), folders]


def run_and_kill(config: Config, directory: Path, after_chains: int) -> None:
    """Run in another process, and kill it -9 once so many chains are written."""
    script = str(Path(__file__).with_name("killed_run.py"))
    arguments = [config.problems.source, str(config.take_over.calibration), str(directory)]
    chains = directory / CHAINS
    # The package under test, wherever it was found, and the tests' own modules.
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    with subprocess.Popen(
        [sys.executable, script, *arguments], env=os.environ | {"PYTHONPATH": path}
    ) as process:
        try:
            while not chains.exists() or chains.read_bytes().count(b"\n") < after_chains:
                assert process.poll() is None, "the run ended before it could be killed"
                time.sleep(0.005)
        finally:
            process.send_signal(signal.SIGKILL)


async def test_a_killed_run_resumes_to_the_same_chains(config: Config, tmp_path: Path) -> None:
    undisturbed = await jobs.run(config, make_models(0.0), tmp_path / "undisturbed")
    killed = tmp_path / "killed"
    run_and_kill(config, killed, after_chains=8)
    with (killed / CHAINS).open("ab") as file:
        file.write(b'{"problem_id": "p9", "sam')  # as a kill in mid-write leaves it
    survivors = (killed / CHAINS).read_bytes().count(b"\n")
    assert 8 <= survivors < 40

    watch = Watch()
    resumed = await jobs.run(config, make_models(0.0), killed, watch)
    assert (watch.already, len(watch.chains)) == (survivors, 40 - survivors)
    assert sorted(map(what_matters, read_run(killed).chains), key=str) == sorted(
        map(what_matters, read_run(tmp_path / "undisturbed").chains), key=str
    )
    assert resumed.accuracy == undisturbed.accuracy
    assert resumed.take_over == undisturbed.take_over


async def test_a_resumed_calibration_comes_to_the_same(config: Config, tmp_path: Path) -> None:
    whole = tmp_path / "calibration"
    cut = tmp_path / "cut"
    cut.mkdir()
    for file in whole.iterdir():
        (cut / file.name).write_bytes(file.read_bytes())
    lines = (cut / CHAINS).read_bytes().splitlines(keepends=True)
    (cut / CHAINS).write_bytes(b"".join(lines[:40]))
    (cut / CALIBRATION).unlink()
    await jobs.calibrate(config, make_models(0.0), cut)
    assert len(read_run(cut).chains) == 320
    # What decides in the second round is the first, half of which was made anew.
    assert (cut / CALIBRATION).read_bytes() == (whole / CALIBRATION).read_bytes()


async def test_a_calibration_does_not_depend_on_the_order_in_which_chains_end(
    config: Config, tmp_path: Path
) -> None:
    one = config.model_copy(update={"limits": config.limits.model_copy(update={"chains": 3})})
    await jobs.calibrate(one, make_models(0.0), tmp_path / "few")
    few, many = (read_run(tmp_path / name) for name in ("few", "calibration"))
    assert [c.key for c in few.chains] != [c.key for c in many.chains]
    assert sorted(map(what_matters, few.chains)) == sorted(map(what_matters, many.chains))
    texts = [(tmp_path / name / CALIBRATION).read_text() for name in ("few", "calibration")]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("control", ["online", "adaptive"])
async def test_a_run_that_learns_resumes_with_what_it_learnt(
    config: Config, tmp_path: Path, control: str
) -> None:
    """One chain at a time, so that the order of arrival is that of the problems."""
    take_over = config.take_over.model_copy(update={"control": control, "calibration": None})
    one = config.limits.model_copy(update={"chains": 1})
    config = config.model_copy(update={"take_over": take_over, "limits": one})
    await jobs.run(config, make_models(0.0), tmp_path / "undisturbed")
    cut = tmp_path / "cut"
    cut.mkdir()
    for file in (tmp_path / "undisturbed").iterdir():
        (cut / file.name).write_bytes(file.read_bytes())
    lines = (cut / CHAINS).read_bytes().splitlines(keepends=True)
    (cut / CHAINS).write_bytes(b"".join(lines[:17]))
    await jobs.run(config, make_models(0.0), cut)

    def decided(directory: Path) -> list[tuple[object, ...]]:
        decisions = [t.decision for c in read_run(directory).chains for t in c.turns if t.decision]
        return [(d.order, d.score, d.p_value, d.threshold, d.take_over) for d in decisions]

    assert decided(cut) == decided(tmp_path / "undisturbed")
    assert [order for order, *_ in decided(cut)] == list(range(len(decided(cut))))
    assert not (cut / CALIBRATION).exists()


async def test_a_drift_is_told_while_the_run_goes_on_and_in_its_summary(
    config: Config, tmp_path: Path
) -> None:
    assert config.take_over.calibration
    content = json.loads(config.take_over.calibration.read_text())
    for chains in content["scores"].values():
        chains[:] = [[score - 9.0 for score in turns] for turns in chains]
    shifted = tmp_path / "shifted.json"
    shifted.write_text(json.dumps(content))
    problems = config.problems.model_copy(
        update={"source": str(write_problems(tmp_path / "many.jsonl", "m", 40))}
    )
    changes: dict[str, object] = {"problems": problems, "samples": 1}
    config = config.model_copy(update=changes)
    for path, drifted in ((config.take_over.calibration, False), (shifted, True)):
        take_over = config.take_over.model_copy(update={"calibration": path})
        watch, directory = Watch(), tmp_path / f"run-{drifted}"
        summary = await jobs.run(
            config.model_copy(update={"take_over": take_over}), make_models(0.0), directory, watch
        )
        assert summary.drift
        assert summary.drift.alarm == drifted
        assert len(watch.warnings) == drifted
        assert all("higher than those of the calibration" in text for text in watch.warnings)
        again = read_run(directory)
        assert summarised(*again[:3], again.calibration) == summary


async def test_scores_that_a_gate_selects_are_not_taken_for_a_drift(
    config: Config, tmp_path: Path
) -> None:
    gate = GateOptions(share=0.4, by="coin")
    for given, compared in ((config.take_over.calibration, False), (None, True)):
        take_over = config.take_over.model_copy(
            update={"control": "adaptive", "gate": gate, "calibration": given}
        )
        gated = config.model_copy(update={"take_over": take_over})
        summary = await jobs.run(gated, make_models(0.0), tmp_path / f"run-{compared}")
        assert (summary.drift is not None) == compared
        passed = [
            d.passed for c in read_run(tmp_path / f"run-{compared}").chains for _, d in c.decisions
        ]
        assert 0.3 < sum(passed) / len(passed) < 0.5
        assert summary.take_over
        assert summary.take_over.decisions == len(passed)
        assert summary.take_over.passed == sum(passed)
        rows = dict(_rows([summary], by_turn=True))
        assert rows["passed unscored, %"](summary) == f"{100 * sum(passed) / len(passed):.1f}"


async def test_failed_chains_are_kept_until_told_to_retry(config: Config, tmp_path: Path) -> None:
    models = make_models(0.0)

    class BrokenEngine(SeededEngine):
        async def score(self, *_: object) -> NoReturn:
            raise EngineError("out of memory")

    models["target"] = Model(BrokenEngine(), models["target"].tokenizer)
    first = await jobs.run(config, models, tmp_path / "run")
    assert (first.failed, first.chains) == (40, 40)
    kept = await jobs.run(config, make_models(0.0), tmp_path / "run")
    assert kept.failed == 40
    mended = await jobs.run(config, make_models(0.0), tmp_path / "run", retry_failed=True)
    assert (mended.failed, mended.chains) == (0, 40)


async def test_bad_input_is_refused_before_any_model_is_loaded(
    config: Config, tmp_path: Path
) -> None:
    def changed(**changes: object) -> Config:
        return config.model_copy(update=changes)

    take_over = config.take_over
    without = changed(take_over=take_over.model_copy(update={"calibration": None}))
    with pytest.raises(CalibrationError, match="atts calibrate"):
        setup.prepare_run(without)
    missing = changed(
        take_over=take_over.model_copy(update={"calibration": tmp_path / "none.json"})
    )
    with pytest.raises(CalibrationError, match=r"none\.json"):
        setup.prepare_run(missing)
    corrupt = tmp_path / "corrupt.json"
    corrupt.write_text('{"version": 1, "sco')
    with pytest.raises(CalibrationError, match=r"corrupt\.json is not a calibration"):
        setup.prepare_run(changed(take_over=take_over.model_copy(update={"calibration": corrupt})))
    with pytest.raises(CalibrationError, match=r"sampling\.temperature: 0\.8.* 0\.5 in the run"):
        setup.prepare_run(changed(sampling=config.sampling.model_copy(update={"temperature": 0.5})))
    with pytest.raises(ProblemError, match="nowhere"):
        setup.prepare_run(
            changed(problems=config.problems.model_copy(update={"source": "nowhere.jsonl"}))
        )


async def test_another_configuration_in_the_same_directory_is_refused(
    config: Config, tmp_path: Path
) -> None:
    await jobs.run(config, make_models(0.0), tmp_path / "run")
    with pytest.raises(ConfigError, match="seed"):
        await jobs.run(config.model_copy(update={"seed": 7}), make_models(0.0), tmp_path / "run")
    wider = config.limits.model_copy(update={"chains": 1})
    resumed = await jobs.run(
        config.model_copy(update={"limits": wider}), make_models(0.0), tmp_path / "run"
    )
    assert resumed.chains == 40


async def test_what_the_chains_do_is_counted(config: Config, tmp_path: Path) -> None:
    watch = Watch()
    summary = await jobs.run(config, make_models(0.0), tmp_path / "run", watch)
    activity = watch.activity
    assert summary.take_over
    assert activity.nominal == 0.4
    assert activity.decisions == summary.take_over.decisions
    assert activity.rate == pytest.approx(summary.take_over.realised.estimate)
    chains = read_run(tmp_path / "run").chains
    assert activity.turns == sum(len(chain.turns) for chain in chains)
    assert activity.written == {
        "draft": summary.tokens.draft_written,
        "target": summary.tokens.target_written,
    }
    assert (activity.in_flight, set(activity.at_work.values())) == (0, {0})
    assert max(watch.in_flight) == 3  # of a pool of 4, one has just ended


async def test_grading_is_told_after_the_chains(config: Config, tmp_path: Path) -> None:
    problems = tmp_path / "hard.jsonl"
    problems.write_text(json.dumps({"id": "h", "question": "?", "answer": "\\log_{2} 16"}) + "\n")
    options = config.problems.model_copy(update={"source": str(problems)})
    config = config.model_copy(update={"method": "draft-only", "problems": options})
    watch = Watch()
    summary = await jobs.run(config, make_models(0.0), tmp_path / "run", watch)
    assert summary.accuracy.estimate > 0
    assert watch.graded == [(4, 1, 1)]  # one pair of answers, when all four chains were there


LOST = "EngineConnectionError: http://127.0.0.1:1 (m): Cannot connect"
OF_ITS_OWN = "RequestRefusedError: http://127.0.0.1:1 (m): status 400"


def fail(directory: Path, failures: dict[tuple[str, int], str]) -> None:
    """Make recorded chains failed ones, as runs have recorded them ever since."""
    lines = [json.loads(line) for line in (directory / CHAINS).read_text().splitlines()]
    for line in lines:
        if error := failures.get((line["problem_id"], line["sample"])):
            line |= {"end": "failed", "error": error, "answer": None, "turns": []}
    (directory / CHAINS).write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("retry_failed", [False, True])
async def test_the_same_command_makes_lost_chains_again(
    config: Config, tmp_path: Path, retry_failed: bool
) -> None:
    """And those that failed for a reason of their own only where it is asked to."""
    await jobs.run(config, make_models(0.0), tmp_path / "run")
    before = read_run(tmp_path / "run").chains
    fail(tmp_path / "run", {("p0", 0): LOST, ("p3", 2): LOST, ("p5", 1): OF_ITS_OWN})
    watch = Watch()
    summary = await jobs.run(config, make_models(0.0), tmp_path / "run", watch, retry_failed)
    again = {("p0", 0), ("p3", 2)} | ({("p5", 1)} if retry_failed else set())
    assert {chain.key for chain in watch.chains} == again
    assert (watch.already, summary.failed) == (40 - len(again), 0 if retry_failed else 1)
    after = read_run(tmp_path / "run").chains
    if retry_failed:
        assert sorted(map(what_matters, after)) == sorted(map(what_matters, before))
