"""The grader: what algebra finds equal, and that a hostile answer costs its time limit at most."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dies import die_on_demand, fail_on_demand
from hypothesis import given, settings
from hypothesis import strategies as st

from atts.grading import algebra
from atts.grading import grader as grader_module
from atts.grading.choices import choice_letter
from atts.grading.equivalence import LONGEST, compare_exactly, compare_values, same_value
from atts.grading.extract import extract_answer
from atts.grading.grader import Grader, VerdictCache, why_ungraded

SECONDS = 20.0
"""More than any fair pair needs, on a busy machine."""


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(seconds=SECONDS) as grader:
        yield grader


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("x+1", "1+x"),
        ("ab", "ba"),
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)"),
        ("1,2", "2,1"),
        (r"\{1, 2\}", "2, 1"),
        ("x=1", "1"),
        ("0.5", r"50\%"),
        ("5", r"5\text{ cm}"),
        ("90", r"90^\circ"),
        (r"1\frac{1}{2}", "1.5"),
        (r"3 \pm \sqrt{2}", r"3+\sqrt{2}, 3-\sqrt{2}"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"),
        ("1 < x < 2", "(1, 2)"),
        ("10^5", "100000"),
    ],
)
def test_the_same_mathematics(grader: Grader, gold: str, answer: str) -> None:
    assert compare_exactly(gold, answer) is None
    assert set(grader.compare([(gold, answer), (answer, gold)]).values()) == {True}


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("x+1", "x+2"),
        ("2x + z = 1", "1"),
        ("(1, 2)", "[1, 2]"),
        ("(1,2)", "(2,1)"),
        (r"\frac{14}{3}", r"4.6667\text{ cm}"),
        (r"\sqrt{2}", "1.4"),
        ("x", "2"),
        ("7", "the answer is unclear"),
        ("7", "__import__('os')"),
    ],
)
def test_different_mathematics(grader: Grader, gold: str, answer: str) -> None:
    assert set(grader.compare([(gold, answer), (answer, gold)]).values()) == {False}


def test_two_answers_that_cannot_be_read_are_ungraded(grader: Grader) -> None:
    assert grader.compare([("t(0,4]", "u(0,5]")]) == {("t(0,4]", "u(0,5]"): None}


def test_a_hostile_answer_costs_its_time_limit_and_not_the_run() -> None:
    hostile = [
        "9^{9^{9^9}}",
        "{" * (LONGEST - 1),
        r"\frac{1}{" * 100 + "2" + "}" * 100,
        "((10!)!)!",
    ]
    with Grader(seconds=1.0) as grader:
        began = time.perf_counter()
        verdicts = grader.compare([("x+2", answer) for answer in hostile])
        # A process starts anew for each that is killed; a machine may be busy with other things.
        assert time.perf_counter() - began < len(hostile) * 5
    assert True not in verdicts.values()
    assert verdicts[("x+2", hostile[0])] is None


def test_a_megabyte_is_not_even_looked_at(grader: Grader) -> None:
    huge = "\\boxed{" * 150_000
    began = time.perf_counter()
    assert grader.compare([("x+2", huge), (huge, huge)]) == {
        ("x+2", huge): None,
        (huge, huge): True,
    }
    assert time.perf_counter() - began < 5


def test_a_process_that_dies_leaves_one_pair_ungraded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algebra, "same_by_algebra", die_on_demand)
    with Grader(seconds=SECONDS, workers=1) as grader:
        verdicts = grader.compare([("die", "x+1"), ("x+1", "y+1"), ("x+2", "y+2")])
    assert list(verdicts.values()) == [None, True, True]


def test_no_process_starts_for_what_can_be_said_at_once() -> None:
    with Grader() as grader:
        grader.compare([("1", "2"), ("0.5", "1/2"), ("A", "B"), ("x", "x")])
        assert grader._pool is None


def test_progress_counts_the_pairs_that_need_algebra() -> None:
    seen: list[tuple[int, int]] = []
    with Grader(SECONDS, progress=lambda done, total: seen.append((done, total))) as grader:
        grader.compare([("1", "2"), ("x+1", "1+x"), ("x+1", "1+x"), ("x+1", "x+3")])
    assert seen == [(1, 2), (2, 2)]


def test_what_is_in_the_cache_is_not_computed_again(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path / "verdicts.sqlite3")
    with Grader(SECONDS, cache=cache) as grader:
        first = grader.compare([("x+1", "1+x"), ("x+1", "x+3")])
    with Grader(SECONDS, cache=cache) as grader:
        assert grader.compare(first) == first
        assert grader._pool is None


# No powers: nothing here may take long, because it runs in this process.
@settings(max_examples=30, deadline=None)
@given(st.text(alphabet="x12+-{}()\\frac,=<$ ", max_size=12), st.sampled_from(["x+1", "(1,2)"]))
def test_algebra_is_symmetric(one: str, other: str) -> None:
    assert algebra.same_by_algebra(one, other) == algebra.same_by_algebra(other, one)


def _golds(folder: Path) -> dict[str, list[str]]:
    return {
        path.stem: [
            json.loads(line)["answer"] for line in path.read_text(encoding="utf-8").splitlines()
        ]
        for path in sorted((folder / "problems").glob("*.jsonl"))
    }


def test_every_real_gold_answer_equals_itself_by_algebra(shared_data: Path) -> None:
    golds = [gold for answers in _golds(shared_data).values() for gold in answers]
    needing = sorted({gold for gold in golds if not gold.lstrip("-").isdecimal()})
    # Without the exact path, which would say so of any text. Every fifth: all take 20 s.
    unread = [gold for gold in needing[::5] if algebra.same_by_algebra(gold, gold) is not True]
    assert len(unread) <= len(needing[::5]) * 0.005 + 1, unread


def test_different_real_gold_answers_differ(shared_data: Path) -> None:
    random_ = random.Random(0)  # noqa: S311
    pairs = []
    for answers in _golds(shared_data).values():
        different = sorted(set(answers))
        pairs += [tuple(random_.sample(different, 2)) for _ in range(10)]
    with Grader(SECONDS) as grader:
        verdicts = grader.compare(pairs)  # type: ignore[arg-type]
    assert [pair for pair, verdict in verdicts.items() if verdict] == []


@pytest.mark.parametrize("digits", [900, 4400, 1_000_000])
@pytest.mark.parametrize("after", ["%", r"\%", " percent", "", " cm", "e5"])
def test_a_number_without_end_costs_no_other_answer_its_verdict(digits: int, after: str) -> None:
    endless = "9" * digits + after
    with Grader(seconds=SECONDS) as quick:
        verdicts = quick.compare([("7", endless), (endless, "7"), ("7", "7.0"), (endless, endless)])
        assert quick._pool is None or digits == 900
    assert verdicts["7", endless] in (False, None)
    assert verdicts["7", "7.0"] is True
    assert verdicts[endless, endless] is True
    if digits > LONGEST:
        assert why_ungraded(("7", endless)) == "longer than 1,000 characters"


def test_whatever_algebra_ends_in_is_ungraded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algebra, "same_by_algebra", fail_on_demand)
    with Grader(seconds=SECONDS) as quick:
        verdicts = quick.compare([("fail", "x+y"), ("x+1", "1+x")])
    assert verdicts == {("fail", "x+y"): None, ("x+1", "1+x"): True}


def test_whatever_reading_ends_in_is_ungraded(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_deep(one: str, _other: str) -> bool:
        if one == "deep":
            raise RecursionError
        return True

    monkeypatch.setattr(grader_module, "compare_exactly", too_deep)
    with Grader() as quick:
        assert quick.compare([("deep", "1"), ("1", "1")]) == {("deep", "1"): None, ("1", "1"): True}


PARTS = [
    *("9", "1", "0", ".", "-", "^", "{", "}", "(", ")", "!", "%", r"\%", ",", "=", "e", "x", "_"),
    *("\\frac", "\\sqrt", "\\pi", "\\binom", "\\sin", "\\text{", "\\boxed{", " ", "\\circ"),
    *("²", "½", "٣", "①", "Ⅷ", "𝟙", "\ud800", "\x00", "\u202e", "\n", "√", "°"),  # noqa: RUF001
    *("9" * 290, "9" * 999, "9" * 4400, "1e999", "e-999", " million", " base ", "answer is "),
]
ODD = st.lists(st.sampled_from(PARTS), min_size=1, max_size=12).map("".join)


@settings(max_examples=300)
@given(ODD, ODD)
def test_no_text_of_an_answer_is_more_than_unread(one: str, other: str) -> None:
    assert compare_exactly(one, other) in (True, False, None)
    assert compare_values(one, other) in (True, False, None)
    assert same_value(one, other) in (True, False)
    assert choice_letter(other, (one, "two", "3")) in (None, "A", "B", "C")
    assert extract_answer(other) is None or "box" in other
    assert algebra.read_structure(one).parts


def test_a_script_without_a_guard_is_not_run_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "print('begins')\n"
        "from atts.grading.grader import Grader\n"
        "with Grader() as grader:\n"
        "    print(grader.compare([('x+1', '1+x')]))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.stdout == "begins\n{('x+1', '1+x'): True}\n", done.stderr
