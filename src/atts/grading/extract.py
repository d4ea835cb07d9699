"""Finds the answer in a chain's text. A run stops a chain by the same rules as it is graded by."""

import re
from collections.abc import Iterable, Sequence

from atts.grading.boxes import joins_on, last_answer
from atts.grading.choices import choice_letter, stated_letter
from atts.models.thought import Parts, divide

_END_OF_WORD = re.compile(r"(?<!\w)\w{1,40}\Z")


def extract_answer(
    text: str,
    choices: Sequence[str] = (),
    ends: Iterable[str] | None = None,
    in_thought: bool = False,
    since: int = 0,
    finished: bool = True,
) -> str | None:
    r"""The answer that a chain has come to, or None while there is none.

    It is looked for after the end of the thought. There it is what the last box holds, or the last
    boxes where they are joined. If the question has choices it is a letter: that of the box, that
    of the choice whose text or value the box holds, or else that of the last plain statement
    ("ANSWER: B", "the correct answer is (B)", a letter alone). Where there is neither, the last box
    of the thought counts. A box that fits no choice is an answer too, a wrong one.

    Args:
        text: of the chain.
        choices: of the question.
        ends: the ends of a thought; None takes those that are known.
        in_thought: whether the text begins inside a thought that the prompt has opened.
        since: only what stands after this place is an answer.
        finished: whether the text is all that there will be. If not, a last word or a list of boxes
            that may go on is no answer yet, nor is the box of a thought that has ended.

    >>> extract_answer(r"First \boxed{1}.</think>It is \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    >>> extract_answer("Thus ANSWER: (B)", choices=("one", "two"))
    'B'
    >>> extract_answer("<think>Maybe the answer is B.", choices=("one", "two")) is None
    True
    """
    goes_on = not finished and joins_on(text)
    if not finished:
        text = _END_OF_WORD.sub("", text)
    parts = _after(text, None if ends is None else tuple(ends), in_thought, since)
    boxed = None if goes_on else last_answer(parts.answer)
    if choices:
        letter = boxed and choice_letter(boxed, choices)
        boxed = letter or stated_letter(parts.answer, choices, parts.is_over) or boxed
    if boxed is not None or goes_on or (parts.is_over and not finished):
        return boxed
    thought = last_answer(parts.thought)
    return choice_letter(thought, choices) or thought if thought and choices else thought


def _after(text: str, ends: tuple[str, ...] | None, in_thought: bool, since: int) -> Parts:
    """The parts of the text after a place; what comes before says only whether it is a thought."""
    if not since:
        return divide(text, ends, in_thought)
    before = divide(text[:since], ends, in_thought)
    if before.is_over:
        after = divide(text, ends, in_thought).answer
        return Parts("", after[len(before.answer) :], True)
    return divide(text[since:], ends, in_thought or bool(before.thought))
