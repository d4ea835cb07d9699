import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atts.errors import ProblemError
from atts.files import to_jsonl
from atts.grading.equivalence import equivalent
from atts.grading.extract import extract_boxed
from atts.problems.jsonl import read_problems
from atts.types import Problem

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "problems"
GOOD = {"id": "p1", "question": "1 + 1?", "answer": "2"}


def write(folder: Path, *lines: object) -> Path:
    """A problem file: texts as they are, anything else as JSON."""
    path = folder / "problems.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def changed(**values: object) -> dict[str, object]:
    return {**GOOD, **values}


def refusal(path: Path) -> str:
    with pytest.raises(ProblemError) as caught:
        read_problems(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_reads_problems_in_order(tmp_path: Path) -> None:
    choice = {"id": "p0", "question": "Which?", "answer": "B", "choices": ["one", 2]}
    assert read_problems(write(tmp_path, GOOD, choice)) == [
        Problem(id="p1", question="1 + 1?", answer="2"),
        Problem(id="p0", question="Which?", answer="B", choices=("one", "2")),
    ]


def test_other_keys_and_blank_lines_are_ignored(tmp_path: Path) -> None:
    path = write(tmp_path, "", changed(level=5, subject="Algebra", choices=None), "  \t", "")
    assert read_problems(path) == [Problem.model_validate(GOOD)]


def test_numbers_become_texts(tmp_path: Path) -> None:
    (problem,) = read_problems(write(tmp_path, changed(id=7, answer=0.5)))
    assert (problem.id, problem.answer) == ("7", "0.5")


def test_windows_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n")
    assert read_problems(path) == [Problem.model_validate(GOOD)]


TEXTS = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: text.strip())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, unique_by=lambda row: row[0]))
def test_reads_any_text_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]
) -> None:
    problems = [Problem(id=i, question=question, answer=answer) for i, question, answer in rows]
    lines = [json.dumps(problem.model_dump(), ensure_ascii=False) for problem in problems]
    assert read_problems(write(tmp_path_factory.getbasetemp(), *lines)) == problems


# --- one test for each bad input ------------------------------------------------------------


def test_a_missing_file(tmp_path: Path) -> None:
    assert "there is no problem file" in refusal(tmp_path / "absent.jsonl")


def test_a_folder(tmp_path: Path) -> None:
    assert "is a folder; name a JSONL file" in refusal(tmp_path)


def test_a_path_through_a_file(tmp_path: Path) -> None:
    assert "cannot read" in refusal(write(tmp_path, GOOD) / "inside.jsonl")


@pytest.mark.parametrize("content", ["", "\n\n  \n"])
def test_an_empty_file(tmp_path: Path, content: str) -> None:
    assert "holds no problems" in refusal(write(tmp_path, content))


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin1.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"question": "caf\xe9"}\n')
    message = refusal(path)
    assert "line 2: not UTF-8" in message
    assert "save the file as UTF-8" in message


@pytest.mark.parametrize(
    "line",
    ["{", '{"id": "p2", "question"', "nonsense", "[" * 100_000, '{"id": ' + "9" * 5000 + "}"],
)
def test_a_line_that_is_not_json(tmp_path: Path, line: str) -> None:
    assert "line 3: not valid JSON" in refusal(write(tmp_path, GOOD, "", line))


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_constant_that_json_does_not_have(tmp_path: Path, constant: str) -> None:
    line = f'{{"id": "p2", "question": "?", "answer": {constant}}}'
    assert f"line 2: not valid JSON ({constant} is no JSON number)" in refusal(
        write(tmp_path, GOOD, line)
    )


def test_a_number_beyond_floats(tmp_path: Path) -> None:
    line = '{"id": "p2", "question": "?", "answer": 1e999}'
    assert "line 2: 'answer' is too large a number" in refusal(write(tmp_path, GOOD, line))


@pytest.mark.parametrize("line", ['["p1", "?", "2"]', '"text"', "3", "null"])
def test_a_line_that_is_not_an_object(tmp_path: Path, line: str) -> None:
    message = refusal(write(tmp_path, GOOD, line))
    assert "line 2: a JSON " in message
    assert "not an object" in message


@pytest.mark.parametrize("key", ["id", "question"])
def test_a_missing_key(tmp_path: Path, key: str) -> None:
    line = {name: value for name, value in GOOD.items() if name != key}
    message = refusal(write(tmp_path, line))
    assert f"line 1: the key '{key}' is missing" in message
    assert "every problem needs id, question" in message


def test_answers_may_be_absent_from_all_lines_and_null_in_any(tmp_path: Path) -> None:
    bare = {name: value for name, value in GOOD.items() if name != "answer"}
    first, second = read_problems(write(tmp_path, bare, {**bare, "id": "p2", "choices": ["a"]}))
    assert (first.answer, second.answer, second.choices) == (None, None, ("a",))
    _, second = read_problems(write(tmp_path, GOOD, {**bare, "id": "p2", "answer": None}))
    assert second.answer is None
    assert '"answer"' not in to_jsonl([second])
    # A misspelt key must not make a problem one that is never graded.
    message = refusal(write(tmp_path, GOOD, {**bare, "id": "p2", "anwser": "2"}))
    assert "line 2: the key 'answer' is in some lines and missing in others" in message


def test_duplicate_ids(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, changed(id=1), GOOD, "", changed(id="1")))
    assert "line 4: the id '1' was given before, in line 1" in message


@pytest.mark.parametrize("key", ["id", "question", "answer"])
@pytest.mark.parametrize("text", ["", " \n\t"])
def test_a_blank_text(tmp_path: Path, key: str, text: str) -> None:
    assert f"line 1: '{key}' is blank" in refusal(write(tmp_path, changed(**{key: text})))


@pytest.mark.parametrize(
    ("key", "value"),
    [("id", None), *((key, v) for key in ("id", "answer") for v in (True, ["2"], {"value": 2}))],
)
def test_a_value_that_is_no_text(tmp_path: Path, key: str, value: object) -> None:
    assert f"line 1: '{key}' must be a text" in refusal(write(tmp_path, changed(**{key: value})))


@pytest.mark.parametrize("value", [None, 3, ["?"]])
def test_a_question_that_is_no_text(tmp_path: Path, value: object) -> None:
    assert "line 1: 'question' must be a text" in refusal(write(tmp_path, changed(question=value)))


@pytest.mark.parametrize("value", ["A B", {"A": "one"}, 4])
def test_choices_that_are_no_list(tmp_path: Path, value: object) -> None:
    assert "line 1: 'choices' must be a list" in refusal(write(tmp_path, changed(choices=value)))


@pytest.mark.parametrize("value", ["", None, ["nested"]])
def test_a_choice_that_is_no_text(tmp_path: Path, value: object) -> None:
    assert "line 1: 'choices' " in refusal(write(tmp_path, changed(choices=["one", value])))


def test_half_a_surrogate_pair(tmp_path: Path) -> None:
    line = '{"id": "p1", "question": "\\ud800?", "answer": "2"}'
    assert "line 1: 'question' holds half of a surrogate pair" in refusal(write(tmp_path, line))


@pytest.mark.parametrize(
    ("key", "written", "meant"),
    [
        ("answer", "\\frac{1}{2}", "frac"),
        ("answer", "2\\times 3", "times"),
        ("answer", "\\beta", "beta"),
        ("answer", "\\rho", "rho"),
        ("answer", "x \\neq 2", "neq"),
        ("answer", "\\text{no}", "text"),
        ("answer", "\\theta", "theta"),
        ("answer", "\\binom{4}{2}", "binom"),
        ("question", "What is \\frac{1}{2}?", "frac"),
        ("question", "Is x \\notin A?", "notin"),
        ("question", "\\begin{array}", "begin"),
        ("question", "5 \\rightarrow 6", "rightarrow"),
    ],
)
def test_a_single_backslash_that_json_took_for_an_escape(
    tmp_path: Path, key: str, written: str, meant: str
) -> None:
    line = json.dumps(changed(**{key: "HERE"})).replace("HERE", written)
    message = refusal(write(tmp_path, GOOD.copy() | {"id": "p0"}, line))
    assert f"line 2: '{key}' holds a control character where \\{meant} was meant" in message
    assert f"written twice: \\\\{meant}" in message
    doubled = json.dumps(changed(**{key: "HERE"})).replace("HERE", written.replace("\\", "\\\\"))
    (problem,) = read_problems(write(tmp_path, doubled))
    assert written in (problem.answer, problem.question)


def test_a_single_backslash_that_is_no_escape(tmp_path: Path) -> None:
    line = '{"id": "p", "question": "?", "answer": "\\sqrt{2}"}'
    assert "write a backslash of LaTeX twice" in refusal(write(tmp_path, line))


@pytest.mark.parametrize("text", ["a\tan apple", "one\neven two", "1\r\n2", "to\tbe or\nnot to be"])
def test_tabs_and_line_breaks_are_text(tmp_path: Path, text: str) -> None:
    assert read_problems(write(tmp_path, changed(question=text)))[0].question == text


CHOICES = ["red", "green", "blue", "$\\frac{1}{2}$"]


@pytest.mark.parametrize("answer", ["E", "Z", "yellow", 2, "3", 0, "AB"])
def test_a_gold_answer_that_no_choice_has(tmp_path: Path, answer: object) -> None:
    message = refusal(write(tmp_path, changed(answer=answer, choices=CHOICES)))
    assert "line 1: the answer " in message
    assert "is none of the 4 choices; " in message
    assert "write its letter, A to D, or its text" in message
    assert ("an index is not taken" in message) == str(answer).isdecimal()


@pytest.mark.parametrize("answer", ["A", "D", "(c)", "blue", "Blue.", 0.5, "\\frac12"])
def test_a_gold_answer_that_a_choice_has(tmp_path: Path, answer: object) -> None:
    (problem,) = read_problems(write(tmp_path, changed(answer=answer, choices=CHOICES)))
    assert problem.choices == tuple(CHOICES)


def test_a_number_is_the_value_of_a_choice_only_where_it_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, changed(answer=2, choices=["1", "2", "3"]))
    assert read_problems(path)[0].answer == "2"
    assert "an index is not taken" in refusal(
        write(tmp_path, changed(answer=2, choices=["one", "two", "three"]))
    )


def test_more_choices_than_letters(tmp_path: Path) -> None:
    choices = [f"choice {number}" for number in range(27)]
    message = refusal(write(tmp_path, changed(answer="A", choices=choices)))
    assert "line 1: 27 choices, but there are letters for 26" in message
    assert read_problems(write(tmp_path, changed(answer="Z", choices=choices[:26])))


def test_a_gold_answer_of_gsm8k(tmp_path: Path) -> None:
    path = write(tmp_path, changed(answer="He has 6 * 7 = <<6*7=42>>42.\n#### 42"))
    assert read_problems(path)[0].answer == "42"
    assert "has nothing after ####" in refusal(write(tmp_path, changed(answer="So: ####")))


@pytest.mark.parametrize("digits", ["0.00001", "1.50", "1e-5", "123456789.123456789123", "0.1e2"])
def test_numbers_keep_their_digits(tmp_path: Path, digits: str) -> None:
    path = write(tmp_path, f'{{"id": "p", "question": "?", "answer": {digits}}}')
    assert read_problems(path)[0].answer == digits


# --- real problem files ---------------------------------------------------------------------


@pytest.mark.skipif(not DATA.is_dir(), reason="the data folder is not beside this checkout")
def test_real_files_are_read_and_their_gold_answers_equal_themselves() -> None:
    paths = sorted(DATA.glob("*.jsonl"))
    assert paths, f"{DATA} holds no problem files"
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            count = sum(1 for _ in lines)
        problems = read_problems(path)
        assert len(problems) == count
        for problem in problems:
            boxed = extract_boxed(f"Hence \\boxed{{{problem.answer}}}.")
            assert boxed is not None, problem.id
            assert problem.answer is not None
            assert equivalent(problem.answer, boxed), problem.id


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.jsonl")
    assert "a pipe, not a plain file" in refusal(tmp_path / "p.jsonl")


def test_what_stands_in_place_of_a_text_is_shown_in_short(tmp_path: Path) -> None:
    for value in ([[0] * 10_000], "[" * 900 + "]" * 900, 10**4000):
        text = value if isinstance(value, str) else json.dumps(value)
        path = write(tmp_path, f'{{"id": "a", "question": {text}, "answer": "1"}}')
        assert len(refusal(path)) < 300 + len(str(path))
