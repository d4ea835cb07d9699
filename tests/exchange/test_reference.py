"""The reference's result folders: read, written, and refused where they are wrong."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from atts.errors import StoreError
from atts.exchange.reference import read_folder, read_settings, write_folder
from atts.types import Problem

KNOWN = [
    Problem(id="one", question="What is  1+1?", answer="2"),
    Problem(id="two", question="What is 2+2?", answer="4"),
]


def entry(turn: int, model: str, **rest: object) -> dict[str, object]:
    return {"turn": turn, "model": model, **rest}


HISTORY = [
    entry(0, "small", output="First"),
    entry(0, "eval_ppl", ppl=1.5, percentile=0.25),
    entry(1, "small", output="then"),
    entry(1, "eval_ppl", ppl=2.0, percentile=0.75),
    entry(1, "eval_generate", output=r"\boxed{2}"),
]


def put(
    folder: Path,
    number: int,
    question: object = "What is 1+1?",
    answer: object = "2",
    history: object = HISTORY,
    seconds: object = 3.5,
) -> None:
    folder.mkdir(exist_ok=True)
    content = {
        "problem_index": number,
        "final_answer": answer,
        "duration_seconds": seconds,
        "full_history": history,
        "question": question,
    }
    (folder / f"problem_{number:04}.json").write_text(json.dumps(content))


def test_a_chain_of_the_reference(tmp_path: Path) -> None:
    put(tmp_path, 0)
    put(tmp_path, 1, answer="invalid")
    put(tmp_path, 2, "What is 2+2?", "4")
    put(tmp_path, 3, "What is 2+2?", "5")
    (tmp_path / "notes.txt").write_text("passed over")
    problems, chains, samples = read_folder(tmp_path, KNOWN)
    assert samples == 2
    assert [(problem.id, problem.answer) for problem in problems] == [("one", "2"), ("two", "4")]
    assert [chain.key for chain in chains] == [("one", 0), ("one", 1), ("two", 0), ("two", 1)]
    assert [(chain.end, chain.answer) for chain in chains] == [
        ("answer", "2"),
        ("turns", None),
        ("answer", "4"),
        ("answer", "5"),
    ]
    first = chains[0]
    assert first.text == "First\n\nthen\n\n\\boxed{2}"
    assert (first.started, first.done) == (0.0, 3.5)
    assert [[s.author for s in turn.segments] for turn in first.turns] == [
        ["draft"],
        ["draft", "target"],
    ]
    decisions = [turn.decision for turn in first.turns]
    assert decisions[0]
    assert decisions[1]
    assert decisions[0].score == pytest.approx(math.log(1.5))
    assert (decisions[0].p_value, decisions[0].take_over) == (0.75, False)
    assert (decisions[1].p_value, decisions[1].take_over) == (0.25, True)


def test_multiple_choice_needs_no_gold_answers(tmp_path: Path) -> None:
    put(tmp_path, 0, ["Which?", "right", "wrong", "worse", "worst"], "A")
    (problem,), _, _ = read_folder(tmp_path)
    assert problem.choices == ("right", "wrong", "worse", "worst")
    assert problem.answer == "A"


@pytest.mark.parametrize("ppl", [0, 0.0, math.inf, math.nan, -1.0])
def test_a_perplexity_that_stands_for_none_is_no_decision(tmp_path: Path, ppl: float) -> None:
    put(tmp_path, 0, history=[HISTORY[0], entry(0, "eval_ppl", ppl=ppl, percentile=0.0)])
    _, (chain,), _ = read_folder(tmp_path, KNOWN)
    assert chain.turns[0].decision is None


def test_an_empty_segment_is_kept(tmp_path: Path) -> None:
    put(tmp_path, 0, history=[entry(0, "small", output="")], answer="invalid")
    _, (chain,), _ = read_folder(tmp_path, KNOWN)
    assert chain.text == ""


def test_missing_files_are_missing_chains(tmp_path: Path) -> None:
    for number in (0, 2, 3):
        put(tmp_path, number, KNOWN[number // 2].question)
    _, chains, samples = read_folder(tmp_path, KNOWN, samples=2)
    assert samples == 2
    assert [chain.key for chain in chains] == [("one", 0), ("two", 0), ("two", 1)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": "Who?"}, "no gold answer.*--problems"),
        ({"question": 3}, "'question' must be"),
        ({"question": ["Which?", "one"]}, "'question' must be"),
        ({"question": ""}, "'question' must be"),
        ({"answer": 3}, "final_answer"),
        ({"history": None}, "full_history"),
        ({"history": ["x"]}, "full_history"),
        ({"history": [{"turn": 0}]}, "full_history"),
        ({"history": [entry(0, "big", output="x")]}, "full_history"),
        ({"history": [entry(0, "eval_ppl", ppl="x", percentile=0)]}, "full_history"),
        ({"seconds": "long"}, "duration_seconds"),
        ({"seconds": -1}, "duration_seconds"),
    ],
)
def test_files_of_another_format_are_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    put(tmp_path, 0, **change)
    with pytest.raises(StoreError, match=rf"problem_0000\.json.*{message}"):
        read_folder(tmp_path, KNOWN)


def test_a_model_that_judges_itself(tmp_path: Path) -> None:
    history = [
        entry(0, "draft", output="First"),
        entry(0, "self_ppl", ppl=1.5, percentile=0.25),
        entry(1, "draft", output="then"),
        entry(1, "self_ppl", ppl=2.0, percentile=0.75),
        entry(1, "self_continue", output=r"\boxed{2}"),
    ]
    put(tmp_path, 0, history=history)
    (own,) = read_folder(tmp_path, KNOWN, samples=1).chains
    put(tmp_path, 0)
    assert own == read_folder(tmp_path, KNOWN, samples=1).chains[0]


def attempt(turn: int, number: int, output: str, ppl: float, accepted: bool) -> dict[str, object]:
    return entry(
        turn, "draft", attempt=number, output=output, ppl=ppl, percentile=0.5, accepted=accepted
    )


def test_of_several_attempts_one_is_kept(tmp_path: Path) -> None:
    history = [
        attempt(0, 0, "bad", 3.0, accepted=False),
        attempt(0, 1, "good", 1.5, accepted=True),
        attempt(1, 0, "worse", 4.0, accepted=False),
        attempt(1, 1, "best of them", 2.0, accepted=False),
        attempt(1, 2, "worst", math.inf, accepted=False),
        attempt(2, 0, "end", 1.0, accepted=True) | {"accepted_reason": "answer_found"},
    ]
    put(tmp_path, 0, history=history)
    (chain,) = read_folder(tmp_path, KNOWN, samples=1).chains
    assert chain.text == "good\n\nbest of them\n\nend"
    assert [len(turn.segments) for turn in chain.turns] == [2, 3, 1]
    assert [turn.decision.score for turn in chain.turns if turn.decision] == [
        math.log(ppl) for ppl in (1.5, 2.0, 1.0)
    ]
    assert not any(turn.take_over for turn in chain.turns)


def fork(turn: int, peer: int, peer_turn: int) -> dict[str, object]:
    return {"turn": turn, "event": "fork", "forked_from": peer, "peer_turn": peer_turn}


def test_a_chain_that_went_on_from_another_ones_text(tmp_path: Path) -> None:
    put(
        tmp_path, 0, history=[attempt(turn, 0, f"a{turn}", 1.5, accepted=True) for turn in range(3)]
    )
    put(
        tmp_path,
        1,
        history=[
            attempt(0, 0, "b0", 1.5, accepted=True),
            attempt(1, 0, "b1", 9.0, accepted=False),
            fork(1, 0, 2),
            attempt(2, 0, "b2", 1.5, accepted=True),
        ],
    )
    put(tmp_path, 2, history=[fork(0, 1, 3), attempt(1, 0, "c", 1.5, accepted=True)])
    chains = read_folder(tmp_path, KNOWN, samples=3).chains
    assert [chain.text for chain in chains] == [
        "a0\n\na1\n\na2",
        "a0\n\na1\n\nb2",
        "a0\n\na1\n\nb2\n\nc",
    ]
    assert [turn.decision is None for turn in chains[1].turns] == [False, True, False]


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ([{"turn": 0, "event": "merge"}], "the event 'merge'"),
        ([fork(0, 7, 1)], r"a fork from problem_0007\.json"),
        ([fork(0, 0, 1)], "go round in a circle"),
        (
            [entry(0, "judge", output="x")],
            "the model 'judge'.*Known are entries of the models draft",
        ),
    ],
)
def test_another_shape_is_named(
    tmp_path: Path, history: list[dict[str, object]], message: str
) -> None:
    put(tmp_path, 0, history=history)
    with pytest.raises(StoreError, match=rf"problem_0000\.json.*{message}"):
        read_folder(tmp_path, KNOWN)


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, '{"question": "\\ud800"}'])
def test_damaged_files_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "problem_0000.json").write_text(content)
    with pytest.raises(StoreError, match=r"problem_0000\.json"):
        read_folder(tmp_path, KNOWN)


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no problem_XXXX"):
        read_folder(tmp_path)
    with pytest.raises(StoreError, match="cannot read"):
        read_folder(tmp_path / "none")


def test_a_wrong_number_of_chains_is_noticed(tmp_path: Path) -> None:
    for number in range(4):
        put(tmp_path, number, KNOWN[number // 2].question)
    with pytest.raises(StoreError, match=r"another question.*--samples"):
        read_folder(tmp_path, KNOWN, samples=4)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    put(tmp_path / "a", 0)
    put(tmp_path / "a", 1, answer="invalid")
    put(tmp_path / "a", 2, ["Which?", "right", "wrong", "worse"], "B")
    put(tmp_path / "a", 3, ["Which?", "right", "wrong", "worse"], "A")
    imported = read_folder(tmp_path / "a", KNOWN)
    (tmp_path / "b").mkdir()

    def write(name: str, text: str) -> None:
        (tmp_path / "b" / name).write_text(text)

    assert write_folder(imported.problems, imported.chains, imported.samples, write) == 4
    again = read_folder(tmp_path / "b", KNOWN)
    assert again.problems == imported.problems
    for ours, theirs in zip(again.chains, imported.chains, strict=True):
        assert (ours.key, ours.answer, ours.text, ours.done) == (
            theirs.key,
            theirs.answer,
            theirs.text,
            theirs.done,
        )
        for one, other in zip(ours.turns, theirs.turns, strict=True):
            assert one.segments == other.segments
            assert one.decision
            assert other.decision
            assert one.decision.score == pytest.approx(other.decision.score)
            assert one.decision.take_over == other.decision.take_over
    original = json.loads((tmp_path / "a" / "problem_0001.json").read_text())
    written = json.loads((tmp_path / "b" / "problem_0001.json").read_text())
    assert written["full_history"] == original["full_history"]
    assert written.keys() == original.keys()


def test_a_folder_that_says_nothing_of_its_settings() -> None:
    assert read_settings(Path("results")) == {}


@pytest.mark.parametrize("seconds", [10**400, math.nan, math.inf, -1, [1] * 1000, "1"])
def test_a_duration_that_is_none_is_named(tmp_path: Path, seconds: object) -> None:
    put(tmp_path, 0, history=[], seconds=seconds)
    with pytest.raises(StoreError, match=r"must be a number of seconds$"):
        read_folder(tmp_path, KNOWN, samples=1)


def test_forks_upon_forks_take_no_longer_than_the_last(tmp_path: Path) -> None:
    samples = 40  # read from the first fork on, these are 3^40 texts
    for number in range(samples):
        peer = number + 1
        history = [fork(turn, peer, 4) for turn in range(3)] if peer < samples else []
        put(tmp_path, number, history=[*history, attempt(3, 0, f"a{number}", 1.5, accepted=True)])
    chains = read_folder(tmp_path, KNOWN, samples=samples).chains
    assert [chain.text for chain in chains] == [
        "\n\n".join(f"a{number}" for number in range(samples - 1, first - 1, -1))
        for first in range(samples)
    ]


def test_a_pipe_is_no_result(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "problem_0000.json")
    with pytest.raises(StoreError, match="a pipe, not a plain file"):
        read_folder(tmp_path, KNOWN)


def test_a_score_beyond_all_perplexities_is_written(tmp_path: Path) -> None:
    put(tmp_path, 0, history=[attempt(0, 0, "a", 1.5, accepted=True)])
    found = read_folder(tmp_path, KNOWN, samples=1)
    (chain,) = found.chains
    decision = chain.turns[0].decision
    assert decision
    endless = chain.turns[0].model_copy(
        update={"decision": decision.model_copy(update={"score": 800.0})}
    )
    files: dict[str, str] = {}
    chains = [chain.model_copy(update={"turns": (endless,)})]
    assert write_folder(found.problems, chains, 1, files.__setitem__) == 1
    assert '"ppl": Infinity' in files["problem_0000.json"]
