"""Where a model's thought ends and its answer begins, by the marks that models write."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

# Harmony (gpt-oss) names the channel between two marks, and may name a format after it. Where a
# server dropped the marks, the names are left.
_HARMONY = r"<\|channel\|>\s*{}[^<\n]*(?:<\|constrain\|>[^<\n]*)?<\|message\|>"
_PATTERNS = {
    "<|channel|>analysis<|message|>": _HARMONY.format("(?:analysis|commentary)"),
    "<|channel|>final<|message|>": _HARMONY.format("final"),
}

_KNOWN = (
    ("<think>", "</think>"),  # DeepSeek-R1, QwQ, Qwen3, GLM, Nemotron
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),  # gpt-oss
    ("<|channel>thought", "<channel|>"),  # Gemma 4
    ("<|im_start|>think", "<|im_start|>answer"),  # s1.1
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # Sky-T1
    (
        "\N{WHITE LEFT-POINTING TRIANGLE}think\N{WHITE RIGHT-POINTING TRIANGLE}",
        "\N{WHITE LEFT-POINTING TRIANGLE}/think\N{WHITE RIGHT-POINTING TRIANGLE}",
    ),  # Kimi-VL
)

KNOWN_ENDS = tuple(end for _, end in _KNOWN)
"""The ends of thought that are looked for where a configuration names none."""

_STARTS = tuple(start for start, _ in _KNOWN)

_LONGEST_CHANNEL = 80
"""Characters of Harmony's name of a channel, with its marks."""

_SPECIAL = re.compile(r"<\|?[^<>|]+\|?>|\[/?[A-Z]+\]")


class Parts(NamedTuple):
    """A text, divided."""

    thought: str
    """What comes before the end of the thought; empty where there is no thought at all."""
    answer: str
    """What comes after it, without thoughts that were begun again; empty in an open thought."""
    is_over: bool
    """Whether an end of a thought was found."""


def divide(text: str, ends: Iterable[str] | None = None, in_thought: bool = False) -> Parts:
    """Divide a text at the first end of a thought.

    Args:
        text: of a chain, without its prompt.
        ends: what ends a thought; None takes ``KNOWN_ENDS``, and with none nothing is a thought.
        in_thought: whether the text begins inside a thought that the prompt has opened.

    >>> divide("<think>4?</think>It is 5.")
    Parts(thought='<think>4?', answer='It is 5.', is_over=True)
    >>> divide("4?", in_thought=True)
    Parts(thought='4?', answer='', is_over=False)
    >>> divide("It is 5.")
    Parts(thought='', answer='It is 5.', is_over=False)
    """
    ends = KNOWN_ENDS if ends is None else tuple(ends)
    if not ends:
        return Parts("", text, False)
    if end := _search(ends, text):
        return Parts(text[: end.start()], _spoken(text, ends, end.end()), True)
    if in_thought or _search(_STARTS, text):
        return Parts(text, "", False)
    return Parts("", text, False)


def united_ends(named: Iterable[Sequence[str] | None]) -> tuple[str, ...] | None:
    """The ends of thought of several models, each of which has its own or None, the known ones.

    >>> united_ends([None, None]) is None, united_ends([("</a>",), ()])
    (True, ('</a>',))
    """
    given = list(named)
    if all(ends is None for ends in given):
        return None
    return tuple(
        dict.fromkeys(end for ends in given for end in (KNOWN_ENDS if ends is None else ends))
    )


class Divider:
    """Divides a text that grows into thought and answer, as ``divide`` does a whole one.

    Marks are left out. What may be the beginning of a mark is held back until it is known. What was
    given out stays as it was: where a thought ends that nothing has begun, what came before the
    mark has been an answer.

    >>> divider = Divider()
    >>> divider.feed("<think>4?</th"), divider.feed("ink>It is <s"), divider.close()
    ([(True, '4?')], [(False, 'It is ')], [(False, '<s')])
    """

    def __init__(self, ends: Iterable[str] | None = None, in_thought: bool = False) -> None:
        """See ``divide``."""
        self._ends = KNOWN_ENDS if ends is None else tuple(ends)
        self._inside = in_thought and bool(self._ends)
        self._held = ""

    def feed(self, text: str) -> list[tuple[bool, str]]:
        """The next parts of the text, each with whether it is thought."""
        parts: list[tuple[bool, str]] = []
        text = self._held + text
        while self._ends and (mark := self._next_mark(text)):
            parts.append((self._inside, text[: mark.start()]))
            self._inside = mark.re is not _pattern(self._ends)
            text = text[mark.end() :]
        known = len(text) - (self._undecided(text) if self._ends else 0)
        self._held = text[known:]
        parts.append((self._inside, text[:known]))
        return [part for part in parts if part[1]]

    def close(self) -> list[tuple[bool, str]]:
        """What was held back, once no more text follows."""
        held, self._held = self._held, ""
        return [(self._inside, held)] if held else []

    def _next_mark(self, text: str) -> re.Match[str] | None:
        end = _search(self._ends, text)
        start = None if self._inside else _search(_STARTS, text)
        return min(filter(None, (start, end)), key=lambda mark: mark.start(), default=None)

    def _undecided(self, text: str) -> int:
        """How many characters at the end may be the beginning of a mark."""
        before, channel, name = text.rpartition("<|channel|>")
        # The marks of Harmony have a name between them, on one line.
        is_open = "<|message|>" not in name and "\n" not in name.lstrip()
        if channel and is_open and len(channel + name) <= _LONGEST_CHANNEL:
            return len(text) - len(before)
        begun, longest = _beginnings((*_STARTS, *self._ends))
        lengths = range(min(longest, len(text)), 0, -1)
        return next((length for length in lengths if text[-length:] in begun), 0)


def begin_in_thought(texts: Iterable[str], ends: Iterable[str] | None = None) -> bool:
    """Whether the texts of a run begin inside a thought that their prompt has opened: one of them
    ends a thought that it has not begun.

    >>> begin_in_thought(["so 4", "4? Yes.</think>4"]), begin_in_thought(["<think>4</think>"])
    (True, False)
    """
    ends = KNOWN_ENDS if ends is None else tuple(ends)
    return bool(ends) and any(
        (end := _search(ends, text)) is not None
        and not _search(_STARTS, text[: end.start()])
        # The answer's channel may well come without another before it.
        and not end.group().startswith("<|channel|>")
        for text in texts
    )


def opens_thought(prompt: str) -> bool:
    """Whether a prompt leaves the model inside a thought.

    >>> opens_thought("1 + 1?<|assistant|><think>\\n"), opens_thought("<think>\\n\\n</think>\\n")
    (True, False)
    """
    return prompt.rstrip().endswith(_STARTS)


def special_marks(known_as_special: Iterable[str], ends: Iterable[str] | None = None) -> set[str]:
    """Which of a tokenizer's special tokens are marks of a thought, or parts of one, and must stay
    in the text.

    >>> sorted(special_marks(["<|channel|>", "<|message|>", "<|end|>", "[/THINK]"]))
    ['<|channel|>', '<|message|>', '[/THINK]']
    """
    marks = (*_STARTS, *KNOWN_ENDS, *(ends or ()))
    parts = {part for mark in marks for part in (mark, *_SPECIAL.findall(mark))}
    return parts & set(known_as_special)


def _spoken(text: str, ends: Sequence[str], begin: int) -> str:
    """The text from ``begin`` on, without thoughts that begin there."""
    parts = []
    while start := _search(_STARTS, text, begin):
        parts.append(text[begin : start.start()])
        end = _search(ends, text, start.end())
        begin = end.end() if end else len(text)
    return "".join([*parts, text[begin:]])


def _search(marks: Sequence[str], text: str, begin: int = 0) -> re.Match[str] | None:
    return _pattern(tuple(marks)).search(text, begin)


@lru_cache(maxsize=64)
def _beginnings(marks: tuple[str, ...]) -> tuple[frozenset[str], int]:
    """All texts that begin a mark and are not all of it, and the length of the longest."""
    begun = frozenset(mark[:length] for mark in marks for length in range(1, len(mark)))
    return begun, max(map(len, begun), default=0)


@lru_cache(maxsize=64)
def _pattern(marks: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(_PATTERNS.get(mark) or re.escape(mark) for mark in marks))
