"""The known sets: from rows as the hub has them, from a folder, and their splits."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from atts.config import ProblemsOptions, parse_config
from atts.errors import ProblemError
from atts.problems import calibration_problems, load_problems
from atts.problems.registry import SETS, HubSource, ProblemSet, register
from atts.types import Problem

Rows = list[dict[str, Any]]


class Hub:
    """Stands in for the module ``datasets``."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Rows] = {}
        self.asked: list[tuple[str, str | None, str, str]] = []
        self.error: Exception | None = None

    def load_dataset(self, repo: str, config: str | None, *, split: str, revision: str) -> Rows:
        self.asked.append((repo, config, split, revision))
        if self.error:
            raise self.error
        return self.rows[repo, split]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    hub = Hub()
    monkeypatch.setitem(sys.modules, "datasets", hub)
    monkeypatch.setenv("ATTS_CACHE", str(tmp_path / "cache"))
    return hub


def load(source: str, split: str = "test", **options: object) -> list[Problem]:
    tree = {"source": source, "split": split, **options}
    return load_problems(ProblemsOptions.model_validate(tree))


MATH: Rows = [
    {"unique_id": f"test/{n}.json", "problem": f"Question {n}?", "answer": str(n), "level": 1}
    for n in range(500)
]
AIME: Rows = [{"id": n, "problem": f"Aime {n}?", "answer": f"{n:03}"} for n in range(30)]
AMC: Rows = [
    {
        "id": n,
        "problem": f"Amc {n}?",
        "answer": float(n),
        "url": f"https://x/index.php/{2022 + n // 43}_AMC_12A_Problems/Problem_{n}",
    }
    for n in range(83)
]
OLYMPIAD: Rows = [
    {
        "id": 1000 + n,
        "question": f"Olympiad {n}?",
        "final_answer": [f"${n}$"] if n % 5 else ["1", "2"],
        "answer_type": "Numerical" if n % 2 else "Expression",
        "is_multiple_answer": n % 5 == 0,
    }
    for n in range(674)
]
GPQA: Rows = [
    {
        "Record ID": f"rec{n}",
        "Question": f"Gpqa {n}?",
        "Correct Answer": f"right {n}\n",
        "Incorrect Answer 1": f"one {n}",
        "Incorrect Answer 2": f"two {n}",
        "Incorrect Answer 3": f"three {n}",
    }
    for n in range(198)
]
GSM: Rows = [{"question": f"Gsm {n}?", "answer": f"so\n#### {n},000"} for n in range(1319)]
S1K: Rows = [{"question": f"S {n}?", "solution": "Because."} for n in range(1000)]


def fill(hub: Hub) -> None:
    for name, rows in {
        "math500": MATH,
        "aime24": AIME,
        "aime25": [{**row, "problem": row["problem"] + "!25"} for row in AIME],
        "amc23": AMC[43:],
        "aimo-amc": AMC,
        "olympiadbench": OLYMPIAD,
        "gpqa-diamond": GPQA,
        "gsm8k": GSM,
        "s1k": S1K,
    }.items():
        source = SETS[name].hub
        hub.rows[source.repo, source.split] = rows
    hub.rows[SETS["gsm8k"].hub.repo, "train"] = [
        {"question": f"Train {n}?", "answer": f"#### {n}"} for n in range(20)
    ]


@pytest.mark.parametrize(
    ("source", "size", "first"),
    [
        ("math500", 500, ("test/0.json", "Question 0?", "0")),
        ("math500/paper", 100, ("test/327.json", "Question 327?", "327")),
        ("aime24", 30, ("aime-2024-I-1", "Aime 0?", "000")),
        ("aime25/paper", 15, ("aime-2025-I-1", "Aime 0?!25", "000")),
        ("amc23", 40, ("amc-2023-12A-43", "Amc 43?", "43")),
        ("aimo-amc", 83, ("amc-2022-12A-0", "Amc 0?", "0")),
        ("aimo-amc/paper", 50, ("amc-2022-12A-0", "Amc 0?", "0")),
        ("olympiadbench", 674, ("olympiad-1000", "Olympiad 0?", "1, 2")),
        ("olympiadbench/paper", 50, ("olympiad-1001", "Olympiad 1?", "$1$")),
        ("gpqa-diamond/paper", 60, None),
        ("gsm8k", 1319, None),
        ("s1k", 1000, ("s1k-0", "S 0?", "Because.")),
    ],
)
def test_a_set_from_the_hub(
    hub: Hub, source: str, size: int, first: tuple[str, str, str] | None
) -> None:
    fill(hub)
    problems = load(source)
    assert len(problems) == len({problem.id for problem in problems}) == size
    if first:
        assert (problems[0].id, problems[0].question, problems[0].answer) == first
    assert load(source, count=3) == problems[:3]


def test_gsm8k_answers_are_the_final_numbers(hub: Hub) -> None:
    fill(hub)
    assert [problem.answer for problem in load("gsm8k", count=2)] == ["0,000", "1,000"]
    assert load("gsm8k", "train", count=1)[0].question == "Train 0?"


def test_every_set_is_pinned_to_a_commit_but_one(hub: Hub) -> None:
    fill(hub)
    for name in SETS:
        load(name)
    revisions = {repo: revision for repo, _, _, revision in hub.asked}
    unpinned = [repo for repo, revision in revisions.items() if len(revision) != 40]
    assert unpinned == ["simplescaling/s1K-1.1"]


def test_choices_are_shuffled_for_each_problem_by_seed(hub: Hub) -> None:
    fill(hub)
    problems = load("gpqa-diamond")
    for number, problem in enumerate(problems):
        assert problem.answer
        assert problem.choices["ABCD".index(problem.answer)] == f"right {number}"
        assert sorted(problem.choices) == sorted(
            [f"right {number}", f"one {number}", f"two {number}", f"three {number}"]
        )
    letters = [problem.answer for problem in problems]
    assert all(30 < letters.count(letter) < 70 for letter in "ABCD")  # of 198
    assert load("gpqa-diamond/paper") == problems[:60]
    assert load("gpqa-diamond", seed=1) != problems


def test_the_second_time_no_network_is_needed(hub: Hub) -> None:
    fill(hub)
    first = load("math500")
    hub.error = OSError("no network")
    assert load("math500") == first
    assert len(hub.asked) == 1


def test_a_damaged_copy_is_named(hub: Hub, tmp_path: Path) -> None:
    fill(hub)
    load("math500")
    (copy,) = (tmp_path / "cache" / "problems").iterdir()
    copy.write_text('{"torn')
    with pytest.raises(ProblemError, match=r"math-500|MATH-500.*line 1 is corrupt"):
        load("math500")


def test_without_a_network_the_error_says_what_to_do(hub: Hub) -> None:
    hub.error = OSError("no network")
    with pytest.raises(ProblemError, match=r"cannot load HuggingFaceH4/MATH-500.*--problems-dir"):
        load("math500")


def test_without_datasets_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ProblemError, match=r"pip install 'atts-lm\[data\]'"):
        load("aime24")


def test_another_number_of_rows_is_refused(hub: Hub) -> None:
    fill(hub)
    hub.rows[SETS["aime24"].hub.repo, "train"] = AIME[:-1]
    with pytest.raises(ProblemError, match="29 rows where 30"):
        load("aime24")


def test_rows_without_the_columns_are_refused(hub: Hub) -> None:
    fill(hub)
    hub.rows[SETS["aime24"].hub.repo, "train"] = [{"q": "?"}] * 30
    with pytest.raises(ProblemError, match=r"aime-2024-I-1: the column 'problem' holds no text"):
        load("aime24")


@pytest.mark.parametrize(
    ("source", "size"),
    [
        ("math500/paper", 400),
        ("aime24/paper", 30),
        ("aime24", 30),
        ("aime25", 30),
        ("amc23", 43),
        ("aimo-amc/paper", 33),
        ("olympiadbench/paper", 624),
        ("gpqa-diamond/paper", 138),
        ("gsm8k", 20),
        ("math500", 83),
    ],
)
def test_calibration_never_meets_the_evaluation(hub: Hub, source: str, size: int) -> None:
    fill(hub)
    test, calibration = load(source), load(source, "calibration")
    assert len(calibration) == size
    assert not {p.id for p in test} & {p.id for p in calibration}
    assert not {p.question for p in test} & {p.question for p in calibration}


def test_the_same_question_under_another_id_is_left_out_too(hub: Hub) -> None:
    fill(hub)
    hub.rows[SETS["aime25"].hub.repo, "test"][3] = {"problem": "aime  7 ?", "answer": "1"}
    assert len(load("aime24", "calibration")) == 29


@pytest.mark.parametrize(
    ("source", "split", "message"),
    [
        ("gpqa-diamond", "calibration", "evaluate on gpqa-diamond/paper"),
        ("math500", "train", "no training split"),
        ("gsm8k/paper", "test", "does not evaluate on gsm8k"),
        ("math500/half", "test", "there are no problems"),
        ("auto", "test", "calibration.problems.source"),
    ],
)
def test_what_there_is_not_is_said(hub: Hub, source: str, split: str, message: str) -> None:
    fill(hub)
    with pytest.raises(ProblemError, match=message):
        load(source, split)


def test_auto_calibration_is_that_of_the_run(hub: Hub) -> None:
    fill(hub)
    config = parse_config(
        {"problems": {"source": "math500/paper", "folder": "there", "count": 7}}, "a test"
    )
    options = calibration_problems(config)
    assert (options.source, options.split, options.folder) == (
        "math500/paper",
        "calibration",
        Path("there"),
    )
    assert options.count is None
    named = {"problems": {"folder": "there"}, "calibration": {"problems": {"source": "gsm8k"}}}
    assert calibration_problems(parse_config(named, "a test")).folder == Path("there")
    default = calibration_problems(parse_config({}, "a test"))
    assert (default.source, default.split) == ("arithmetic", "calibration")


def test_a_file_has_no_calibration_of_its_own() -> None:
    config = parse_config({"problems": {"source": "mine.jsonl"}}, "a test")
    with pytest.raises(ProblemError, match=r"calibration\.problems\.source"):
        calibration_problems(config)
    tree = {
        "problems": {"source": "mine.jsonl"},
        "calibration": {"problems": {"source": "o.jsonl"}},
    }
    assert calibration_problems(parse_config(tree, "a test")).source == "o.jsonl"


@pytest.fixture
def own_set() -> Iterator[Callable[..., None]]:
    def add(name: str, **changes: Any) -> None:  # noqa: ANN401
        mine = ProblemSet(
            name,
            "my own",
            HubSource("me/mine", "0" * 40, "test"),
            lambda number, row, _seed: Problem(
                id=f"mine-{number}", question=row["q"], answer=row["a"]
            ),
        )
        register(mine._replace(**changes))

    before = dict(SETS)
    yield add
    SETS.clear()
    SETS.update(before)


def test_ones_own_set(hub: Hub, own_set: Callable[..., None]) -> None:
    own_set("mine")
    hub.rows["me/mine", "test"] = [{"q": "?", "a": "1"}]
    assert load("mine") == [Problem(id="mine-0", question="?", answer="1")]
    with pytest.raises(ProblemError, match="nothing is left of mine"):
        load("mine", "calibration")


@pytest.mark.parametrize("name", ["math500", "arithmetic", "auto", "", "a/b", "a.jsonl"])
def test_a_name_that_is_taken_or_looks_like_a_path_is_refused(
    own_set: Callable[..., None], name: str
) -> None:
    with pytest.raises(ValueError, match="problem set"):
        own_set(name)


def test_a_set_through_the_real_library(
    own_set: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setenv("ATTS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "hub" / "set"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text('{"q": "1 + 1?", "a": "2"}\n{"q": "2 + 2?", "a": "4"}\n')
    own_set("mine", size=2, hub=HubSource(str(folder), "0" * 40, "test"))
    first = load("mine")
    assert [(problem.question, problem.answer) for problem in first] == [
        ("1 + 1?", "2"),
        ("2 + 2?", "4"),
    ]
    (folder / "test.jsonl").unlink()
    assert load("mine") == first


# --- a folder of files ----------------------------------------------------------------------


def test_a_folder_of_files(tmp_path: Path) -> None:
    row = {"id": "x", "question": "?", "answer": 3, "other": None}
    (tmp_path / "aimo_validation_amc.jsonl").write_text(json.dumps(row) + "\n")
    assert load("aimo-amc", folder=tmp_path) == [Problem(id="x", question="?", answer="3")]


def test_a_set_that_the_folder_lacks_is_named(tmp_path: Path) -> None:
    (tmp_path / "aime24.jsonl").write_text("{}")
    with pytest.raises(ProblemError, match=r"gsm8k\.jsonl, which is not there.*aime24\.jsonl"):
        load("gsm8k", folder=tmp_path)


def test_the_real_sets(shared_data: Path) -> None:
    folder = shared_data / "problems"
    paper = load("math500/paper", folder=folder)
    assert len(paper) == 100
    assert paper[0].id == "test/intermediate_algebra/117.json"  # the first of the recorded chains
    assert len(load("math500/paper", "calibration", folder=folder)) == 400
    assert [problem.id for problem in load("aime24/paper", folder=folder)][:1] == ["aime-2024-I-1"]
    assert all("-I-" in problem.id for problem in load("aime25/paper", folder=folder))
    assert len(load("aimo-amc/paper", folder=folder)) == 50
    assert len(load("amc23", "calibration", folder=folder)) == 43
    olympiad = load("olympiadbench/paper", folder=folder)
    marked = [
        json.loads(line)
        for line in (folder / "olympiadbench_maths_en_comp.jsonl").read_text().splitlines()
    ]
    ours = {row["id"]: row["atts_subset_index"] for row in marked}
    assert [ours[problem.id] for problem in olympiad] == list(range(50))
