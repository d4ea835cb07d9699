"""How tables stand in a width: nothing is lost, and no number is broken."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from atts.reports.table_layout import Figure, Sheet


def lines(sheet: Sheet, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(sheet)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


NAMES = st.one_of(
    st.text(max_size=60),
    st.from_regex(
        r"(atts|draft-only|runs/x)(-[0-9a-f]{16}|:take_over\\.rate=0\\.\\d+)?", fullmatch=True
    ),
)
PLAIN = st.one_of(
    st.integers(0, 10**12).map("{:,}".format),
    st.floats(-100, 100).map("{:+.1f}".format),
    st.just("-"),
)
INTERVALS = st.tuples(*[st.floats(-100, 100)] * 3).map(
    lambda t: "{:.1f} ({:.1f}..{:.1f})".format(*t)
)
COUNTS = st.tuples(st.floats(0, 100), st.integers(0, 10**6)).map(
    lambda t: f"{t[0]:.1f} of {t[1]:,}"
)
LABELS = st.sampled_from(
    ["problems x chains", "  promised by calibration, %", "turns off by, mean", "p", "wall time, s"]
)


@st.composite
def sheets(draw: st.DrawFn) -> Sheet:
    things = draw(st.lists(NAMES, min_size=1, max_size=9))
    cells = st.lists(
        st.one_of(PLAIN, INTERVALS, COUNTS), min_size=len(things), max_size=len(things)
    )
    figures = draw(st.lists(st.builds(Figure, LABELS, cells), min_size=1, max_size=9))
    return Sheet(things=things, figures=figures, as_rows=draw(st.booleans()))


@given(sheets(), st.integers(40, 200))
def test_no_number_is_broken_and_no_line_too_long(sheet: Sheet, width: int) -> None:
    shown = lines(sheet, width)
    assert max(map(cell_len, shown)) <= width
    # Every part of a cell that may not be broken stands on a line, as often as in the sheet.
    text = "\n".join(shown)
    parts = [part for f in sheet.figures for cell in f.cells for part in re.split(r" (?=\()", cell)]
    for part in set(parts):
        whole = rf"(?<![\w.,(]){re.escape(part)}(?![\w.,])"
        assert len(re.findall(whole, text)) >= parts.count(part)


@pytest.mark.parametrize("as_rows", [True, False])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_names_are_shown_whole_and_harmless(width: int, as_rows: bool) -> None:
    name = "[red]runs/a-very-long-name.of_a-run:take_over.rate=0.25,seed=1\x1b[2J"
    sheet = Sheet(things=[name], figures=[Figure("p", ["0.5"])], as_rows=as_rows)
    shown = "".join(lines(sheet, width)).replace(" ", "")
    assert name.replace("\x1b", r"\x1b") in shown.replace("0.5", "", 1).replace("─", "") or (
        "rate=0.25" in shown and "\x1b" not in shown
    )


def test_the_layout_follows_the_width() -> None:
    sheet = Sheet(
        things=["one", "two"],
        figures=[Figure("a figure", ["1.0 (0.5-1.5)", "2.0 (1.5-2.5)"]), Figure("p", ["-", "0.5"])],
        caption="So it is.",
    )
    assert lines(sheet, 40) == [
        "                    one            two",
        "──────────────────────────────────────",
        "a figure  1.0 (0.5-1.5)  2.0 (1.5-2.5)",
        "p                     -            0.5",
        "So it is.",
    ]
    assert lines(sheet, 35) == [
        "                one        two",
        "──────────────────────────────",
        "a figure        1.0        2.0",
        "          (0.5-1.5)  (1.5-2.5)",
        "p                 -        0.5",
        "So it is.",
    ]
    assert lines(sheet, 23) == [
        "                    one",
        "───────────────────────",
        "a figure  1.0 (0.5-1.5)",
        "p                     -",
        "",
        "                    two",
        "───────────────────────",
        "a figure  2.0 (1.5-2.5)",
        "p                   0.5",
        "So it is.",
    ]
    assert lines(sheet, 15) == [
        "one",
        "a figure",
        "    1.0",
        "    (0.5-1.5)",
        "p",
        "    -",
        "two",
        "a figure",
        "    2.0",
        "    (1.5-2.5)",
        "p",
        "    0.5",
        "So it is.",
    ]


def test_things_are_rows_while_that_fits() -> None:
    sheet = Sheet(
        things=["A", "B"],
        figures=[
            Figure("control", ["online,coverage=conditional", "split"], is_words=True),
            Figure("realised", ["0.400 (0.300-0.500)", "0.500 (0.400-0.600)"]),
        ],
        as_rows=True,
    )
    assert lines(sheet, 80)[2] == "A  online,coverage=conditional  0.400 (0.300-0.500)"
    assert lines(sheet, 40)[2:4] == [
        "A  online,coverage=          0.400",
        "   conditional       (0.300-0.500)",
    ]
    assert lines(sheet, 34)[0].split() == ["A"]
    assert any(line.split() == ["realised", "0.400", "(0.300-0.500)"] for line in lines(sheet, 34))


def test_rows_of_text_come_a_thing_at_a_time_with_their_words_whole() -> None:
    found = "299 of 300 known tokens were cached when scoring"
    sheet = Sheet(
        things=["draft", "target"],
        figures=[
            Figure("check", ["prefix cache", "log-probabilities"], is_words=True),
            Figure("found", [found, "-0.30 nats per token, -15.11 for noise"], is_words=True),
            Figure("mend", ["", "serve the model with its log-probabilities"], is_words=True),
        ],
        as_rows=True,
    )
    assert lines(sheet, 120)[2].split("  ")[0] == "draft"
    shown = lines(sheet, 50)
    assert sum(line.startswith("───") for line in shown) == 2
    assert set(found.split()) <= {word for line in shown for word in line.split()}
    assert "-15.11" in " ".join(shown).split()


def test_ranges_and_headings_are_not_broken_either() -> None:
    cells = ["25.0 (0.0-99.0)", "50.0 (7.9-92.1)"]
    sheet = Sheet(
        things=["0-1,199", "1,200-12,399"],
        figures=[Figure("until, s", ["0.3", "1.7"]), Figure("rate, %", cells)],
        corner="decisions",
        as_rows=True,
    )
    for width in range(25, 60):
        shown = " ".join(lines(sheet, width)).split()
        assert {"0-1,199", "1,200-12,399", "decisions"} <= set(shown)
