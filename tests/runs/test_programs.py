"""Runs on problems that ask for a program: chains, votes, grades, reports."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fakes import FakeEngine, by_control, byte_tokenizer

from atts.analysis.graded_run import grade_run
from atts.analysis.report import read_report
from atts.config import Config, StopOptions, parse_config
from atts.conformal.control import Control, Verdict
from atts.errors import ConfigError
from atts.grading.chains import Grade, grade_chains, majority_by_problem
from atts.grading.grader import Grader
from atts.grading.judge import Judge
from atts.grading.votes import Vote, count_votes
from atts.methods.atts import take_turns
from atts.methods.chain import Model, Models, OpenChain
from atts.methods.single_model import write_alone
from atts.reports.html import render_page
from atts.runs import jobs
from atts.runs.regrade import regrade
from atts.runs.stopping import Stopping
from atts.store.run_directory import read_run
from atts.types import Case, Chain, Problem, ProgramTests

TESTS = ProgramTests(cases=(Case(input="3", output="9"), Case(input="4", output="16")))
PROBLEM = Problem(id="p", question="Square it.", tests=TESTS)
RIGHT = "print(int(input()) ** 2)\n"
ALSO_RIGHT = "n = int(input())\nprint(n * n)\n"
WRONG = "print(9)\n"


def block(program: str) -> str:
    return f"So:\n```python\n{program}```\n"


class Never(Control):
    """Never takes over."""

    def decide(self, problem_id: str, turn: int, score: float, u: float) -> Verdict:  # noqa: ARG002
        return Verdict.of(1.0, 0.4)


def models(write: Any) -> Models:  # noqa: ANN401
    return {
        "draft": Model(FakeEngine(write=write), byte_tokenizer()),
        "target": Model(FakeEngine(), byte_tokenizer()),
    }


def chain(sample: int, answer: str | None) -> Chain:
    return Chain(
        problem_id="p", sample=sample, end="answer", answer=answer, turns=(), started=0.0, done=1.0
    )


async def test_a_chain_ends_with_its_end_of_sequence_and_not_with_a_block_or_a_box(
    config: Config,
) -> None:
    first, second = (block(WRONG) + "\\boxed{1}, no:\n").ljust(60), block(RIGHT)
    config = config.model_copy(
        update={"turns": config.turns.model_copy(update={"draft_tokens": len(first)})}
    )
    written = iter([first + "|", second])  # the first is as long as it may be, the second ends
    chain = OpenChain(PROBLEM, 0, models(lambda _: next(written)), config, by_control(Never()))
    assert await take_turns(chain) == "answer"
    assert chain.text == first + second
    assert chain.answer == RIGHT


async def test_a_program_of_one_model_is_an_answer(config: Config) -> None:
    alone = OpenChain(PROBLEM, 0, models(lambda _: block(RIGHT)), config)
    assert await write_alone(alone, "draft") in ("answer", "turns")
    config = config.model_copy(
        update={"turns": config.turns.model_copy(update={"draft_tokens": 100})}
    )
    alone = OpenChain(PROBLEM, 0, models(lambda _: block(RIGHT)), config)
    assert await write_alone(alone, "draft") == "answer"
    assert alone.answer == RIGHT
    none = OpenChain(PROBLEM, 0, models(lambda _: "I cannot."), config)
    assert await write_alone(none, "draft") == "stop"


def test_programs_are_graded_by_their_tests() -> None:
    other = Problem(id="q", question="1+1?", answer="2")
    made = [
        *(chain(n, answer) for n, answer in enumerate([RIGHT, WRONG, None, ALSO_RIGHT])),
        chain(0, "2.0").model_copy(update={"problem_id": "q"}),
    ]
    with Grader() as grader:
        graded = grade_chains([PROBLEM, other], made, grader)
    assert graded.grades == {
        "p": [
            Grade(RIGHT, correct=True, is_program=True),
            Grade(WRONG, correct=False, is_program=True),
            Grade(None, correct=False, is_program=True),
            Grade(ALSO_RIGHT, correct=True, is_program=True),
        ],
        "q": [Grade("2.0", correct=True)],
    }


@pytest.mark.parametrize(
    ("answers", "share"),
    [
        # Two right programs that differ are two answers: who does not run them cannot know.
        ([RIGHT, ALSO_RIGHT, WRONG, WRONG], 0.0),
        ([RIGHT, ALSO_RIGHT, WRONG], 2 / 3),
        ([RIGHT, " " + RIGHT + "\n", WRONG], 1.0),
        ([None, WRONG], 0.0),
        ([None], 0.0),
    ],
)
def test_programs_vote_by_their_texts(answers: list[str | None], share: float) -> None:
    grades = [
        Grade(each, each is not None and each.strip() != WRONG.strip(), is_program=True)
        for each in answers
    ]
    assert majority_by_problem({"p": grades}, same=lambda *_: True) == {"p": share}


def test_votes_without_a_gold_answer_are_counted_by_the_same_rule() -> None:
    with Grader() as grader:
        votes = count_votes(PROBLEM, ["f( x)", "f(x)", None, "f(x)\n"], grader)
    assert votes == (Vote("f(x)", (1, 3)), Vote("f( x)", (0,)))


async def test_the_votes_that_end_chains_are_counted_by_the_same_rule() -> None:
    # As mathematics these would be one: idle spaces and the sign of a dollar say nothing there.
    answers = ["f( x)", "f(x)", "$f(x)$", "f(x)\n"]
    with (
        Grader() as grader,
        Stopping(StopOptions(when="majority"), 4, grader, [PROBLEM]) as stopping,
    ):
        await stopping.chains_done(chain(n, answer) for n, answer in enumerate(answers[:3]))
        assert not stopping.is_settled("p")
    with Grader() as grader, Stopping(StopOptions(when="majority"), 4, grader) as stopping:
        await stopping.chains_done(chain(n, answer) for n, answer in enumerate(answers[:3]))
        assert stopping.is_settled("p")


@pytest.fixture
def config_of_run(tmp_path: Path) -> Config:
    lines = [
        {"id": "square", "question": "Square it.", "tests": [{"input": "3", "output": "9"}]},
        {
            "task_id": "Mine/1",
            "prompt": 'def twice(x):\n    """Twice x."""\n',
            "entry_point": "twice",
            "test": "def check(candidate):\n    assert candidate(3) == 6\n",
        },
        {"id": "sum", "question": "1 + 1?", "answer": "2"},
    ]
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tree = {
        "method": "draft-only",
        "samples": 2,
        "problems": {"source": str(path)},
        "stop": {"when": "majority"},
    }
    return parse_config(tree, "a test")


def answer_to(prompt: str) -> str:
    if "Square" in prompt:
        return block(RIGHT)
    if "twice" in prompt:
        return block("def twice(x):\n    return x\n")
    return "\\boxed{2}"


async def test_a_run_a_report_and_a_regrade(config_of_run: Config, tmp_path: Path) -> None:
    engine = FakeEngine(write=answer_to)
    directory = tmp_path / "run"
    summary = await jobs.run(config_of_run, {"draft": Model(engine, byte_tokenizer())}, directory)
    assert summary.accuracy_by_problem == {"Mine/1": 0.0, "square": 1.0, "sum": 1.0}
    assert (summary.ungraded, summary.invalid) == (0.0, 0.0)
    prompts = {prompt for prompt, _ in engine.generated}
    assert len(prompts) == 3
    for prompt in prompts:
        assert ("```python" in prompt) is ("1 + 1" not in prompt)
        assert ("boxed" in prompt) is ("1 + 1" in prompt)
    run = read_run(directory)
    assert [problem.tests is not None for problem in run.problems] == [True, True, False]
    assert {chain.answer for chain in run.chains} == {RIGHT, "def twice(x):\n    return x\n", "2"}
    with Grader() as grader:
        assert "twice" in render_page([read_report("run", directory, grader)])
        regraded = await regrade(directory, "regex", "rules", None, grader)
        assert not regraded.changes
        # Corrected tests are taken like a corrected gold answer.
        twice = run.problems[1]
        assert twice.tests is not None
        corrected = twice.model_copy(
            update={"tests": twice.tests.model_copy(update={"check": "def check(f): ..."})}
        )
        problems = [run.problems[0], corrected, run.problems[2]]
        regraded = await regrade(directory, "regex", "rules", None, grader, problems=problems)
    assert list(regraded.corrected) == ["Mine/1"]
    assert regraded.after.accuracy_by_problem["Mine/1"] == 1.0


async def test_no_language_model_judges_programs(config_of_run: Config, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    engine = FakeEngine(write=answer_to)
    await jobs.run(config_of_run, {"draft": Model(engine, byte_tokenizer())}, directory)
    judge = cast(Judge, SimpleNamespace())
    with Grader() as grader, pytest.raises(ConfigError, match="their tests say which are right"):
        await regrade(directory, "regex", "both", judge, grader)


def test_problems_without_tests_are_written_as_before() -> None:
    problem = Problem(id="p", question="?", answer="1")
    assert json.loads(problem.model_dump_json()) == {
        "id": "p",
        "question": "?",
        "answer": "1",
        "choices": [],
    }
    assert Problem.model_validate_json(PROBLEM.model_dump_json()) == PROBLEM


def test_what_is_ungraded_is_told(config_of_run: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Grader, "check", lambda _, asked: [None for _ in asked])
    problems = [PROBLEM.model_copy(update={"id": "p"})]
    made = SimpleNamespace(
        grades={},
        problems=problems,
        chains_as_graded=lambda: (chain(0, RIGHT),),
        _replace=lambda **_: None,
        config=config_of_run,
    )
    with Grader() as grader:
        graded = grade_run(cast(Any, made), grader)
    assert graded.verdicts[chain(0, RIGHT).key].outcome == "ungraded"
