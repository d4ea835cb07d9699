"""``atts import`` and ``atts export``, from the command line to files and back."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from recorded import write_run
from typer.testing import Result

from atts.config import load_config
from atts.conformal.calibration import Calibration
from atts.store.run_directory import read_run

Invoke = Callable[..., Result]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two problems with two chains each; the last has no answer."""
    folder = tmp_path / "d_t_set_sm50_em60_t7_smt0.6_sct0.6_emt0.6_smc16_emc4"
    folder.mkdir()
    problems = [{"id": f"p{n}", "question": f"{n} + {n}?", "answer": f"{2 * n}"} for n in range(2)]
    (tmp_path / "gold.jsonl").write_text("\n".join(map(json.dumps, problems)))
    for number in range(4):
        answer = ("0", "5", "2", "invalid")[number]
        history = [
            {"turn": 0, "model": "small", "output": f"so \\boxed{{{answer}}}"},
            {"turn": 0, "model": "eval_ppl", "ppl": 1.5, "percentile": 0.5},
        ]
        if number == 3:
            history[0]["output"] = "so it is 2"
        content = {
            "problem_index": number,
            "final_answer": answer,
            "duration_seconds": 1.0,
            "full_history": history,
            "question": problems[number // 2]["question"],
        }
        (folder / f"problem_{number:04}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def run(invoke: Invoke, results: Path, tmp_path: Path) -> Path:
    result = invoke("import", results, "--problems", "gold.jsonl", "--out", "run")
    assert result.exit_code == 0, result.output
    assert "Wrote 4 chains to run" in result.stderr
    assert "atts regrade run" in result.stderr
    assert "50.0 (" in result.stdout
    return tmp_path / "run"


def test_an_imported_run_is_a_run(invoke: Invoke, run: Path) -> None:
    recorded = read_run(run)
    assert (recorded.config.samples, len(recorded.chains)) == (2, 4)
    turns = recorded.config.turns
    assert (turns.draft_tokens, turns.target_tokens, turns.max_turns) == (50, 60, 7)
    assert recorded.config.sampling.temperature == 0.6
    assert invoke("report", "run").exit_code == 0
    assert invoke("regrade", "run", "--dry-run").exit_code == 0


def test_importing_again_changes_nothing(invoke: Invoke, run: Path, results: Path) -> None:
    before = (run / "chains.jsonl").read_bytes()
    result = invoke("import", results, "--problems", "gold.jsonl", "--out", "run")
    assert result.exit_code == 0, result.output
    assert (run / "chains.jsonl").read_bytes() == before


def test_export_to_the_reference_and_back(invoke: Invoke, run: Path, results: Path) -> None:
    assert run.is_dir()
    assert invoke("export", "run", "again", "--format", "reference").exit_code == 0
    for path in results.iterdir():
        ours = json.loads((run.parent / "again" / path.name).read_text())
        theirs = json.loads(path.read_text())
        assert ours["full_history"][0] == theirs["full_history"][0]
        for key in ("problem_index", "final_answer", "duration_seconds", "question"):
            assert ours[key] == theirs[key]
    result = invoke("export", "run", "again", "--format", "reference")
    assert result.exit_code == 1
    assert "not an empty folder" in result.stderr


def test_tables_have_a_row_per_chain(invoke: Invoke, run: Path) -> None:
    assert invoke("export", "run", "t.jsonl").exit_code == 0
    assert invoke("export", "run", "t.parquet", "--format", "parquet").exit_code == 0
    lines = [json.loads(line) for line in (run.parent / "t.jsonl").read_text().splitlines()]
    assert pq.read_table(run.parent / "t.parquet").to_pylist() == lines
    assert [row["correct"] for row in lines] == [True, False, True, None]
    assert lines[0]["text"] == r"so \boxed{0}"
    assert lines[0]["scores"] == [pytest.approx(np.log(1.5))]


def test_tables_tell_kept_from_cut_tokens(invoke: Invoke, tmp_path: Path) -> None:
    write_run(tmp_path / "run", cut="so 3.", take_over={"mode": "rewind"})
    assert invoke("export", "run", "t.jsonl").exit_code == 0
    first = json.loads((tmp_path / "t.jsonl").read_text().splitlines()[0])
    assert (first["draft_tokens"], first["draft_tokens_kept"], first["target_tokens"]) == (
        20,
        16,
        7,
    )
    assert "so 3." not in first["text"]


def test_jsonl_is_read_by_datasets(invoke: Invoke, run: Path) -> None:
    datasets = pytest.importorskip("datasets")
    assert invoke("export", "run", "t.jsonl").exit_code == 0
    table = datasets.load_dataset(
        "json",
        data_files=str(run.parent / "t.jsonl"),
        split="train",
        cache_dir=str(run.parent / "cache"),
    )
    assert table["answer"][:] == ["0", "5", "2", None]


def test_an_export_shows_the_answers_as_graded_last(invoke: Invoke, run: Path) -> None:
    path = run / "chains.jsonl"
    path.write_text(path.read_text().replace('"answer":"5"', '"answer":"55"'))
    assert invoke("regrade", "run").exit_code == 0
    assert invoke("export", "run", "t.jsonl").exit_code == 0
    lines = [json.loads(line) for line in (run.parent / "t.jsonl").read_text().splitlines()]
    assert lines[1]["answer"] == "5"


def test_a_pooled_calibration(invoke: Invoke, tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.array([1.5, 2.0, 0.0, np.inf]))
    result = invoke("import", "c.npy", "--out", "calibration.json", "--set", "take_over.rate=0.3")
    assert result.exit_code == 0, result.output
    assert "2 perplexities were no numbers above 0" in result.stderr
    path = tmp_path / "calibration.json"
    calibration = Calibration.from_json(path.read_text(), str(path))
    assert list(calibration.scores) == ["imported"]
    assert calibration.scores["imported"] == pytest.approx((np.log(1.5), np.log(2.0)))
    calibration.check(load_config(None, ["take_over.rate=0.3"]), ["p0"])


def test_a_calibration_by_question(invoke: Invoke, results: Path, tmp_path: Path) -> None:
    assert results.is_dir()
    box = np.array({0: [1.5, 2.5], 1: [3.5]}, dtype=object)
    np.save(tmp_path / "c.npy", box, allow_pickle=True)
    result = invoke("import", "c.npy", "--out", "calibration.json", "--problems", "gold.jsonl")
    assert result.exit_code == 0, result.output
    path = tmp_path / "calibration.json"
    calibration = Calibration.from_json(path.read_text(), str(path))
    assert calibration.coverage == "conditional"
    assert sorted(calibration.scores) == ["p0", "p1"]
    calibration.check(load_config(None, ["take_over.coverage=conditional"]), ["p0", "p1"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["import", "none", "--out", "run2"], 1, "cannot read none"),
        (["import", "none.npy", "--out", "c.json"], 1, "cannot read none.npy"),
        (["import", "empty", "--out", "run2"], 1, "holds no problem_XXXX"),
        (["import", "zero.npy", "--out", "c.json"], 2, "no usable perplexity"),
        (["import", "byq.npy", "--out", "c.json"], 2, "--problems"),
        (["import", "x"], 2, "--out"),
        (["export", "empty", "out.jsonl"], 1, "not a run directory"),
        (["export", "run", "out", "--format", "csv"], 2, "csv"),
    ],
)
def test_bad_input(
    invoke: Invoke, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "zero.npy", np.zeros(3))
    np.save(tmp_path / "byq.npy", np.array({0: [1.5]}, dtype=object), allow_pickle=True)
    result = invoke(*arguments)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert not (tmp_path / "run2").exists()
    assert not (tmp_path / "c.json").exists()
