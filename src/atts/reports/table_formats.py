"""Tables for papers, issues and spreadsheets."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

from atts.reports.table_layout import ABSENT, Figure, Sheet
from atts.text import visible

_MARKS = re.compile(r"([\\`*_\[\]<>|~&$#])")
_HARMLESS = re.compile(r"[-+0-9.,%() ]*")
_SHAPES = tuple(
    (re.compile(pattern), names)
    for pattern, names in (
        (r"(\S+) \((\S+?)(?:\.\.|-)(\S+)\)", ("", " low", " high")),
        (r"(\S+) \((\S+)\)", ("", " in brackets")),
        (r"(\S+)  +(\S+)", ("", " share")),
        (r"(\S+) of (\S+)", ("", " of")),
    )
)
"""Cells of several numbers, and what is added to the label for each of them."""
_NUMBER = re.compile(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?")


def to_markdown(sheet: Sheet) -> str:
    """A table as GitHub and pandoc read it, with its caption below."""
    labels = [figure.label for figure in sheet.figures]
    if sheet.as_rows:
        heads = [sheet.corner, *labels]
        rows = [
            [thing, *(figure.cells[number] for figure in sheet.figures)]
            for number, thing in enumerate(sheet.things)
        ]
        to_the_right = [False, *(not figure.is_words for figure in sheet.figures)]
    else:
        heads = [sheet.corner, *sheet.things]
        rows = [[figure.label, *figure.cells] for figure in sheet.figures]
        to_the_right = [False, *(True for _ in sheet.things)]
    lines = [
        _line(map(_escaped, heads)),
        _line("--:" if right else "---" for right in to_the_right),
        *(_line(map(_escaped, row)) for row in rows),
    ]
    caption = f"\n{_escaped(sheet.caption)}\n" if sheet.caption else ""
    return "\n".join(lines) + "\n" + caption


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    r"""Text in which nothing is markup; an indent is kept.

    >>> _escaped("  a|b")
    '&nbsp;&nbsp;a\\|b'
    """
    plain = visible(text)
    indent = len(plain) - len(plain.lstrip(" "))
    marked = _MARKS.sub(r"\\\1", plain[indent:].replace("\t", " "))
    return "&nbsp;" * indent + marked.replace("\n", "<br>")


def to_csv(sheet: Sheet) -> str:
    """A line a thing, such as a run, and a column a number; what is absent is empty. An indented
    label comes with that which it is below.
    """
    columns: list[tuple[str, Sequence[str]]] = [(sheet.corner or "name", sheet.things)]
    above = ""
    for figure in sheet.figures:
        label = figure.label.strip()
        if figure.label.startswith(" "):
            label = f"{above}: {label}"
        else:
            above = label
        columns += _columns(label, figure)
    return csv_lines(
        [label for label, _ in columns], zip(*(cells for _, cells in columns), strict=True)
    )


def _columns(label: str, figure: Figure) -> list[tuple[str, Sequence[str]]]:
    cells = ["" if cell == ABSENT else cell for cell in figure.cells]
    for shape, names in () if figure.is_words else _SHAPES:
        found = [shape.fullmatch(cell) for cell in cells]
        if any(found):
            rest = [""] * (len(names) - 1)
            parts = [
                each.groups() if each else (cell, *rest)
                for each, cell in zip(found, cells, strict=True)
            ]
            return [
                (label + name, [_plain(part) for part in column])
                for name, column in zip(names, zip(*parts, strict=True), strict=True)
            ]
    return [(label, [_plain(cell) for cell in cells])]


def _plain(cell: str) -> str:
    """A number without the marks between its thousands."""
    return cell.replace(",", "") if _NUMBER.fullmatch(cell) else cell


def csv_lines(heads: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """CSV in which no text is a formula to a spreadsheet: such a one begins with an apostrophe."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([_no_formula(cell) for cell in row] for row in (heads, *rows))
    return file.getvalue()


def _no_formula(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    text = " ".join(visible(cell).split())
    is_formula = text[:1] in ("=", "+", "-", "@") and not _HARMLESS.fullmatch(text)
    return f"'{text}" if is_formula else text
