"""``atts.solve`` and ``atts.asolve``, with the small models and with scripted ones."""

import asyncio
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import FakeEngine, byte_tokenizer

import atts
from atts.api.solve import configuration
from atts.config import load_config
from atts.errors import ConfigError, ProblemError
from atts.methods.chain import Model, Models
from atts.models.prompts import Tokenizer
from atts.types import Message, Problem

STORY = "Dan has 5 pens and buys 7 more. How many pens does Dan have now?"


def models(text: str = "So \\boxed{4}") -> Models:
    return {
        author: Model(FakeEngine(lambda _: text), byte_tokenizer())
        for author in ("draft", "target")
    }


async def test_a_question_a_conversation_and_problems() -> None:
    one = await atts.asolve("2 + 2?", models=models(), samples=2)
    assert isinstance(one, atts.Solution)
    assert (one.answer, len(one.chains), one.problem.question) == ("4", 2, "2 + 2?")
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
    talked = await atts.asolve(talk, models=models(), samples=1)
    assert talked.problem.messages == (
        Message(role="system", content="Be brief."),
        Message(role="user", content="2 + 2?"),
    )
    problems = [Problem(id=name, question="2 + 2?") for name in ("a", "b")]
    several = await atts.asolve(problems, models=models(), samples=2)
    assert [(each.problem.id, each.answer) for each in several] == [("a", "4"), ("b", "4")]


async def test_messages_are_what_the_models_see() -> None:
    opened = models()
    talk = [
        Message(role="user", content="2 + 2?"),
        Message(role="assistant", content="4"),
        Message(role="user", content="And 3 more?"),
    ]
    await atts.asolve(talk, models=opened, samples=1, method="draft-only")
    draft = opened["draft"].engine
    assert isinstance(draft, FakeEngine)
    ((prompt, _),) = draft.generated
    places = [prompt.index(text) for text in ("\\boxed{}", "2 + 2?", "4", "And 3 more?")]
    assert places == sorted(places)
    # Their own system message stands in place of the configuration's.
    talk.insert(0, Message(role="system", content="Be brief."))
    await atts.asolve(talk, models=opened, samples=1, method="draft-only")
    prompt, _ = draft.generated[-1]
    assert "Be brief." in prompt
    assert "\\boxed{}" not in prompt


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "question"),
        ([], "the list is empty"),
        ([{"role": "assistant", "content": "4"}], "the last of the messages must be the user's"),
        ([{"role": "tool", "content": "4"}], "role"),
        ([{"role": "user", "content": [{"type": "image"}]}], "content"),
        (7, "a int is no question"),
        ([Problem(id="a", question="?"), Problem(id="a", question="!")], "problems with one id: a"),
    ],
)
async def test_what_is_no_question_is_refused(question: object, message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        await atts.asolve(question, models=models())  # type: ignore[call-overload]


def test_models_by_name_mapping_file_and_configuration(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("samples: 3\ndraft: {model: d}\n")
    assert configuration(None) == load_config()
    assert configuration(str(path)).samples == configuration(path).samples == 3
    named = configuration(
        path, ["samples=5"], draft="other", target={"model": "t", "dtype": "float16"}
    )
    assert (named.samples, named.draft.model) == (5, "other")
    assert (named.target.model, named.target.dtype) == ("t", "float16")
    tree = {"draft": {"model": "d"}, "preset": "paper"}
    mapped = configuration(tree, ["take_over.rate=0.1"])
    assert (mapped.draft.model, mapped.take_over.control, mapped.take_over.rate) == (
        "d",
        "split",
        0.1,
    )
    assert tree == {"draft": {"model": "d"}, "preset": "paper"}
    assert configuration(mapped, ["samples=1"]).draft.model == "d"


async def test_half_a_pair_is_no_pair() -> None:
    with pytest.raises(ConfigError, match="only a draft is named"):
        await atts.asolve("?", draft="/models/mine")
    with pytest.raises(ConfigError, match="only a target is named"):
        await atts.asolve("?", target="/models/mine")
    with pytest.raises(ConfigError, match="open already"):
        await atts.asolve("?", draft="/models/mine", models=models())


async def test_a_solver_keeps_its_deciders_from_call_to_call() -> None:
    async with atts.Solver(load_config(settings=["samples=2"]), models()) as solver:
        await atts.asolve("1?", models=solver)
        await atts.asolve("2?", models=solver, temperature=0.0)
        (variant,) = solver.variants
        assert variant.activity.decisions >= 4


async def test_inside_a_running_loop_it_works_in_a_thread() -> None:
    solution = atts.solve(STORY, samples=2, method="draft-only", progress=False)
    assert len(solution.chains) == 2


async def test_open_models_belong_to_their_loop() -> None:
    with pytest.raises(ConfigError, match="await"):
        atts.solve("?", models=models())


def test_a_notebook_shows_the_options() -> None:
    assert list(inspect.signature(atts.solve).parameters) == list(
        inspect.signature(atts.asolve).parameters
    )
    assert "take_over_rate" in inspect.signature(atts.solve).parameters


def test_one_line_from_nothing_to_an_answer(tmp_path: Path) -> None:
    # A script without a guard, and without anything named.
    script = tmp_path / "one.py"
    script.write_text(f"import atts\nprint(atts.solve({STORY!r}, samples=2))\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 chains" in done.stdout


def test_a_solution_in_a_notebook_is_escaped() -> None:
    evil = "<script>alert(1)</script>\x1b[31m \\boxed{<b>4</b>}"
    solution = asyncio.run(atts.asolve("2 + 2?", models=models(evil), samples=2))
    html = solution._repr_html_()
    assert "<script>" not in html
    assert "<b>4</b>" not in html
    assert "\x1b" not in html
    assert "&lt;b&gt;4&lt;/b&gt;" in html
    assert html.count("<details>") == 2
    assert (
        repr(solution)
        == f"<Solution '<b>4</b>': votes {{'<b>4</b>': 2}}, {solution.seconds:.1f} s>"
    )


async def test_a_long_chain_is_shown_by_its_ends() -> None:
    text = "begin" + "x" * 50_000 + "end \\boxed{4}"
    long = await atts.asolve(
        "2 + 2?",
        models=models(text),
        samples=1,
        method="draft-only",
        config={"turns": {"draft_tokens": 60_000}},
    )
    html = long._repr_html_()
    assert len(html) < 25_000
    assert "begin" in html
    assert "[...]" in html
    assert "end \\boxed{4}" in html


async def test_best_of_n_gives_the_answer_that_the_target_rates_best() -> None:
    texts = iter(["a \\boxed{1}", "b \\boxed{2}", "c \\boxed{1}"])
    opened: Models = {
        "draft": Model(FakeEngine(lambda _: next(texts)), byte_tokenizer()),
        "target": Model(
            FakeEngine(logprob=lambda text: -0.1 if "boxed{2}" in text else -2.0), byte_tokenizer()
        ),
    }
    solution = await atts.asolve("?", models=opened, samples=3, method="best-of-n")
    assert [len(vote.chains) for vote in solution.votes] == [2, 1]
    assert solution.answer == "2"
    chosen = solution.chosen
    assert chosen
    assert chosen.reply == "b \\boxed{2}"


def test_the_tokenizer_keeps_no_prompt_of_another_conversation() -> None:
    tokenizer: Tokenizer = byte_tokenizer()
    prompt = load_config().prompt
    bare = Problem(id="a", question="?")
    talk = bare.model_copy(update={"messages": (Message(role="user", content="!"),)})
    assert tokenizer.prompt(bare, prompt) != tokenizer.prompt(talk, prompt)
