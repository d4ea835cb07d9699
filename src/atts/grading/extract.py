"""Finds the answer in a chain's text."""

import re

# An escaped character is consumed whole, so that \{ and \} do not count as braces. Every
# alternative is bounded or advances, so the search is linear in the text. The second backslash
# is for models that write \\boxed, as in a string literal.
_TOKEN = re.compile(r"(?P<box>\\\\?(?:boxed|fbox)\s*+\{)|\\.|(?P<open>\{)|(?P<close>\})", re.DOTALL)


def extract_boxed(text: str) -> str | None:
    r"""The content of the last complete ``\boxed{...}``, without surrounding spaces.

    Braces nest; ``\{`` and ``\}`` do not count; ``\fbox`` counts as a box. A box that is not
    closed is passed over, as is one that holds nothing. Of boxes inside each other the
    innermost, which begins last, is taken. Takes time linear in the length of the text.

    Returns:
        None if no complete box holds anything.

    >>> extract_boxed(r"So \boxed{1}, no: \boxed{\frac{1}{2}}. Or \boxed{3")
    '\\frac{1}{2}'
    >>> extract_boxed(r"The answer goes into \boxed{}.") is None
    True
    """
    answer: str | None = None
    answer_start = -1
    # One entry for each open brace: where a box's content starts, or None for a plain brace.
    open_braces: list[int | None] = []
    for token in _TOKEN.finditer(text):
        if token["box"]:
            open_braces.append(token.end())
        elif token["open"]:
            open_braces.append(None)
        elif token["close"] and open_braces:
            start = open_braces.pop()
            # Boxes inside each other close from the inside out; only a later start replaces.
            if start is not None and start > answer_start:
                content = text[start : token.start()].strip()
                if content:
                    answer, answer_start = content, start
    return answer
