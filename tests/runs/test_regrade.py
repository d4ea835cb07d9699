# mypy: disable-error-code="union-attr"
"""Grading a recorded run anew: what changes, what is kept, and what a failure costs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai_server import RATE_LIMITED, Response, Server, completion, serve

from atts.analysis.graded_run import grade_run
from atts.analysis.summary import summarise
from atts.config import parse_config
from atts.errors import GradingError, ProblemError, StoreError
from atts.grading.grader import Grader, VerdictCache
from atts.grading.judge import Endpoint, Judge
from atts.runs.regrade import Change, ExtractBy, JudgeBy, Regraded, regrade
from atts.store.contents import CHAINS, SUMMARY
from atts.store.grades import GRADES, LEDGER, read_grades
from atts.store.run_directory import RunStore, lock_run, read_run
from atts.types import Chain, ChainKey, Problem, Segment, Timings, Turn

NOW = Timings(queued=0.0, started=0.0, first_token=0.0, done=0.0)
CONFIG = parse_config({"method": "draft-only", "samples": 4}, "a test")
PROBLEMS = [
    Problem(id="a", question="a?", answer="12"),
    Problem(id="b", question="b?", answer="x+1"),
]
OTHER_PROBLEM = Problem(id="z", question="z?", answer="1")
YES, NO = completion('{"equivalent": true}'), completion('{"equivalent": false}')


def chain(problem: str, sample: int, text: str, answer: str | None) -> Chain:
    segment = Segment(
        author="draft",
        text=text,
        tokens=1,
        finish_reason="stop",
        cached_tokens=0,
        timings=NOW,
    )
    return Chain(
        problem_id=problem,
        sample=sample,
        end="stop",
        answer=answer,
        turns=(Turn(segments=(segment,)),),
        started=0.0,
        done=1.0,
    )


CHAINS_MADE = [
    chain("a", 0, r"\boxed{12}", "12"),
    chain("a", 1, r"\boxed{1</think>\boxed{12}", "1"),  # the run found something else
    chain("a", 2, "it is twelve", None),
    chain("a", 3, r"\boxed{7}", "7"),
    chain("b", 0, r"\boxed{1+x}", "1+x"),
    chain("b", 1, r"\boxed{x+2}", "x+2"),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    with RunStore.open(directory, CONFIG, PROBLEMS, None) as store:
        for made in CHAINS_MADE:
            store.append(made)
    return directory


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as server:
        yield server


async def do(
    run: Path,
    extract: ExtractBy = "regex",
    judge: JudgeBy = "rules",
    server: Server | None = None,
    dry_run: bool = False,
) -> Regraded:
    with Grader(seconds=20.0, cache=VerdictCache()) as grader:
        if server is None:
            return await regrade(run, extract, judge, None, grader, dry_run)
        endpoint = Endpoint("m", server.url, retries=1)
        async with Judge(endpoint, run / LEDGER, offline=dry_run) as model:
            return await regrade(run, extract, judge, model, grader, dry_run)


def files(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir() if path.name != ".lock"}


async def test_answers_are_extracted_again_and_the_old_ones_kept(run: Path) -> None:
    before = (run / CHAINS).read_bytes()
    result = await do(run)
    assert result.changes == [Change(ChainKey("a", 1), "1", "12", False, True)]
    assert result.before.accuracy.estimate == pytest.approx(2 / 6)
    assert result.after.accuracy.estimate == pytest.approx(3 / 6)
    assert (run / CHAINS).read_bytes() == before
    grades = read_grades(run, read_run(run).chains)
    assert (grades[ChainKey("a", 1)].original_answer, grades[ChainKey("a", 1)].answer) == (
        "1",
        "12",
    )
    assert grades[ChainKey("b", 0)].correct is True
    assert result.after.model_dump_json(indent=2) + "\n" == (run / SUMMARY).read_text()


async def test_a_second_time_nothing_changes(run: Path) -> None:
    await do(run)
    before = files(run)
    assert (await do(run)).changes == []
    assert files(run) == before


async def test_a_report_goes_by_the_new_answers(run: Path) -> None:
    result = await do(run)
    recorded = read_run(run)
    grades = read_grades(run, recorded.chains)
    assert recorded.grades == grades
    summary = summarise(grade_run(recorded))
    assert summary == result.after


async def test_a_dry_run_writes_nothing(run: Path, server: Server) -> None:
    before = files(run)
    assert len((await do(run, dry_run=True)).changes) == 1
    result = await do(run, "llm", "both", server, dry_run=True)
    assert files(run) == before
    assert server.requests == []
    assert result.cost.failed == 6 + 5  # extractions, and judgements of different answers


async def test_a_chain_made_again_is_graded_anew(run: Path) -> None:
    await do(run)
    recorded = read_run(run)
    with RunStore.open(run, CONFIG, PROBLEMS, None) as store:
        store.append(chain("a", 1, r"\boxed{99}", "1"))
    grades = read_grades(run, read_run(run).chains)
    assert set(grades) == {made.key for made in recorded.chains} - {ChainKey("a", 1)}


def by_question(request: dict[str, Any]) -> Response:
    asked = request["messages"][-1]["content"]
    if "reasoning" in asked:
        return completion('{"answer": "12"}' if '"a?"' in asked else '{"answer": null}')
    return YES


async def test_the_language_model_extracts(run: Path, server: Server) -> None:
    server.reply = by_question
    result = await do(run, "llm", "rules", server)
    assert result.after.accuracy.estimate == pytest.approx(4 / 6)
    assert result.after.invalid == pytest.approx(2 / 6)
    assert result.agreement is None
    assert (result.cost.requests, result.cost.prompt_tokens) == (6, 66)


async def test_agreement_between_rules_and_language_model(run: Path, server: Server) -> None:
    def says(request: dict[str, Any]) -> Response:
        return YES if '"answer": "7"' in request["messages"][-1]["content"] else NO

    server.reply = says
    result = await do(run, "regex", "both", server)
    # a: 12 twice by rules only, 7 by the model only; b: 1+x by rules only, x+2 by neither
    assert result.agreement == (0, 3, 1, 1)
    assert result.after.accuracy.estimate == pytest.approx(3 / 6)  # the rules' verdicts count
    assert result.cost.requests == 4  # one for each different answer to a problem
    llm = await do(run, "regex", "llm", server)
    assert llm.after.accuracy.estimate == pytest.approx(1 / 6)
    assert llm.cost.requests == 0
    assert llm.cost.reused == 4


async def test_the_language_model_decides_what_the_rules_leave_open(
    tmp_path: Path, server: Server
) -> None:
    server.reply = lambda _: YES
    run = tmp_path / "run"
    with RunStore.open(run, CONFIG, PROBLEMS, None) as store:
        store.append(chain("b", 0, "\\boxed{" + "1+x+0" * 300 + "}", None))
    result = await do(run, "regex", "rules")
    assert result.after.ungraded == 1.0
    result = await do(run, "regex", "both", server)
    assert (result.after.ungraded, result.after.accuracy.estimate) == (0.0, 1.0)


async def test_a_failing_endpoint_loses_nothing(run: Path, server: Server) -> None:
    count = 0

    def failing(request: dict[str, Any]) -> Response:
        nonlocal count
        count += 1
        return by_question(request) if count <= 2 else RATE_LIMITED

    server.reply = failing
    result = await do(run, "llm", "rules", server)
    assert (result.cost.requests, result.cost.failed) == (2, 4)
    assert result.error
    assert "RateLimitError" in result.error
    kept = [g for g in read_grades(run, CHAINS_MADE).values() if g.extracted_by == "run"]
    assert len(kept) == 4
    assert all(grade.answer == grade.original_answer for grade in kept)
    server.reply = by_question
    result = await do(run, "llm", "rules", server)
    assert (result.cost.requests, result.cost.reused, result.cost.failed) == (4, 2, 0)


async def test_a_dead_judge_changes_no_verdict_and_overwrites_nothing(
    run: Path, server: Server
) -> None:
    await do(run)
    before = files(run)
    server.reply = lambda _: RATE_LIMITED
    for extract, judge in (("regex", "llm"), ("llm", "llm"), ("llm", "both"), ("llm", "rules")):
        result = await do(run, extract, judge, server)  # type: ignore[arg-type]
        assert result.after == result.before
        assert result.changes == []
        assert list(result.written) == []
        assert files(run) == before


async def test_a_judge_that_dies_half_way_leaves_the_other_verdicts(
    run: Path, server: Server
) -> None:
    server.reply = lambda request: (
        NO if '"a?"' in request["messages"][-1]["content"] else RATE_LIMITED
    )
    result = await do(run, "regex", "llm", server)
    grades = read_grades(run, CHAINS_MADE)
    assert (grades[ChainKey("a", 0)].correct, grades[ChainKey("a", 0)].decided_by) == (False, "llm")
    assert (grades[ChainKey("b", 0)].correct, grades[ChainKey("b", 0)].decided_by) == (
        True,
        "rules",
    )
    assert result.after.ungraded == 0.0
    # What the judge said before stays where it says nothing now.
    server.reply = lambda _: NO
    await do(run, "regex", "llm", server)
    (run / LEDGER).unlink()
    server.reply = lambda request: (
        YES if '"a?"' in request["messages"][-1]["content"] else RATE_LIMITED
    )
    await do(run, "regex", "llm", server)
    grades = read_grades(run, CHAINS_MADE)
    assert (grades[ChainKey("b", 0)].correct, grades[ChainKey("b", 0)].decided_by) == (False, "llm")


async def test_a_corrected_gold_answer_is_taken(run: Path) -> None:
    await do(run)
    corrected = [PROBLEMS[1], PROBLEMS[0].model_copy(update={"answer": "7"})]
    with Grader(seconds=20.0) as grader:
        result = await regrade(
            run, "regex", "rules", None, grader, problems=[*corrected, OTHER_PROBLEM]
        )
    assert list(result.corrected) == ["a"]
    assert ChainKey("a", 3) in [change.key for change in result.changes if change.correct_after]
    assert [problem.answer for problem in read_run(run).problems] == ["7", "x+1"]
    assert result.before.accuracy.estimate == pytest.approx(3 / 6)
    assert result.after.accuracy.estimate == pytest.approx(2 / 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"question": "other?"}, "another question"), ({"id": "c"}, "is not among the 2 problems")],
)
async def test_other_problems_are_refused(run: Path, changes: dict[str, str], message: str) -> None:
    before = files(run)
    given = [PROBLEMS[0].model_copy(update=changes), PROBLEMS[1]]
    with Grader() as grader, pytest.raises(ProblemError, match=message):
        await regrade(run, "regex", "rules", None, grader, problems=given)
    assert files(run) == before


async def test_a_run_whose_prompt_opened_the_thought_is_graded_as_it_ran(tmp_path: Path) -> None:
    run = tmp_path / "run"
    choice = Problem(id="a", question="a?", answer="B", choices=("x", "y"))
    with RunStore.open(run, CONFIG, [choice], None) as store:
        store.append(chain("a", 0, "The answer is A? No.</think>The answer is B.", "B"))
        store.append(chain("a", 1, "hm, maybe the answer is B", None))
    result = await do(run)
    assert result.changes == []


async def test_what_the_rules_cannot_read_is_counted(tmp_path: Path, server: Server) -> None:
    run = tmp_path / "run"
    with RunStore.open(run, CONFIG, PROBLEMS, None) as store:
        store.append(chain("a", 0, r"\boxed{\frac{12}{1}}", None))
        store.append(chain("a", 1, r"\boxed{\weird[12 \to}", None))
    result = await do(run)
    reasons = {"the rules cannot read it, or not in time": 1}
    assert (result.ungraded, result.after.ungraded) == (reasons, 0.5)
    server.reply = lambda _: YES
    result = await do(run, "regex", "both", server)
    assert (result.ungraded, result.after.accuracy.estimate) == ({}, 1.0)


async def test_failed_chains_and_chains_without_text_keep_their_answers(tmp_path: Path) -> None:
    run = tmp_path / "run"
    failed = chain("a", 0, r"\boxed{12}", None).model_copy(update={"end": "failed", "error": "x"})
    bare = chain("a", 1, "", "12").model_copy(update={"turns": ()})
    with RunStore.open(run, CONFIG, PROBLEMS, None) as store:
        store.append(failed)
        store.append(bare)
    result = await do(run)
    assert result.changes == []
    assert result.after.accuracy.estimate == 0.5


async def test_bad_directories(tmp_path: Path, run: Path) -> None:
    with pytest.raises(StoreError, match="no run directory"):
        await do(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="not a run directory"):
        await do(tmp_path / "empty")
    lock = lock_run(run)
    with pytest.raises(StoreError, match="another process"):
        await do(run)
    lock.release()
    (run / CHAINS).write_bytes(b"")
    with pytest.raises(GradingError, match="no finished chain"):
        await do(run)


async def test_a_corrupt_grades_file_is_named(run: Path) -> None:
    await do(run)
    (run / GRADES).write_text("{}\n")
    with pytest.raises(StoreError, match=r"grades\.jsonl: 1 of 1 lines .* remove the file"):
        read_grades(run, CHAINS_MADE)


async def test_a_grade_that_cannot_be_read_is_made_anew(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await do(run)
    whole = (run / GRADES).read_text()
    (run / GRADES).write_text("[" * 100_000 + "\n" + whole.partition("\n")[2])
    kept = read_grades(run, CHAINS_MADE)
    assert len(kept) == len(CHAINS_MADE) - 1
    assert "left out 1 of" in caplog.text
    await do(run)
    assert (run / GRADES).read_text() == whole
