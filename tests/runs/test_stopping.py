# mypy: disable-error-code="union-attr"
"""Chains that are not needed: ended at once, recorded as such, and never counted as wrong."""

import asyncio
import json
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
from fakes import FakeEngine, byte_tokenizer
from recorded import summarised

from atts.analysis.graded_run import grade_run
from atts.analysis.report import read_report
from atts.config import Config, StopOptions, parse_config
from atts.engines.base import Completion, GenerateRequest
from atts.errors import ConfigError
from atts.exchange.reference import write_folder
from atts.exchange.tables import rows
from atts.grading.grader import Grader
from atts.methods import METHODS
from atts.methods.chain import Model, OpenChain
from atts.reports.figures import make_figures
from atts.reports.html import render_page
from atts.reports.summary_table import comparison
from atts.runs import jobs
from atts.runs.pool import Clock, run_chains, solve
from atts.runs.regrade import regrade
from atts.runs.setup import PlannedChain, prepare_run
from atts.runs.stopping import Stopping
from atts.store.contents import CHAINS
from atts.store.run_directory import RecordedRun, read_run
from atts.types import Chain, ChainKey, Problem

ALONE = METHODS["draft-only"]
MAJORITY = StopOptions(when="majority")
ADAPTIVE = StopOptions(when="adaptive")


def chain(problem_id: str, sample: int, answer: str | None, **changes: Any) -> Chain:  # noqa: ANN401
    known: dict[str, Any] = {"end": "answer", "turns": (), "started": 0.0, "done": 1.0}
    return Chain(problem_id=problem_id, sample=sample, answer=answer, **(known | changes))


async def settled_after(options: StopOptions, samples: int, answers: Sequence[str | None]) -> int:
    """After how many of the answers the problem is settled; 0 if it is not."""
    with Grader() as grader, Stopping(options, samples, grader) as stopping:
        for sample, answer in enumerate(answers):
            await stopping.chains_done([chain("p", sample, answer)])
            if stopping.is_settled("p"):
                return sample + 1
    return 0


@pytest.mark.parametrize(
    ("options", "answers", "after"),
    [
        (MAJORITY, ["2"] * 8, 5),
        (MAJORITY, ["2", "3"] * 4, 0),
        (MAJORITY, ["2", "2.0", "\\frac{4}{2}", "$2$", "4/2"], 5),
        # Five chains without an answer have no vote; the one that is left cannot outvote two.
        (MAJORITY, [None] * 5 + ["2", "2"], 7),
        (ADAPTIVE, ["2"] * 8, 4),
        (ADAPTIVE, ["2", "3", "2", "2", "2", "2", "2"], 6),
        (StopOptions(when="adaptive", confidence=0.9), ["2"] * 8, 3),
    ],
)
async def test_votes_settle_a_problem(
    options: StopOptions, answers: list[str | None], after: int
) -> None:
    assert await settled_after(options, 8, answers) == after


async def test_a_failed_chain_has_no_vote() -> None:
    with Grader() as grader, Stopping(ADAPTIVE, 16, grader) as stopping:
        await stopping.chains_done(
            chain("p", sample, "2", end="failed", error="lost") for sample in range(8)
        )
        assert not stopping.is_settled("p")


async def test_a_vote_that_cannot_be_counted_is_told_and_ends_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Grader):
        def compare(self, pairs: object) -> NoReturn:  # noqa: ARG002
            raise RuntimeError("the processes are gone")

    with Broken() as grader, Stopping(MAJORITY, 4, grader) as stopping:
        for sample, answer in enumerate(["x+1", "1+x", "2", "2"]):
            await stopping.chains_done([chain("p", sample, answer)])
    assert "problem p, sample 1: RuntimeError: the processes are gone" in caplog.text


async def test_algebra_runs_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be compared at once is compared in another thread, for which nothing waits."""
    threads, release = set(), threading.Event()
    compare = Grader.compare

    def slow(self: Grader, pairs: Any) -> Any:  # noqa: ANN401
        threads.add(threading.current_thread())
        assert release.wait(60)
        return compare(self, pairs)

    monkeypatch.setattr(Grader, "compare", slow)
    with (
        Grader() as grader,
        Stopping(StopOptions(when="adaptive", confidence=0.8), 16, grader) as stopping,
    ):
        await stopping.chains_done([chain("p", 0, "x+1")])
        counting = asyncio.create_task(stopping.chains_done([chain("p", 1, "1+x")]))
        # Another problem is settled in the meantime.
        await stopping.chains_done(chain("q", sample, "7") for sample in range(4))
        assert stopping.is_settled("q")
        assert not counting.done()
        release.set()
        await counting
        assert stopping.is_settled("p")  # two votes for one answer
    assert threading.main_thread() not in threads


class Engine(FakeEngine):
    """Answers the first four requests at once, and the others never."""

    async def generate(self, request: GenerateRequest) -> Completion:
        self.seconds = 0.0 if len(self.generated) < 4 else 3600.0
        return await super().generate(request)


@pytest.mark.parametrize("in_flight", [16, 5])
async def test_chains_in_flight_are_aborted_and_the_others_not_begun(
    config: Config, in_flight: int
) -> None:
    problem = Problem(id="p", question="1+1?", answer="2")
    engine = Engine(write=lambda _: "\\boxed{2}")
    turns = config.turns.model_copy(update={"max_turns": 10})
    config = config.model_copy(update={"turns": turns})
    models = {"draft": Model(engine, byte_tokenizer())}
    done: list[Chain] = []
    with Grader() as grader, Stopping(ADAPTIVE, 16, grader) as stopping:
        await run_chains(
            [
                [
                    PlannedChain(
                        ChainKey("p", sample),
                        partial(OpenChain, problem, sample, models, config),  # type: ignore[arg-type]
                    )
                ]
                for sample in range(16)
            ],
            ALONE,
            in_flight,
            Clock(),
            done.append,
            stopping,
        )
    assert [c.end for c in done].count("answer") == 4
    assert [c.end for c in done].count("not-needed") == 12
    assert {c.error for c in done} == {None}
    assert engine.in_flight == 0
    assert 0 < engine.aborted == len(engine.generated) - 4 < in_flight
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_cancelling_is_not_taken_for_a_settled_problem(config: Config) -> None:
    engine = FakeEngine(seconds=3600.0)
    models = {"draft": Model(engine, byte_tokenizer())}
    problem = Problem(id="p", question="1+1?", answer="2")
    with Grader() as grader, Stopping(ADAPTIVE, 16, grader) as stopping:
        task = asyncio.create_task(
            solve(
                PlannedChain(
                    ChainKey("p", 0),
                    partial(OpenChain, problem, 0, models, config),  # type: ignore[arg-type]
                ),
                ALONE,
                Clock(),
                stopping,
            )
        )
        while not engine.in_flight:  # noqa: ASYNC110 - the fake has nothing to wait for
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert engine.aborted == 1


async def test_an_error_of_time_is_not_taken_for_a_settled_problem(config: Config) -> None:
    def write(_: str) -> str:
        raise TimeoutError("of a bug")

    models = {"draft": Model(FakeEngine(write=write), byte_tokenizer())}
    problem = Problem(id="p", question="1+1?", answer="2")
    with Grader() as grader, Stopping(ADAPTIVE, 16, grader) as stopping:
        done = await solve(
            PlannedChain(
                ChainKey("p", 0),
                partial(OpenChain, problem, 0, models, config),  # type: ignore[arg-type]
            ),
            ALONE,
            Clock(),
            stopping,
        )
    assert (done.end, done.error) == ("failed", "TimeoutError: of a bug")


def run_config(tmp_path: Path, when: str) -> Config:
    lines = [{"id": f"p{i}", "question": f"{i}+2?", "answer": "2"} for i in range(3)]
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return parse_config(
        {
            "method": "draft-only",
            "problems": {"source": str(path), "count": None},
            "samples": 8,
            "stop": {"when": when},
            "limits": {"chains": 1},  # so that it is certain which chains are not needed
        },
        "a test",
    )


def answers(prompt: str) -> str:
    return "\\boxed{3}" if "1+2" in prompt else "\\boxed{2}"


async def test_a_run_that_stops_early_has_the_same_majority(tmp_path: Path) -> None:
    summaries = {}
    for when in ("never", "majority", "adaptive"):
        models = {"draft": Model(FakeEngine(write=answers), byte_tokenizer())}
        summaries[when] = await jobs.run(
            run_config(tmp_path, when),
            models,  # type: ignore[arg-type]
            tmp_path / when,
        )
    never, majority, adaptive = summaries.values()
    assert [s.not_needed for s in summaries.values()] == [0, 9, 12]
    assert [s.chains for s in summaries.values()] == [24] * 3
    assert never.majority_vote == majority.majority_vote == adaptive.majority_vote
    assert never.accuracy == majority.accuracy == adaptive.accuracy
    assert [s.invalid for s in summaries.values()] == [0.0] * 3
    assert (list(never.pass_at_k), majority.pass_at_k) == (list(range(1, 9)), {})
    # Every chain has nine tokens.
    assert [s.tokens_saved for s in summaries.values()] == [0, 9 * 9, 12 * 9]
    assert comparison(list(summaries.items())).row_count > 5


async def test_a_run_is_resumed_with_what_its_chains_said(tmp_path: Path) -> None:
    config = run_config(tmp_path, "adaptive")
    engine = FakeEngine(write=answers)
    models = {"draft": Model(engine, byte_tokenizer())}
    first = await jobs.run(config, models, tmp_path / "run")  # type: ignore[arg-type]
    lines = (tmp_path / "run" / CHAINS).read_bytes().splitlines(keepends=True)
    # As if it had been killed when each problem was settled, and one of them just before.
    needed = [line for line in lines if b"not-needed" not in line]
    for kept, again in ((lines, 0), (needed, 0), (needed[:-1], 1)):
        (tmp_path / "run" / CHAINS).write_bytes(b"".join(kept))
        engine.generated.clear()
        summary = await jobs.run(config, models, tmp_path / "run")  # type: ignore[arg-type]
        assert len(engine.generated) == again
        assert summary.model_copy(update={"wall_seconds": 0.0}) == first.model_copy(
            update={"wall_seconds": 0.0}
        )


async def test_what_was_not_needed_has_no_grade_anywhere(tmp_path: Path) -> None:
    models = {"draft": Model(FakeEngine(write=answers), byte_tokenizer())}
    await jobs.run(run_config(tmp_path, "adaptive"), models, tmp_path / "run")  # type: ignore[arg-type]
    run = read_run(tmp_path / "run")
    idle = {c.key for c in run.chains if not c.is_needed}
    with Grader() as grader:
        found = grade_run(run, grader)
        assert {k for k, verdict in found.verdicts.items() if verdict.correct is None} == idle
        table = list(rows(found))
        assert {(row["problem_id"], row["sample"]) for row in table if row["end"] == "not-needed"}
        assert all((row["correct"] is None) == (row["end"] == "not-needed") for row in table)
        outcome = await regrade(tmp_path / "run", "regex", "rules", None, grader)
        reported = read_report("run", tmp_path / "run", grader)
    outcomes = {key: verdict.outcome for key, verdict in reported.graded.verdicts.items()}
    assert {key for key, what in outcomes.items() if what == "not needed"} == idle
    figures = {figure.name: figure for figure in make_figures([reported])}
    assert "pass-at-k" not in figures
    assert {row[1] for row in figures["accuracy"].rows} == {"accuracy per chain", "majority vote"}
    assert "not needed" in render_page([reported], [])
    assert outcome.before == outcome.after
    assert outcome.changes == []
    written = write_folder(run.problems, run.chains, 8, lambda name, text: None)  # noqa: ARG005
    assert written == 24 - len(idle)


def test_a_method_that_needs_all_chains_is_not_stopped(tmp_path: Path) -> None:
    config = run_config(tmp_path, "majority").model_copy(update={"method": "best-of-n"})
    with pytest.raises(ConfigError, match="needs them all"):
        prepare_run(config)


def test_a_chain_cut_short_counts_with_what_it_had_written() -> None:
    """Its tokens were spent, but its answer, if it had one, is not counted."""
    from reports.conftest import make_chain

    make = make_chain.__wrapped__()  # type: ignore[attr-defined]
    problems = [
        Problem(id="a", question="?", answer="2"),
        Problem(id="b", question="?", answer="2"),
    ]
    chains = [
        make("a", 0, "2", (False,) * 4),
        make("a", 1, "2", (False,) * 6),
        make("a", 2, "3", (False,) * 2, end="not-needed"),
        make("a", 3, "3", (False,) * 8, end="not-needed"),
        make("b", 0, "3", (False,)),
        make("b", 1, "2", (False,)),
    ]
    summary = summarised(parse_config({"samples": 4}, "a test"), problems, chains)
    assert summary.tokens.draft_written == 22 * 10
    assert summary.tokens_saved == 50 - 20  # the other one is longer than the mean already
    assert summary.accuracy_by_problem == {"a": 1.0, "b": 0.5}
    assert summary.accuracy.estimate == 0.75  # each problem counts alike
    assert summary.ends["not-needed"] == 2 / 6
    run = RecordedRun(parse_config({"samples": 4}, "a test"), tuple(problems), tuple(chains))
    with Grader() as grader:
        assert [verdict.correct for verdict in grade_run(run, grader).verdicts.values()] == [
            *(True, True, None, None),
            *(False, True),
        ]
