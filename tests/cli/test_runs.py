"""``atts run``, ``calibrate``, ``demo`` and ``report``: what is called, printed and returned.

The jobs are played by a fake, so no model is loaded.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import pytest
from recorded import summarised
from typer.testing import Result

from atts.analysis.graded_run import grade_run
from atts.analysis.summary import Summary
from atts.cli.demo import demo_configs
from atts.config import Config, load_config, parse_config
from atts.conformal.calibration import Calibration
from atts.engines import loading
from atts.errors import (
    AttsError,
    CalibrationError,
    ConfigError,
    EngineError,
    GradingError,
    ProblemError,
    StoreError,
)
from atts.grading.grader import Grader
from atts.package import DISTRIBUTION
from atts.runs import jobs, setup
from atts.runs.observer import Observer
from atts.runs.setup import Setup
from atts.store.contents import CHAINS
from atts.store.run_directory import RecordedRun, RunStore
from atts.types import Chain, Decision, Problem, Timings, Turn

TIMINGS = Timings(queued=0.0, started=0.1, first_token=0.2, done=0.3)
PROBLEMS = [Problem(id="p0", question="1 + 1?", answer="2")]

Invoke = Callable[..., Result]


def make_chain(sample: int = 0, failed: bool = False) -> Chain:
    decision = Decision(
        score=1.0, p_value=0.2, take_over=True, scored_tokens=3, cached_tokens=0, timings=TIMINGS
    )
    return Chain(
        problem_id="p0",
        sample=sample,
        end="failed" if failed else "answer",
        answer=None if failed else "2",
        turns=(Turn(segments=(), decision=decision),),
        started=0.0,
        done=2.0,
        error="EngineError: lost" if failed else None,
    )


@dataclass
class FakeJobs:
    """Stands in for ``atts.runs.jobs`` and keeps what it was asked, by the configuration."""

    asked: list[tuple[str, Config, Path]] = field(default_factory=list)
    opened: list[Collection[str] | None] = field(default_factory=list)
    retried: list[bool] = field(default_factory=list)
    raises: BaseException | None = None
    failed: int = 0
    closed: int = 0

    @asynccontextmanager
    async def open_models(
        self, _config: Config, authors: Collection[str] | None = None
    ) -> AsyncIterator[object]:
        self.opened.append(authors)
        try:
            yield {}
        finally:
            self.closed += 1

    async def calibrate(
        self,
        config: Config | Setup,
        _models: object,
        directory: Path,
        observer: Observer | None,
    ) -> Calibration:
        config = config.config if isinstance(config, Setup) else config
        self.asked.append(("calibrate", config, directory))
        self._observe(observer, config)
        return Calibration(
            version=2,
            fingerprint=config.calibration_fingerprint(),
            coverage=config.take_over.coverage,
            scores={f"p{n}": ((0.1 * n,), (0.2 * n,)) for n in range(12)},
        )

    async def make_run(
        self,
        setup: Setup,
        models: object,
        directory: Path,
        _grader: Grader,
        observer: Observer | None,
        retry_failed: bool = True,
    ) -> jobs.MadeRun:
        summary = await self.run(setup, models, directory, observer, retry_failed)
        return jobs.MadeRun(grade_run(RecordedRun(setup.config, (), ())), summary)

    async def run(
        self,
        setup: Setup,
        _models: object,
        directory: Path,
        observer: Observer | None,
        retry_failed: bool = False,
    ) -> Summary:
        config = setup.config
        self.asked.append(("run", config, directory))
        self.retried.append(retry_failed)
        chains = self._observe(observer, config)
        return summarised(config, PROBLEMS, chains)

    def _observe(self, observer: Observer | None, config: Config) -> list[Chain]:
        chains = [make_chain(n, failed=n < self.failed) for n in range(min(config.samples, 4))]
        if observer:
            observer.started(len(chains), 1)
            for chain in chains[1:]:
                observer.chain_done(chain)
        if self.raises:
            raise self.raises
        return chains


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeJobs:
    fake = FakeJobs()
    for name in ("calibrate", "run", "make_run"):
        monkeypatch.setattr(jobs, name, getattr(fake, name))
    monkeypatch.setattr(setup, "open_models", fake.open_models)
    monkeypatch.setattr(setup, "prepare_run", lambda config: Setup(config, PROBLEMS))
    return fake


def test_run_uses_a_folder_named_after_its_configuration(invoke: Invoke, fake: FakeJobs) -> None:
    result = invoke("run", "--set", "method=draft-only", "--set", "samples=3")
    assert result.exit_code == 0, result.output
    ((job, config, directory),) = fake.asked
    assert (job, config.method, config.samples) == ("run", "draft-only", 3)
    assert directory == Path("runs") / f"draft-only-{config.digest()}"
    assert "accuracy per chain" in result.stdout
    assert f"Everything is in {directory}" in result.stderr
    assert (fake.opened, fake.closed, fake.retried) == ([None], 1, [False])


@pytest.mark.usefixtures("fake")
def test_a_new_run_of_many_chains_says_so_before_it_begins(invoke: Invoke, tmp_path: Path) -> None:
    samples = 1_000 // len(PROBLEMS) + 1
    many = ("run", "--set", "method=draft-only", "--set", f"samples={samples}", "--out", "here")
    said = invoke(*many).stderr
    told = f"chains: {len(PROBLEMS)} problems x {samples}. atts advise says"
    assert told in " ".join(said.split())
    (tmp_path / "here").mkdir(exist_ok=True)
    (tmp_path / "here" / CHAINS).touch()
    assert "atts advise says" not in invoke(*many).stderr
    assert "atts advise says" not in invoke("run", "--set", "samples=2").stderr


def test_run_tells_scripts_in_json(invoke: Invoke, fake: FakeJobs) -> None:
    fake.failed = 1
    result = invoke("run", "--set", "samples=3", "--json", "--out", "here")
    assert result.exit_code == 1  # a chain failed
    figures = json.loads(result.stdout)
    assert (figures["run"], figures["chains"], figures["failed"]) == ("here", 3, 1)
    told = [json.loads(line) for line in result.stderr.splitlines() if line.startswith("{")]
    assert [(each["event"], each["chains"]["done"]) for each in told] == [
        ("started", 1),
        ("done", 3),
    ]
    # What is for people does not begin like an object.
    assert "1 of 3 chains failed" in result.stderr


def test_run_takes_a_file_a_folder_and_retries(
    invoke: Invoke, fake: FakeJobs, tmp_path: Path
) -> None:
    (tmp_path / "my.yaml").write_text("seed: 5\nsamples: 2\n")
    result = invoke("run", "-c", "my.yaml", "--set", "samples=1", "--out", "here", "--retry-failed")
    assert result.exit_code == 0, result.output
    ((_, config, directory),) = fake.asked
    assert (config.seed, config.samples, directory) == (5, 1, Path("here"))
    assert fake.retried == [True]


def test_show_config_prints_a_configuration_file(
    invoke: Invoke, fake: FakeJobs, tmp_path: Path
) -> None:
    result = invoke("run", "--set", "samples=3", "--show-config")
    assert result.exit_code == 0
    (tmp_path / "shown.yaml").write_text(result.stdout)
    assert load_config(tmp_path / "shown.yaml") == parse_config({"samples": 3}, "the test")
    assert fake.asked == []


def test_calibrate_says_what_to_run_next(invoke: Invoke, fake: FakeJobs) -> None:
    settings = ("--set", "take_over.coverage=conditional", "--set", "prompt.system=Be brief.")
    result = invoke("calibrate", *settings)
    assert result.exit_code == 0, result.output
    ((job, config, directory),) = fake.asked
    assert job == "calibrate"
    digest = setup.prepare_calibration(config).config.digest()
    assert directory == Path("runs") / f"calibration-conditional-{digest}"
    assert result.stdout == (
        "atts run --set take_over.coverage=conditional --set 'prompt.system=Be brief.' "
        f"--set take_over.calibration={directory}/calibration.json\n"
    )
    assert fake.opened == [("draft", "target")]


@pytest.mark.usefixtures("fake")
def test_calibrate_says_what_one_calibration_promises(invoke: Invoke) -> None:
    result = invoke("calibrate", "--set", "take_over.rate=0.3")
    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    assert "of 12 problems. By this one calibration alone (take_over.control=split)" in said
    assert (
        "for a nominal 30 % (95 %, clustered by problem); adaptive control holds the rate" in said
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError, 2),
        (ProblemError, 2),
        (CalibrationError, 2),
        (StoreError, 1),
        (EngineError, 1),
        (GradingError, 1),
    ],
)
def test_an_expected_error_is_a_message_and_an_exit_code(
    invoke: Invoke, fake: FakeJobs, error: type[AttsError], code: int
) -> None:
    fake.raises = error("went [red]wrong\x1b[2J")
    result = invoke("run")
    assert result.exit_code == code
    assert "Error: went [red]wrong\\x1b[2J" in result.stderr
    assert "\x1b" not in result.output
    assert "Traceback" not in result.output
    assert fake.closed == 1


def test_an_unexpected_error_is_not_hidden(invoke: Invoke, fake: FakeJobs) -> None:
    fake.raises = ZeroDivisionError("surprise")
    result = invoke("run")
    assert result.exit_code == 1
    assert result.exception is fake.raises


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--set", "nonsense=1"], "nonsense: unknown key"),
        (["run", "--set", "take_over.rate=1.5"], "take_over.rate: "),
        (["run", "--set", "take_over.rate"], "--set takes key=value"),
        (["run", "--config", "missing.yaml"], "cannot read the configuration missing.yaml"),
        (["calibrate", "--set", "samples=0"], "samples: "),
        (["demo", "--samples", "0"], "--samples"),
        (["demo", "--no-fresh"], "there is no demo to go on with"),
        (["report"], "Missing argument"),
        (["fly"], "No such command"),
        (["run", "--fly"], "No such option"),
    ],
)
def test_wrong_use_exits_with_2(
    invoke: Invoke, fake: FakeJobs, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert fake.asked == []
    assert list(tmp_path.iterdir()) == []  # nothing was started


def test_failed_chains_are_counted_and_exit_with_1(invoke: Invoke, fake: FakeJobs) -> None:
    fake.failed = 2
    result = invoke("run", "--set", "seed=3", "--out", "my run")
    assert result.exit_code == 1
    assert "accuracy per chain" in result.stdout
    assert "2 of 4 chains failed" in result.stderr
    assert "my run/chains.jsonl" in result.stderr
    assert "  atts run --set seed=3 --out 'my run' --retry-failed\n" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (
            ["run", "--set", "seed=3", "--out", "my run"],
            "atts run --set seed=3 --out 'my run'",
        ),
        (["run", "--out", "x", "--retry-failed"], "atts run --out x --retry-failed"),
        (["calibrate", "--out", "x"], "atts calibrate --out x"),
        (
            ["demo", "--problems", "7"],
            "atts demo --problems 7 --samples 8 --out runs/demo/001",
        ),
    ],
)
def test_ctrl_c_says_how_to_go_on(
    invoke: Invoke, fake: FakeJobs, arguments: list[str], command: str
) -> None:
    fake.raises = KeyboardInterrupt()
    result = invoke(*arguments)
    assert result.exit_code == 130
    assert f"  {command}\n" in result.stderr
    assert "Traceback" not in result.output
    assert fake.closed == 1


INTERRUPTED = """
import asyncio
from contextlib import asynccontextmanager
from atts.cli import main
from atts.runs import jobs, setup

@asynccontextmanager
async def open_models(config, authors=None):
    try:
        yield {}
    finally:
        print("closed", flush=True)

async def run(*arguments):
    print("running", flush=True)
    await asyncio.sleep(60)

setup.open_models, jobs.run = open_models, run
setup.prepare_run = lambda config: setup.Setup(config, [])
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_real_interrupt_closes_the_models_and_says_how_to_go_on(
    number: signal.Signals, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, "run", "--out", "here"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONWARNINGS": "error"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "running\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert out == "closed\n"
    assert err.endswith("To go on from here:\n  atts run --out here\n")
    assert process.returncode == 128 + number


def test_demo_runs_four_methods_and_calibrates_one_of_them(invoke: Invoke, fake: FakeJobs) -> None:
    result = invoke("demo", "--problems", "5", "--samples", "3")
    assert result.exit_code == 0, result.output
    folder = Path("runs/demo/001")
    assert [(job, directory) for job, _, directory in fake.asked] == [
        ("run", folder / "draft-only"),
        ("run", folder / "target-only"),
        ("run", folder / "atts"),
        ("calibrate", folder / "calibration-marginal"),
        ("run", folder / "atts-marginal"),
    ]
    # A model that works alone is loaded alone, and has all cores.
    assert fake.closed == len(fake.opened) == 4
    assert {config.problems.count for _, config, _ in fake.asked} == {5}
    assert {config.samples for _, config, _ in fake.asked} == {3}
    for word in ("draft-only", "target-only", "marginal", "x that of target-only"):
        assert word in result.stdout
    assert f"atts report {folder}/draft-only {folder}/target-only" in result.stderr


def test_the_demo_decides_as_it_comes_and_by_its_own_calibration() -> None:
    configs = demo_configs(5, 3, Path("here"))
    take_over = configs["atts-marginal"].take_over
    assert (take_over.coverage, take_over.control) == ("marginal", "split")
    assert take_over.calibration == Path("here/calibration-marginal/calibration.json")
    assert configs["atts"].take_over == Config().take_over
    assert {configs[name].take_over.mode for name in ("atts", "atts-marginal")} == {"rewind"}
    assert {each.take_over.rate for each in configs.values()} == {0.4}
    assert configs["target-only"].take_over.calibration is None
    assert all(each.calibration.problems.split == "calibration" for each in configs.values())
    assert all(each.problems.split == "test" for each in configs.values())


def test_each_demo_has_a_folder_of_its_own_unless_told(invoke: Invoke, fake: FakeJobs) -> None:
    for arguments in (["demo"], ["demo"], ["demo", "--no-fresh"], ["demo", "--out", "mine"]):
        result = invoke(*arguments)
        assert result.exit_code == 0, result.output
    folders = [directory.parent for job, _, directory in fake.asked if job == "calibrate"]
    assert folders == [*(Path(f"runs/demo/00{n}") for n in (1, 2, 2)), Path("mine")]


def test_a_demo_with_failed_chains_exits_with_1(invoke: Invoke, fake: FakeJobs) -> None:
    fake.failed = 1
    result = invoke("demo", "--out", "mine")
    assert result.exit_code == 1
    assert result.stderr.count("1 of 4 chains failed") == 4
    assert "  atts demo --problems 40 --samples 8 --out mine\n" in result.stderr
    assert fake.retried == [True] * 4


def record(directory: Path, method: str, *chains: Chain) -> None:
    config = parse_config({"method": method, "samples": 4}, "the test")
    with RunStore.open(directory, config, PROBLEMS, None) as store:
        for chain in chains:
            store.append(chain)


def test_report_computes_from_the_chains(invoke: Invoke, tmp_path: Path) -> None:
    record(tmp_path / "one", "target-only", make_chain(0), make_chain(1))
    record(tmp_path / "two", "atts", make_chain(0))
    (tmp_path / "one" / "summary.json").write_text("not read")

    result = invoke("report", "one", "two")
    assert result.exit_code == 0, result.output
    verdict, table = result.stdout.split("\n\n", 1)
    assert verdict.startswith("one: 100.0 % of chains are right")
    assert "two is not compared with one: 3 of its chains are not done yet." in verdict
    assert table.split()[:2] == ["one", "two"]
    assert "chains not done yet" in table

    result = invoke("report", "one", "two", "--json")
    assert result.exit_code == 0
    one, two = json.loads(result.stdout)
    assert (one["run"], one["label"], one["method"]) == ("one", "one", "target-only")
    assert one["chains"] == 2
    assert two["verdict"].startswith("two is not compared")
    assert two["take_over"]["realised"]["estimate"] == 1.0


def test_report_tells_runs_of_one_name_apart(invoke: Invoke, tmp_path: Path) -> None:
    for parent in ("x", "y"):
        record(tmp_path / parent / "run", "atts", make_chain(0))
    result = invoke("report", "x/run", "y/run/")
    assert result.stdout.split("\n\n", 1)[1].split()[:2] == ["x/run", "y/run"]


def test_report_of_no_run_fails(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("report", "missing")
    assert result.exit_code == 1
    assert "missing is not a run directory" in result.stderr
    record(tmp_path / "empty", "atts")
    result = invoke("report", "empty")
    assert result.exit_code == 1
    assert "no finished chain yet" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "taught"),
    [
        (["--help"], ["demo", "calibrate", "run", "report", "problems", "Exit codes: 0 done"]),
        (["--help"], ["four ways to solve problems.", "vLLM servers of a configuration."]),
        (
            ["run", "--help"],
            ["\n      atts calibrate --set samples=8\n      atts run --set samples"],
        ),
        (["demo", "--help"], ["--fresh", "runs/demo/NUMBER", "default: 40"]),
        (["calibrate", "--help"], ["calibration-COVERAGE-DIGEST", "--set take_over.coverage="]),
        (
            ["run", "--help"],
            ["--retry-failed", "--show-config > my.yaml", "runs/METHOD-DIGEST", "130 stopped"],
        ),
        (["report", "--help"], ["--json", "atts report runs/"]),
        (["problems", "--help"], ["list", "show", "export"]),
    ],
)
def test_help_teaches(invoke: Invoke, arguments: list[str], taught: list[str]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 0
    for words in taught:
        assert words in result.stdout or words in " ".join(result.stdout.split())


def test_without_a_command_the_help_is_shown(invoke: Invoke) -> None:
    result = invoke()
    assert result.exit_code == 2
    assert "Start with: atts demo" in result.output


def test_without_pytorch_the_demo_says_how_to_get_it_and_leaves_nothing(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "find_spec", lambda name: None if name == "torch" else name)
    result = invoke("demo")
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: the in-process engine needs torch: pip install 'atts-lm[inprocess]'\n",
    )
    assert list(tmp_path.iterdir()) == []


def test_the_version_is_printed(invoke: Invoke) -> None:
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"atts {version(DISTRIBUTION)}\n")


def test_starting_imports_nothing_heavy() -> None:
    code = "import sys, atts.cli.app; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"asyncio", "numpy", "pydantic", "rich", "tokenizers", "torch", "transformers", "yaml"}
    assert not heavy & set(found.stdout.split())
    shown = subprocess.run(
        [sys.executable, "-m", "atts", "--version"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.startswith("atts ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--out", "x" * 5000],
        ["calibrate", "--out", "x" * 5000],
        ["report", "x" * 5000],
        ["run", "--config", "x" * 5000],
        ["run", "--set", f"problems.source={'x' * 5000}"],
        ["run", "--set", f"take_over.calibration={'x' * 5000}"],
        ["run", "--set", f"problems.folder={'x' * 5000}", "--set", "problems.source=math500"],
        ["suite", "x" * 5000],
        ["servers", "down", "--dir", "x" * 5000],
    ],
)
def test_a_name_that_is_too_long_for_a_file_is_an_error_in_few_words(
    invoke: Invoke, arguments: list[str]
) -> None:
    result = invoke(*arguments)
    assert result.exit_code in (1, 2), result.output
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr) < 1500
