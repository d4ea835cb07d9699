"""Making text of unknown origin safe to print: model output, problem files, folder names."""

import unicodedata


def visible(text: str) -> str:
    r"""Show control characters instead of sending them to the terminal.

    Line feeds and tabs stay. Everything else of the Unicode classes for control, format and
    surrogate characters (ANSI escapes, carriage returns, text direction overrides) is written
    as a backslash escape.

    >>> print(visible("\x1b[31mred\r"))
    \x1b[31mred\r
    """
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text  # as nearly all is; long texts are worth the short way
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) not in _UNSAFE else _escaped(char)
        for char in text
    )


def shortened(text: str, longest: int = 200) -> str:
    """The same on one line, and no longer than so many characters.

    >>> shortened("one\\ntwo three", longest=9)
    'one two …'
    """
    # Cut first: what is escaped may be ten times as long.
    line = visible(" ".join(text[: longest + 1].split()))
    return line if len(line) <= longest and len(text) <= longest else f"{line[: longest - 1]}…"


def safe_markup(text: str) -> str:
    r"""The same for text that becomes part of rich markup.

    >>> print(safe_markup("[bold]\x07"))
    \[bold]\x07
    """
    from rich.markup import escape

    return escape(visible(text))


_UNSAFE = frozenset({"Cc", "Cf", "Cs"})


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
