"""Programs are found in the last fenced block of an answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atts.grading.answers import find_answer
from atts.grading.programs.extract import extract_program, find_blocks
from atts.types import Case, Problem, ProgramTests

PROBLEM = Problem(id="p", question="?", tests=ProgramTests(cases=(Case(input="", output=""),)))


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("It is\n```python\nx = 1\n```\n", "x = 1\n"),
        ("```python\nx = 1\n```\nbetter:\n```python\nx = 2\n```", "x = 2\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("~~~py\nx = 1\n~~~", "x = 1\n"),
        # What it prints is no program, nor is how it is started.
        ("```python\nx = 1\n```\nprints\n```\n1\n```", "x = 1\n"),
        ("```python\nx = 1\n```\n```bash\npython x.py\n```", "x = 1\n"),
        ("```bash\npython x.py\n```", None),
        # The text was cut: the block before it is what there is.
        ("```python\nx = 1\n```\n```python\nx = 2", "x = 1\n"),
        ("```python\nx = 2", None),
        ("```python\n\n```", None),
        ("no block: `x = 1`", None),
        # A fence within a longer one is part of it, as is one within a text.
        ('````python\ns = """\n```\n"""\n````', 's = """\n```\n"""\n'),
        ("1. so\n   ```python\n   if x:\n       y()\n   ```", "if x:\n    y()\n"),
        ("<think>```python\nno\n```</think>```python\nyes\n```", "yes\n"),
        ("<think>```python\nno\n```", None),
    ],
)
def test_the_last_block_of_the_answer_is_taken(text: str, program: str | None) -> None:
    assert extract_program(text) == program


def test_a_function_that_is_asked_for_is_taken_before_how_to_call_it() -> None:
    text = "```python\ndef area(r):\n    return r\n```\nSo:\n```python\nprint(area(2))\n```"
    assert extract_program(text, "area") == "def area(r):\n    return r\n"
    assert extract_program(text, "are") == "print(area(2))\n"
    assert extract_program(text) == "print(area(2))\n"


def test_a_chain_that_goes_on_has_no_program_yet() -> None:
    text = "```python\nx = 1\n```\n\\boxed{1}"
    assert find_answer(PROBLEM, text, finished=False) is None
    assert find_answer(PROBLEM, text) == "x = 1\n"
    assert find_answer(Problem(id="p", question="?", answer="1"), text) == "1"


@given(st.lists(st.sampled_from(["```", "````", "~~~", "```py", "x = 1", "", "  ```"])))
def test_every_block_is_part_of_the_text(lines: list[str]) -> None:
    text = "\n".join(lines)
    for block in find_blocks(text):
        assert all(line.strip() in text for line in block.code.splitlines())
