"""Finds a program in a chain's text: the last fenced block of code of its answer."""

import re
import textwrap
from collections.abc import Iterable
from typing import NamedTuple

from atts.models.thought import divide

_FENCE = re.compile(r"^[ \t]*(?P<mark>`{3,}|~{3,})[ \t]*(?P<info>[^\n`]*)$", re.MULTILINE)
_PYTHON = {"python", "python3", "py", "py3"}


class Block(NamedTuple):
    """A fenced block that is closed."""

    language: str
    """What stands behind its first mark, in small letters; mostly nothing or "python"."""
    code: str


def find_blocks(text: str) -> list[Block]:
    """All fenced blocks that are closed, in order; takes linear time.

    >>> find_blocks("First:\\n```Python\\nx = 1\\n```\\nand\\n~~~\\ny = 2")
    [Block(language='python', code='x = 1\\n')]
    """
    blocks: list[Block] = []
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif fence["mark"].startswith(opened["mark"]) and not fence["info"].strip():
            language = next(iter(opened["info"].lower().split()), "")
            code = text[opened.end() + 1 : fence.start()]
            blocks.append(Block(language, textwrap.dedent(code)))
            opened = None
    return blocks


def as_vote(program: str) -> str:
    """What a program counts as in a vote: its text. Programs that do the same are not told.

    >>> as_vote("x = 1\\n") == as_vote("x = 1"), as_vote("x=1") == as_vote("x = 1")
    (True, False)
    """
    return program.strip()


def extract_program(
    text: str,
    entry_point: str | None = None,
    ends: Iterable[str] | None = None,
    in_thought: bool = False,
) -> str | None:
    """The program that a chain has come to: of its answer, after its thought, the last block.

    Blocks of Python come before those without a language, other languages do not count. Where a
    function is asked for, the last block that defines it is taken before any later one, which
    mostly shows how to call it. A block that is not closed is no program: the text was cut.

    Args:
        text: of a chain that has ended.
        entry_point: the function that is asked for, if one is.
        ends: the ends of a thought; None takes those that are known.
        in_thought: whether the text begins inside a thought that the prompt has opened.

    >>> extract_program("<think>```\\nno\\n```</think>```py\\nyes = 1\\n```\\n```text\\n1\\n```")
    'yes = 1\\n'
    """
    blocks = [
        block for block in find_blocks(divide(text, ends, in_thought).answer) if block.code.strip()
    ]
    found = [block.code for block in blocks if block.language in _PYTHON] or [
        block.code for block in blocks if not block.language
    ]
    if entry_point:
        defines = re.compile(rf"^\s*(?:async\s+)?def\s+{re.escape(entry_point)}\b", re.MULTILINE)
        found = [code for code in found if defines.search(code)] or found
    return found[-1] if found else None
