"""Reading what was recorded, and the order in which it arrives."""

import gzip
import json
import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from analysis.conftest import trace_line
from recorded import write_run

from atts.analysis.recording import (
    Recording,
    load_calibration,
    load_recording,
    recorded_order,
    simulated_order,
)
from atts.config import parse_config
from atts.errors import CalibrationError, StoreError
from atts.files import to_jsonl
from atts.grading.grader import Grader
from atts.store.grades import GRADES, ChainGrade, text_digest
from atts.store.run_directory import RunStore, read_run
from atts.types import Chain, Decision, Problem, Segment, Timings, Turn


def test_a_trace_is_read(trace: Path) -> None:
    first, second = load_recording(trace).chains
    assert (first.problem_id, first.sample, first.right, second.right) == ("q", 0, False, True)
    assert [step.turn for step in first.steps] == [0, 2], "no score, no decision"
    assert [step.score for step in first.steps] == [math.log(2.0), math.log(1.5)]
    assert [step.take_over for step in first.steps] == [True, False]
    assert [step.work for step in first.steps] == [10.0, 25.0], "target and empty turn included"


@pytest.mark.parametrize("text", ["", "{}", "[1]", "{", '{"turns": [{"draft_chars": 1}]}', "3"])
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(StoreError, match=r"bad\.jsonl"):
        load_recording(path)


def test_a_missing_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot read"):
        load_recording(tmp_path / "none.jsonl.gz")


def decided(score: float, order: int, at: float) -> Turn:
    timings = Timings(queued=at, started=at, first_token=at, done=at + 1)
    segment = Segment(
        author="draft", text="x", tokens=1, finish_reason="length", cached_tokens=0, timings=timings
    )
    decision = Decision(
        score=score,
        p_value=0.5,
        take_over=True,
        order=order,
        scores={"worst-window": 2 * score},
        scored_tokens=1,
        cached_tokens=0,
        timings=timings.model_copy(update={"done": at + 2}),
    )
    return Turn(segments=(segment,), decision=decision)


def test_a_run_is_read_in_its_recorded_order(tmp_path: Path) -> None:
    problems = [Problem(id="p", question="1 + 1?", answer="2")]
    by_mean = {"score": {"kind": "mean"}}
    config = parse_config({"samples": 3, "seed": 5, "take_over": by_mean}, "the test")
    chains = [
        ("answer", "2", (decided(0.1, 0, 10.0), decided(0.2, 2, 13.0)), 1.0),
        ("answer", "3", (decided(0.3, 1, 11.0),), 0.5),
        ("failed", None, (decided(0.4, 3, 12.0),), 2.0),
    ]
    with RunStore.open(tmp_path / "run", config, problems, None) as store:
        for sample, (end, answer, turns, started) in enumerate(chains):
            store.append(
                Chain.model_validate(
                    {
                        "problem_id": "p",
                        "sample": sample,
                        "end": end,
                        "answer": answer,
                        "turns": turns,
                        "started": started,
                        "done": 9.0,
                    }
                )
            )
    recording = load_recording(tmp_path / "run")
    assert (recording.name, recording.seed, recording.kind) == ("run", 5, "mean")
    assert [chain.sample for chain in recording.chains] == [1, 0, 2]
    assert [chain.right for chain in recording.chains] == [False, True, None]
    step = recording.chains[1].steps[1]
    assert (step.score, step.turn, step.work) == (0.2, 1, 3.0)
    assert step.scores == {"mean": 0.2, "worst-window": 0.4}
    assert [arrival.step.score for arrival in recorded_order(recording)] == [0.1, 0.3, 0.2, 0.4]


def test_a_trace_is_replayed_problem_after_problem(
    make_recording: Callable[..., Recording],
) -> None:
    arrivals = recorded_order(make_recording(3, 4, 2))
    assert [arrival.chain.problem_id for arrival in arrivals] == [
        f"p{problem}" for problem in range(3) for _ in range(8)
    ]


def test_a_simulated_pool_is_bounded_seeded_and_complete(
    make_recording: Callable[..., Recording],
) -> None:
    recording = make_recording(4, 5, 3)
    arrivals = simulated_order(recording, seed=1, in_flight=6)
    assert arrivals == simulated_order(recording, seed=1, in_flight=6)
    assert arrivals != simulated_order(recording, seed=2, in_flight=6)
    assert len(arrivals) == 4 * 5 * 3
    open_chains: dict[tuple[str, int], int] = {}
    started = []
    for chain, step in arrivals:
        key = (chain.problem_id, chain.sample)
        if step.turn == 0:
            started.append(key)
        assert open_chains.get(key, -1) == step.turn - 1, "turns of a chain come in order"
        open_chains[key] = step.turn
        assert sum(0 <= turn < 2 for turn in open_chains.values()) <= 6
    assert len(set(started[:8]) & {("p0", sample) for sample in range(5)}) == 5


def test_perplexities_are_read_without_unpickling(tmp_path: Path) -> None:
    np.save(tmp_path / "good.npy", np.array([1.0, math.e]))
    assert load_calibration(tmp_path / "good.npy").scores == {"all": ((0.0,), (1.0,))}
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(CalibrationError, match=r"pickled\.npy.*allow_pickle"):
        load_calibration(tmp_path / "pickled.npy")
    for name, array in {
        "zero": np.zeros(2),
        "two": np.ones((2, 2)),
        "words": np.array(["a"]),
    }.items():
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(CalibrationError, match="perplexities, all above 0"):
            load_calibration(tmp_path / f"{name}.npy")
    (tmp_path / "torn.npy").write_bytes(b"\x93NUM")
    with pytest.raises(CalibrationError, match=r"torn\.npy"):
        load_calibration(tmp_path / "torn.npy")


def test_right_and_wrong_are_told_by_algebra(tmp_path: Path) -> None:
    """What is another text may be the same answer."""
    lines = [
        trace_line(sample, [2.0]) | {"gold_answer": "x+1", "reextracted": answer}
        for sample, answer in enumerate(["1+x", "x+2", None])
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    assert [chain.right for chain in load_recording(path).chains] == [True, False, False]


def test_recorded_grades_come_before_the_rules(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    write_run(directory, problems=2, samples=2)
    before = {(c.problem_id, c.sample): c.right for c in load_recording(directory).chains}
    assert before == {("p0", 0): False, ("p0", 1): True, ("p1", 0): False, ("p1", 1): None}
    chain = next(chain for chain in read_run(directory).chains if chain.key == ("p0", 1))
    grade = ChainGrade(
        problem_id="p0",
        sample=1,
        text_digest=text_digest(chain),
        original_answer=chain.answer,
        answer=chain.answer,
        extracted_by="run",
        correct=False,
        decided_by="llm",
    )
    (directory / GRADES).write_text(to_jsonl([grade]))
    after = {(c.problem_id, c.sample): c.right for c in load_recording(directory).chains}
    assert after == before | {("p0", 1): False}


def test_perplexities_by_question_are_read_as_import_reads_them(tmp_path: Path) -> None:
    by_question = {0: [1.0, math.e], 1: np.array([math.e, 0.0, math.inf])}
    np.save(tmp_path / "by.npy", np.array(by_question, dtype=object), allow_pickle=True)
    calibration = load_calibration(tmp_path / "by.npy", ["a", "b"])
    assert calibration.coverage == "conditional"
    assert calibration.scores == {"a": ((0.0,), (1.0,)), "b": ((1.0,),)}
    with pytest.raises(CalibrationError, match="question 1, but the recording has 1 problems"):
        load_calibration(tmp_path / "by.npy", ["a"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"turn": math.inf}, "infinity to integer"),
        ({"turn": -1}, "a turn from 0"),
        ({"turn": 10**9}, "a turn from 0"),
        ({"ppl": math.inf}, "no number"),
        ({"ppl": math.nan}, "no number"),
        ({"ppl": 0}, "math domain error"),
        ({"draft_chars": 10**400}, "too large"),
        ({"target_chars": math.inf, "turn": 0}, "no number"),
    ],
)
def test_a_turn_of_a_trace_beyond_all_bounds_is_named(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    good, bad = trace_line(0, [2.0, 3.0]), trace_line(1, [2.0, 3.0])
    bad["turns"][0] |= changes  # type: ignore[index]
    (tmp_path / "t.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
    with pytest.raises(StoreError, match=rf"line 2: .*{message}"):
        load_recording(tmp_path / "t.jsonl")


@pytest.mark.parametrize("line", [b"[" * 100_000, b"9" * 5000, b"\xff", b"[]", b"\x00"])
def test_a_line_of_a_trace_that_is_no_chain_is_named(tmp_path: Path, line: bytes) -> None:
    good = json.dumps(trace_line(0, [2.0])).encode()
    (tmp_path / "t.jsonl").write_bytes(good + b"\n" + line + b"\n")
    with pytest.raises(StoreError, match="line 2: ") as caught:
        load_recording(tmp_path / "t.jsonl")
    assert len(str(caught.value)) < 500


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(json.dumps(trace_line(0, [2.0] * 50)).encode()))
    for at in range(20, len(packed)):
        damaged = packed.copy()
        damaged[at] ^= 0xFF
        (tmp_path / "t.jsonl.gz").write_bytes(damaged)
        with suppress(StoreError):
            load_recording(tmp_path / "t.jsonl.gz", Grader(workers=1))


def test_a_pipe_is_no_trace(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.jsonl")
    with pytest.raises(StoreError, match="a pipe, not a plain file"):
        load_recording(tmp_path / "t.jsonl")
