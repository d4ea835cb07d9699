"""How a table stands in a given width: decided here for every table, and nowhere else.

Where all fits, each cell is one line. Where it does not, intervals go below their estimates; then
the table comes in parts, of one run each in the end; then figures go below their labels. A number
is never broken.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rich import box
from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from atts.text import visible

ABSENT = "-"
GAP = 2
"""Between two columns."""
LABEL, NAME, WORDS = 24, 14, 20
"""Labels, names and words that are longer may be broken from these widths on."""
HEADING_LINES = 3
"""A figure's label above its column has no more."""


class Figure(NamedTuple):
    """What the things of a table are told by."""

    label: str
    cells: Sequence[str]
    """One for each thing: a number, perhaps with its interval in brackets after a space."""
    is_words: bool = False
    """The cells are text, which may be broken between its words."""

    def least(self, cell: str) -> int:
        """The width that a cell needs: a number without its interval, or a few words."""
        if self.is_words:  # a word a line is no text
            return max(_least_of_words(cell, WORDS), min(WORDS, _width(cell)))
        return max(map(cell_len, _number(cell, 0)))


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """What a table says: things, such as runs, and a cell for each figure of each of them.

    Texts are of any origin and no markup. A console prints it as wide as it is.
    """

    things: Sequence[str]
    figures: Sequence[Figure]
    caption: str = ""
    corner: str = ""
    """Above the names of things, or the labels of figures."""
    as_rows: bool = False
    """Things are rows where that fits, and columns where it does not; else they are columns."""
    styles: Mapping[str, str] = field(default_factory=dict)
    """Cell -> the style that it is printed in."""

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """The parts of the table, and its caption below."""
        yield from _laid_out(self, options.max_width)
        if self.caption:
            yield Text("\n".join(_broken(self.caption, options.max_width)))


class _Column(NamedTuple):
    """A column that may get any width from ``least`` on."""

    heading: str
    cells: Sequence[str]
    are_words: Sequence[bool]
    least: int

    def comfortable(self, is_words: bool) -> int:
        """The width in which every cell of the kind is one line."""
        wanted = zip(self.cells, self.are_words, strict=True)
        return max((_width(cell) for cell, words in wanted if words is is_words), default=0)

    def lines(self, row: int, width: int) -> list[str]:
        """A cell as it stands in a column of this width."""
        cell = self.cells[row]
        return _broken(cell, width) if self.are_words[row] else _number(cell, width)


def _laid_out(sheet: Sheet, width: int) -> Iterator[RenderableType]:
    if sheet.as_rows and (table := _table(sheet, _columns_of_figures(sheet), width)):
        yield table
        return
    count = len(sheet.things)
    # What was text in rows is read a thing at a time.
    is_text = sheet.as_rows and any(figure.is_words for figure in sheet.figures)
    for parts in range(count if is_text else 1, count + 1):
        size = -(-count // parts)  # as even as can be: 9 of which 7 fit are 5 and 4
        chunks = [range(start, min(start + size, count)) for start in range(0, count, size)]
        for label in (LABEL, 0) if size == 1 else (LABEL,):
            columns = [_columns_of_things(sheet, each, label) for each in chunks]
            if tables := _tables(sheet, columns, width):
                for number, table in enumerate(tables):
                    yield from ([Text()] if number else [])
                    yield table
                return
    yield from _stacked(sheet, width)


def _columns_of_figures(sheet: Sheet) -> list[_Column]:
    names = max((_least_of_words(name, NAME) for name in sheet.things), default=0)
    names = max(names, _longest_word(sheet.corner))
    columns = [_Column(sheet.corner, sheet.things, [True] * len(sheet.things), names)]
    for figure in sheet.figures:
        least = max(map(figure.least, figure.cells), default=0)
        are_words = [figure.is_words] * len(figure.cells)
        least = max(least, _longest_word(figure.label))
        while len(_broken(figure.label, least)) > HEADING_LINES:
            least += 1
        columns.append(_Column(figure.label, figure.cells, are_words, least))
    return columns


def _columns_of_things(sheet: Sheet, chosen: Iterable[int], label: int) -> list[_Column]:
    labels = [figure.label for figure in sheet.figures]
    natural = max(map(_width, labels), default=0)
    least = max(min(natural, label), *map(_longest_word, (sheet.corner, *labels)))
    columns = [_Column(sheet.corner, labels, [True] * len(labels), least)]
    for thing in chosen:
        name, cells = sheet.things[thing], [figure.cells[thing] for figure in sheet.figures]
        least = max((each.least(each.cells[thing]) for each in sheet.figures), default=0)
        least = max(least, _least_of_words(name, NAME))
        columns.append(_Column(name, cells, [figure.is_words for figure in sheet.figures], least))
    return columns


def _tables(sheet: Sheet, parts: Sequence[Sequence[_Column]], width: int) -> list[Table]:
    tables = [_table(sheet, columns, width, are_things_columns=True) for columns in parts]
    return [table for table in tables if table] if all(tables) else []


def _table(
    sheet: Sheet, columns: Sequence[_Column], width: int, are_things_columns: bool = False
) -> Table | None:
    """The table, if it is no wider."""
    widths = _widths(columns, width)
    if widths is None:
        return None
    rows = []
    for row in range(len(columns[0].cells)):
        cells = [column.lines(row, wide) for column, wide in zip(columns, widths, strict=True)]
        if are_things_columns and any(
            len(cell) > len(_lines(column.cells[row]))
            for cell, column in zip(cells[1:], columns[1:], strict=True)
        ):
            # A figure is read across its row: intervals are below in all cells, or in none.
            cells[1:] = [
                column.lines(row, wide if column.are_words[row] else 0)
                for column, wide in zip(columns[1:], widths[1:], strict=True)
            ]
        rows.append(cells)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for number, (column, wide) in enumerate(zip(columns, widths, strict=True)):
        is_text = number == 0 or any(
            words and (not are_things_columns or len(cells[number]) > 1)
            for words, cells in zip(column.are_words, rows, strict=True)
        )
        heading = _broken(column.heading, wide)
        # Broken lines may need less than was given.
        used = [cell_len(line) for cells in rows for line in cells[number]]
        table.add_column(
            Text("\n".join(heading)),
            justify="left" if is_text else "right",
            width=max([*used, *map(cell_len, heading), 1]),
            no_wrap=True,
        )
    for row, cells in enumerate(rows):
        table.add_row(
            *(
                Text("\n".join(cell), style=sheet.styles.get(column.cells[row], ""))
                for column, cell in zip(columns, cells, strict=True)
            )
        )
    return table


def _widths(columns: Sequence[_Column], width: int) -> list[int] | None:
    """Widths of columns, if the least of them fit."""
    widths = [max(column.least, 1) for column in columns]
    left = width - sum(widths) - GAP * (len(columns) - 1)
    if left < 0:
        return None
    left = _widened(widths, [columns[0].comfortable(is_words=True)], left)
    numbers = [column.comfortable(is_words=False) for column in columns]
    # As much as intervals beside all estimates need, or nothing: a part of it would be only gaps.
    if sum(max(wanted - wide, 0) for wanted, wide in zip(numbers, widths, strict=True)) <= left:
        left = _widened(widths, numbers, left)
    left = _widened(widths, [column.comfortable(is_words=True) for column in columns], left)
    _widened(widths, [_width(column.heading) for column in columns], left)
    return widths


def _widened(widths: list[int], wanted: Sequence[int], left: int) -> int:
    """Give the first columns what they want, evenly, and say what is left then."""
    while left and (short := [n for n, wide in enumerate(wanted) if widths[n] < wide]):
        for number in short[:left]:
            widths[number] += 1
        left -= len(short[:left])
    return left


def _stacked(sheet: Sheet, width: int) -> Iterator[Text]:
    """Figures below their labels."""
    for number, thing in enumerate(sheet.things):
        yield Text("\n".join(_broken(thing, width)), style="bold")
        for figure in sheet.figures:
            cell = figure.cells[number]
            lines = _broken(cell, width - 4) if figure.is_words else _number(cell, width - 4)
            yield Text("\n".join(_broken(figure.label, width)))
            yield Text("\n".join(f"    {line}" for line in lines), sheet.styles.get(cell, ""))


def _lines(text: str) -> list[str]:
    return visible(text).replace("\t", " ").split("\n")


def _width(text: str) -> int:
    return max(map(cell_len, _lines(text)))


def _least_of_words(text: str, most: int) -> int:
    """The width from which on no piece of a word is broken, but for those longer than ``most``."""
    pieces = (piece for word in visible(text).split() for piece in _pieces(word))
    return max((min(cell_len(piece), most) for piece in pieces), default=1)


def _longest_word(label: str) -> int:
    indent = 2 * (len(label) - len(label.lstrip()))
    return max((indent + cell_len(word) for word in visible(label).split()), default=1)


def _number(text: str, width: int) -> list[str]:
    """A number on one line, or its interval on another below it."""
    lines: list[str] = []
    for line in _lines(text):
        lines += [line] if cell_len(line) <= width else re.split(r" +(?=\()", line)
    return lines


def _pieces(word: str) -> list[str]:
    """A word in pieces that end with a mark, but for marks in a number.

    >>> _pieces("atts:take_over.rate=0.25")
    ['atts:', 'take_', 'over.', 'rate=', '0.25']
    """
    return re.split(r"(?<=[-,/=:_.])(?!(?<=\d[-.,])\d|(?<=[e=]-)\d|$)", word)


def _broken(text: str, width: int) -> list[str]:
    """Text in lines of at most this width, broken between words, and within a word only where it
    is longer than a line. What follows the first line of an indented text is indented twice.
    """
    lines: list[str] = []
    for whole in _lines(text):
        if cell_len(whole) <= width:
            lines.append(whole)
            continue
        indent = whole[: len(whole) - len(whole.lstrip())]
        room = max(width - 2 * len(indent), 1)
        line = indent
        for word in whole.split():
            pieces = [word] if cell_len(word) <= room else _pieces(word)
            for number, piece in enumerate(pieces):
                space = " " if number == 0 and line.strip() else ""
                if cell_len(line + space + piece) <= width:
                    line += space + piece
                    continue
                if line.strip():
                    lines.append(line)
                *full, rest = chop_cells(piece, room) or [""]
                lines += [2 * indent + part for part in full]
                line = 2 * indent + rest
        lines.append(line)
    return lines
