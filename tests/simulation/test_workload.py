"""What simulated chains are told to do."""

import gzip
import json
from pathlib import Path

import pytest

from atts.config import Config, parse_config
from atts.errors import ConfigError, StoreError
from atts.simulation.workload import Workload, load_workload


def lines_of(trace: Path) -> list[dict[str, object]]:
    with gzip.open(trace, "rt") as file:
        return [json.loads(line) for line in file]


def test_a_script_follows_its_chain(trace: Path, workload: Workload, pair: Config) -> None:
    recorded = lines_of(trace)[6]  # problem 1, sample 2
    script = workload.script(1, 2, pair, 1.0)
    turns = recorded["turns"]
    assert isinstance(turns, list)
    assert len(script.turns) == len(turns) == 4
    for turn, line in zip(script.turns, turns, strict=True):
        assert turn.draft_tokens == min(500, round(line["draft_chars"] / 3.15))
        if line["rejected"]:
            assert turn.target_tokens == min(500, max(1, round(line["target_chars"] / 3.15)))
        assert 1 <= turn.target_tokens <= 500
    assert script.answer == "42"
    assert script.number == 1 * 4 + 2


def test_a_model_that_writes_alone_writes_as_much_as_both(workload: Workload, pair: Config) -> None:
    alone = pair.model_copy(update={"method": "target-only"})
    chain = workload.problems[1].chains[2]
    (turn,) = workload.script(1, 2, alone, 1.0).turns
    assert turn.target_tokens == chain.tokens
    (turn,) = workload.script(1, 2, alone, 2.5).turns
    assert turn.target_tokens == round(2.5 * chain.tokens)
    draft = pair.model_copy(update={"method": "draft-only"})
    (turn,) = workload.script(1, 2, draft, 2.5).turns
    assert turn.draft_tokens == chain.tokens


def test_problems_come_again_under_other_names(workload: Workload, pair: Config) -> None:
    assert [workload.problem(n).id for n in (0, 2, 3, 8)] == ["q0", "q2", "q0#2", "q2#3"]
    first, again = (workload.script(n, 1, pair, 1.0) for n in (1, 4))
    assert [t.draft_tokens for t in first.turns] == [t.draft_tokens for t in again.turns]
    assert first.number != again.number


def test_longer_segments_than_the_limit_are_refused(workload: Workload, pair: Config) -> None:
    short = pair.model_copy(update={"turns": pair.turns.model_copy(update={"draft_tokens": 100})})
    with pytest.raises(ConfigError, match="draft_tokens is 100"):
        workload.script(1, 2, short, 1.0)


def test_cuts_are_modelled_where_they_were_not_recorded(trace: Path, pair: Config) -> None:
    take_over = pair.take_over.model_copy(update={"mode": "rewind"})
    rewind = pair.model_copy(update={"take_over": take_over})
    score = take_over.score.model_copy(update={"kind": "largest-surprise"})
    largest = rewind.model_copy(update={"take_over": take_over.model_copy(update={"score": score})})
    with pytest.raises(ConfigError, match="--model-cuts"):
        load_workload(trace).script(1, 2, largest, 1.0)
    modelled = load_workload(trace, models_cuts=True)
    with pytest.raises(ConfigError, match="largest-surprise alone"):
        modelled.script(1, 2, rewind, 1.0)
    turns = [
        turn
        for problem, sample in ((number, sample) for number in range(30) for sample in range(4))
        for turn in modelled.script(problem, sample, largest, 1.0).turns
    ]
    for turn in turns:
        assert len(turn.surprises) == turn.draft_tokens
        assert max(turn.surprises) == turn.score  # which decides, and where it stands it is cut
    kept = [t.surprises.index(t.score) / t.draft_tokens for t in turns if t.draft_tokens > 20]
    assert sum(kept) / len(kept) == pytest.approx(0.4, abs=0.05)
    assert modelled.script(1, 2, largest, 1.0) == modelled.script(1, 2, largest, 1.0)
    assert modelled.script(1, 2, pair, 1.0).turns[0].surprises == ()


@pytest.mark.parametrize("coverage", ["marginal", "conditional"])
def test_the_calibration_has_every_recorded_score(workload: Workload, coverage: str) -> None:
    config = parse_config({"take_over": {"coverage": coverage}}, "a test")
    calibration = workload.calibration(config, problems=5)
    turns = sum(len(c.turns) for p in workload.problems for c in p.chains)
    of_three = [scores for name, scores in calibration.scores.items() if "#" not in name]
    assert sum(len(chain) for problem in of_three for chain in problem) == turns
    assert ("q1#2" in calibration.scores) == (coverage == "conditional")


@pytest.mark.parametrize("content", [b"", b"no json\n", b'{"question_id": 1}\n', b"[1]\n"])
def test_what_is_no_trace_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="trace"):
        load_workload(path)
