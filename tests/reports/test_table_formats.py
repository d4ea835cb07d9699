"""Tables as Markdown and CSV."""

import csv
import io

import pytest

from atts.reports.table_formats import csv_lines, to_csv, to_markdown
from atts.reports.table_layout import Figure, Sheet

SHEET = Sheet(
    things=["a|b", "=HYPERLINK(1)", "[x](y)\x1b"],
    figures=[
        Figure("accuracy, %", ["61.9 (55.5-68.0)", "100 (91.2-100)", "-"]),
        Figure("  minus the first run's", ["-", "+3.1 (-9.1..21.4)", "-0.5 (-1.0..-0.1)"]),
        Figure("tokens", ["1,234,567", "0", "12"]),
        Figure("  thrown away", ["-", "-", "-"]),
        Figure("why", ["1,234 (2-3)", "+1 and\nmore", "@sum"], is_words=True),
    ],
    caption="*All* of it.",
)


def test_markdown_is_escaped_and_keeps_its_shape() -> None:
    assert to_markdown(SHEET).splitlines() == [
        r"|  | a\|b | =HYPERLINK(1) | \[x\](y)\\x1b |",
        "| --- | --: | --: | --: |",
        "| accuracy, % | 61.9 (55.5-68.0) | 100 (91.2-100) | - |",
        "| &nbsp;&nbsp;minus the first run's | - | +3.1 (-9.1..21.4) | -0.5 (-1.0..-0.1) |",
        "| tokens | 1,234,567 | 0 | 12 |",
        "| &nbsp;&nbsp;thrown away | - | - | - |",
        "| why | 1,234 (2-3) | +1 and<br>more | @sum |",
        "",
        r"\*All\* of it.",
    ]
    by_rows = Sheet(things=["A"], figures=[Figure("p", ["0.5"])], corner="name", as_rows=True)
    assert to_markdown(by_rows) == "| name | p |\n| --- | --: |\n| A | 0.5 |\n"


def test_csv_has_a_column_a_number_and_no_formula() -> None:
    first, second, third = csv.DictReader(io.StringIO(to_csv(SHEET)))
    assert first["name"] == "a|b"
    assert second["name"] == "'=HYPERLINK(1)"
    assert third["name"] == r"[x](y)\x1b"
    assert [each["accuracy, %"] for each in (first, second, third)] == ["61.9", "100", ""]
    assert [each["accuracy, % low"] for each in (first, second, third)] == ["55.5", "91.2", ""]
    assert third["accuracy, %: minus the first run's"] == "-0.5"
    assert third["accuracy, %: minus the first run's low"] == "-1.0"
    assert third["accuracy, %: minus the first run's high"] == "-0.1"
    assert first["tokens"] == "1234567"
    assert first["tokens: thrown away"] == ""
    assert [each["why"] for each in (first, second, third)] == [
        "1,234 (2-3)",
        "'+1 and more",
        "'@sum",
    ]


@pytest.mark.parametrize("cell", ["=1", " =1", "\t=1", "\r=1", "@x", "-x", "+x", "-1+cmd|' /C'!A0"])
def test_formulas_are_texts(cell: str) -> None:
    ((shown,),) = csv.reader(io.StringIO(csv_lines([cell], [])))
    assert shown[0] in "'\\"
    assert csv_lines(["-1.5", "+0.2"], []) == "-1.5,+0.2\n"
