import json
from pathlib import Path

import pytest

import atts.problems as problems_module
from atts.config import ProblemsOptions
from atts.errors import ProblemError
from atts.problems import load_problems
from atts.types import Problem


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "problems.jsonl"
    rows = [{"id": f"p{i}", "question": f"{i}?", "answer": i} for i in range(5)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(("count", "expected"), [(2, 2), (5, 5), (None, 5)])
def test_count_limits_a_file_from_the_first(source: str, count: int | None, expected: int) -> None:
    problems = load_problems(ProblemsOptions(source=source, count=count))
    assert [problem.id for problem in problems] == [f"p{i}" for i in range(expected)]


def test_a_count_larger_than_the_file_is_refused(source: str) -> None:
    with pytest.raises(
        ProblemError, match=r"problems\.count is 6, but .* has 5 problems; lower it"
    ):
        load_problems(ProblemsOptions(source=source, count=6))


def test_a_fault_behind_the_count_is_still_found(source: str) -> None:
    with Path(source).open("a", encoding="utf-8") as file:
        file.write("\n{torn")
    with pytest.raises(ProblemError, match="line 6"):
        load_problems(ProblemsOptions(source=source, count=2))


def test_arithmetic_is_generated_by_split() -> None:
    test = load_problems(ProblemsOptions(source="arithmetic", split="test", count=20))
    calibration = load_problems(ProblemsOptions(source="arithmetic", split="calibration", count=20))
    assert len(test) == len(calibration) == 20
    assert not {p.id for p in test} & {p.id for p in calibration}
    assert not {p.question for p in test} & {p.question for p in calibration}


def test_fewer_generated_problems_are_the_first_of_more() -> None:
    more = load_problems(ProblemsOptions(count=20))
    assert load_problems(ProblemsOptions(count=5)) == more[:5]


def test_without_a_count_a_hundred_problems_are_generated() -> None:
    assert len(load_problems(ProblemsOptions(source="arithmetic", count=None))) == 100


def test_an_unknown_source_names_all_possibilities() -> None:
    with pytest.raises(ProblemError, match="arithmetc") as caught:
        load_problems(ProblemsOptions(source="arithmetc"))
    for possibility in ("generated set (arithmetic)", "atts problems list", "existing file"):
        assert possibility in str(caught.value)


def test_a_folder_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="is a folder"):
        load_problems(ProblemsOptions(source=str(tmp_path)))


def test_a_source_that_is_too_long_for_a_file_is_refused_in_few_words() -> None:
    with pytest.raises(ProblemError, match="there are no problems 'xxx") as caught:
        load_problems(ProblemsOptions(source="x" * 100_000))
    assert len(str(caught.value)) < 1000


def test_more_choices_than_letters_in_a_set_are_refused(
    monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    many = Problem(id="m", question="?", answer="A", choices=tuple(map(str, range(40))))
    monkeypatch.setattr(problems_module, "read_problems", lambda _: [many])
    with pytest.raises(ProblemError, match="the problem 'm' has 40 choices, but there are letters"):
        load_problems(ProblemsOptions(source=source, count=1))
