"""``atts regrade``: what is printed and returned."""

from collections.abc import Callable
from pathlib import Path

import pytest
from openai_server import RATE_LIMITED, completion, serve
from typer.testing import Result

from atts.config import parse_config
from atts.store.run_directory import RunStore
from atts.types import Chain, Problem, Segment, Timings, Turn

Invoke = Callable[..., Result]
NOW = Timings(queued=0.0, started=0.0, first_token=0.0, done=0.0)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL"):
        monkeypatch.delenv(name, raising=False)
    problem = Problem(id="[red]p", question="?", answer="2")
    segment = Segment(
        author="draft",
        text="\\boxed{1}</think>\\boxed{2\x1b[31m}",
        tokens=1,
        finish_reason="stop",
        cached_tokens=0,
        timings=NOW,
    )
    chain = Chain(
        problem_id="[red]p",
        sample=0,
        end="answer",
        answer="1",
        turns=(Turn(segments=(segment,)),),
        started=0.0,
        done=1.0,
    )
    config = parse_config({"method": "draft-only", "samples": 1}, "a test")
    with RunStore.open(tmp_path / "run", config, [problem], None) as store:
        store.append(chain)
    return tmp_path / "run"


def test_changes_and_figures_are_printed(invoke: Invoke, run: Path) -> None:
    result = invoke("regrade", "run")
    assert result.exit_code == 0, result.output
    assert r"[red]p / 0: 1 (wrong) -> 2\x1b[31m (wrong)" in result.stdout
    assert "1 chains change, 1 of them in their answer" in result.stdout
    assert "before" in result.stdout
    assert "after" in result.stdout
    assert "Wrote run/grades.jsonl" in result.stderr
    assert r"2\u001b[31m" in (run / "grades.jsonl").read_text()


def test_a_dry_run_says_so(invoke: Invoke, run: Path) -> None:
    result = invoke("regrade", "run", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "Nothing was written" in result.stderr
    assert not (run / "grades.jsonl").exists()
    result = invoke("regrade", "run", "--dry-run", "--judge", "llm", "--model", "m", "--base-url",
                    "http://127.0.0.1:9/v1")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Would ask the language model 1 questions" in result.stderr


def test_the_language_model_comes_from_the_environment(
    invoke: Invoke, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve() as server:
        server.reply = lambda _: completion('{"equivalent": true}')
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_MODEL", "judge-model")
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        result = invoke("regrade", "run", "--judge", "both")
    assert result.exit_code == 0, result.output
    assert server.requests[0]["model"] == "judge-model"
    assert server.keys == ["Bearer secret"]
    assert "secret" not in result.output
    assert all(b"secret" not in path.read_bytes() for path in run.iterdir())
    assert "1 requests, 11 prompt and 3 completion tokens" in result.stdout


def test_a_failing_endpoint_exits_with_1_and_says_how_to_go_on(invoke: Invoke, run: Path) -> None:
    with serve() as server:
        server.reply = lambda _: RATE_LIMITED
        result = invoke("regrade", "run", "--judge", "llm", "--model", "m", "--base-url",
                        server.url, "--retries", "0")  # fmt: skip
    assert result.exit_code == 1, result.output
    assert "1 questions got no usable reply" in result.stderr
    assert result.output.index("no usable reply") < result.output.index("chains change")
    again = f"atts regrade run --judge llm --base-url {server.url} --model m --retries 0"
    assert again in result.stderr
    assert (run / "grades.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--judge", "llm"], "--model NAME"),
        (["--judge", "llm", "--model", "m"], "set OPENAI_API_KEY"),
        (["--judge", "jury"], "jury"),
        (["--concurrency", "0"], "concurrency"),
    ],
)
def test_wrong_use_exits_with_2(
    invoke: Invoke, run: Path, arguments: list[str], message: str
) -> None:
    before = sorted(run.iterdir())
    result = invoke("regrade", "run", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert sorted(run.iterdir()) == before


def test_a_missing_run_exits_with_1(invoke: Invoke) -> None:
    result = invoke("regrade", "nowhere")
    assert result.exit_code == 1
    assert "nowhere" in result.stderr
