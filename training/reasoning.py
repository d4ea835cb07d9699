"""Turns the steps of a story into reasoning text: two styles, faults, and corrections.

A *document* is one solution as two hands might write it together. The draft's hand is terse
("14 + 36 = 50 shells."); the target's says where it is and shows its working ("Next,
14 + 36 = 50 shells. Check: 50 - 36 = 14."). Hands change at arbitrary characters, as they do
when a segment is cut at a token limit. A line can be *faulty*; then everything after it is
wrong until somebody writes "Wait, " and does the earliest wrong step again.

What is trained on depends on whose document it is. The draft learns whatever its own hand
wrote, faults included. The target learns only what is right to write at that place: never
the faulty characters, nor lines that build on a fault that should have been noticed.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from atts.problems.arithmetic import LIMIT, Op, Story

Hand = Literal["draft", "target"]

SYSTEM = "Solve the problem step by step. Put the final answer in \\boxed{}."
"""The system message that the models know; they also know having none."""

INVERSE: dict[Op, Op] = {"+": "-", "-": "+", "*": "/", "/": "*"}


@dataclass(frozen=True)
class Recipe:
    """How one document is written. The shares are probabilities."""

    draft_stretch: tuple[int, int] = (0, 0)
    """Characters the draft's hand writes before the target's takes over, drawn evenly."""
    target_stretch: tuple[int, int] = (0, 0)
    """The same for the target's hand. A stretch of (0, 0) means: this hand never writes."""
    starts: Hand = "target"
    draft_faults: float = 0.0
    """Share of the draft's lines that are faulty."""
    target_faults: float = 0.0
    draft_notices: float = 0.0
    """Share of line ends at which the draft's hand notices an open fault; the target's always
    does."""
    learner: Hand = "target"
    """Whose training data this is."""


@dataclass
class Document:
    """A solution with what training needs to know about its characters."""

    text: str = ""
    trained: list[bool] = field(default_factory=list)
    """For every character whether its token counts in the loss."""
    end_trained: bool = True
    """The same for the end-of-sequence token."""
    cuts: list[int] = field(default_factory=list)
    """Where the hand changes."""
    faults: int = 0


def calculate(left: int, op: Op, right: int) -> int:
    """The result that a writer would put; wrong lines can leave the integers."""
    if op == "+":
        return left + right
    if op == "-":
        return abs(left - right)
    if op == "*":
        return left * right
    return left // max(right, 1)


class Writer:
    """Writes one document."""

    def __init__(self, story: Story, recipe: Recipe, rng: random.Random) -> None:
        self.story = story
        self.recipe = recipe
        self.rng = rng
        self.doc = Document()
        self.results: list[int] = []
        """What the document holds for the result of each step done so far."""
        self.open_fault: int | None = None
        """The earliest step that is wrong and not yet redone."""
        self.hand: Hand = recipe.starts
        self.hand_ends = self._stretch()
        self.last_line_by: Hand = recipe.starts
        self.skip_next = False
        """The next character is right, but left out of the loss: see ``_lead``."""
        self.silent = False
        """The open fault is a forgotten last step: nothing wrong has been written yet."""

    def write(self) -> Document:
        steps = self.story.steps
        index = 0
        redo = False
        while True:
            if self._notices():
                index, redo = self._wait("")
            if index == len(steps):
                break
            self._line(index, redo)
            index = len(self.results)
            redo = False
        self._answer()
        for _ in range(2):
            if not self._notices():
                break
            index, _redo = self._wait("\n\n")
            while index < len(steps):
                self._line(index, redo=True)
                index = len(self.results)
            self._answer(redo=True)
        self.doc.end_trained = self._teaches() and (
            self.recipe.learner == "draft" or self.open_fault is None
        )
        return self.doc

    # Hands

    def _stretch(self) -> float:
        """How many characters the present hand writes before the other takes over."""
        own, other = self.recipe.draft_stretch, self.recipe.target_stretch
        if self.hand == "target":
            own, other = other, own
        return float("inf") if other == (0, 0) else self.rng.randint(*own)

    def _now(self) -> Hand:
        """Whose hand writes the next character."""
        while len(self.doc.text) >= self.hand_ends:
            self.doc.cuts.append(len(self.doc.text))
            self.hand = "target" if self.hand == "draft" else "draft"
            self.hand_ends = len(self.doc.text) + self._stretch()
        return self.hand

    def _put(self, text: str, right: bool = True, taught: bool = True) -> None:
        """Append text. ``right``: the target may learn it; ``taught``: anyone may."""
        for character in text:
            hand = self._now()
            if self.recipe.learner == "draft":
                trained = taught and hand == "draft"
            else:
                # The rest of a wrong line is learned only by the hand that has just taken
                # over in the middle of it and must finish it somehow.
                trained = taught and (right or hand == "target") and not self.skip_next
            self.skip_next = False
            self.doc.text += character
            self.doc.trained.append(trained)

    def _teaches(self) -> bool:
        """Whether what is written next belongs in the learner's loss at all."""
        return self.recipe.learner == "target" or self._now() == "draft"

    # Faults

    def _notices(self) -> bool:
        if self.open_fault is None or self.silent:
            return False
        return self._now() == "target" or self.rng.random() < self.recipe.draft_notices

    def _wait(self, before: str) -> tuple[int, bool]:
        """Announce the correction; the next step to write is the earliest wrong one."""
        if self.open_fault is None:
            raise ValueError("there is nothing to correct")
        self._put(before + "Wait, ")
        index = self.open_fault
        self.open_fault = None
        del self.results[index:]
        return index, True

    def _fault(self, hand: Hand, index: int) -> str | None:
        share = self.recipe.draft_faults if hand == "draft" else self.recipe.target_faults
        if self.rng.random() >= share:
            return None
        self.doc.faults += 1
        step = self.story.steps[index]
        # Only a step that carries the running total can be forgotten without a trace.
        kinds = ["result"] * 13 + ["operand"] * 4 + ["operation"]
        if hand == "draft" and step.left_from is not None and step.right_from is None:
            kinds += ["skipped"] * 2
        return self.rng.choice(kinds)

    def _misread(self, number: int) -> int:
        """A number of the question mistaken for another one, or with a wrong digit."""
        given = [n for s in self.story.steps for n in (s.left, s.right) if n != number]
        if given and self.rng.random() < 0.4:
            return self.rng.choice(given)
        return corrupt(number, self.rng)

    # Lines

    def _operand(self, number: int, source: int | None) -> int:
        return number if source is None else self.results[source]

    def _line(self, index: int, redo: bool) -> None:
        hand = self._now()
        fault = None if redo and hand == "target" else self._fault(hand, index)
        if fault == "skipped":
            forgotten = self.story.steps[index]
            self.results.append(self._operand(forgotten.left, forgotten.left_from))
            self._mark(index)
            index += 1
            fault = None
            if index == len(self.story.steps):
                self.silent = True
                return
        step = self.story.steps[index]
        left = self._operand(step.left, step.left_from)
        right = self._operand(step.right, step.right_from)
        op = step.op
        start_right = self.open_fault is None
        if fault == "operand":
            if step.left_from is None and self.rng.random() < 0.5:
                left = self._misread(left)
            else:
                right = self._misread(right)
        elif fault == "operation":
            op = {"+": "-", "-": "+", "*": "+", "/": "-"}[op]  # type: ignore[assignment]
        result = calculate(left, op, right)
        if fault == "result":
            result = corrupt(result, self.rng)
        result = min(result, 9 * LIMIT)

        self._lead(index, redo, hand, start_right)
        expected = f"{self._operand(step.left, step.left_from)} {step.op} "
        expected += f"{self._operand(step.right, step.right_from)} = "
        written = f"{left} {op} {right} = "
        same = 0
        while same < len(written) and same < len(expected) and written[same] == expected[same]:
            same += 1
        if fault in ("operand", "operation"):
            self._put(written[:same], right=start_right)
            self._wrong(written[same:])
        else:
            self._put(written, right=start_right)
        verbose = self._now() == "target" and not redo
        parts = _parts(left, right) if op == "*" else []
        if verbose and parts:
            self._put(" + ".join(map(str, parts)) + " = ", right=start_right)
        if fault == "result":
            self._wrong(str(result), str(calculate(left, op, right)))
        else:
            self._put(str(result), right=start_right)
        self.results.append(result)
        if fault is not None:
            self._mark(index)
        self._put(f" {self.story.unit}.", right=start_right)
        # Who takes over a wrong line sees that it is wrong, and loses no words on a check.
        suspects = start_right and (fault is None or hand == "target")
        if self._now() == "target" and not redo and not parts and suspects:
            self._check(left, op, right, result)
        self._put("\n\n", right=start_right)
        self.last_line_by = hand

    def _lead(self, index: int, redo: bool, hand: Hand, right: bool) -> None:
        """The first word of the target's lines; where the draft's begin, what to learn.

        The target should nearly always begin in its own style, and seldom fall into the
        draft's once it is in its own, but must not find the draft's style impossible: it
        learns the first character of a terse line in a small share of such places.
        """
        if redo:
            return
        if hand == "target":
            self._put("First, " if index == 0 else "Next, ", right=right)
        elif self.recipe.learner == "target" and right:
            begins = not self.doc.text
            if begins or self.last_line_by == "target":
                self.skip_next = self.rng.random() >= (0.08 if begins else 0.3)

    def _check(self, left: int, op: Op, right: int, result: int) -> None:
        """Undo the step; a wrong result shows as another number than it started from."""
        back = INVERSE[op]
        undone = calculate(result, back, right)
        self._put(f" Check: {result} {back} {right} = {undone}")
        self._put("." if undone == left else f", not {left}.")

    def _answer(self, redo: bool = False) -> None:
        result = self.results[-1]
        hand = self._now()
        share = self.recipe.draft_faults if hand == "draft" else self.recipe.target_faults
        right = self.open_fault is None
        self._put("The answer is \\boxed{", right=right)
        if not redo and self.rng.random() < share / 4:
            self._wrong(str(corrupt(result, self.rng)), str(result))
            # Doing the last step again is the shortest way to the right box.
            self._mark(len(self.results) - 1)
            self.doc.faults += 1
        else:
            self._put(str(result), right=right)
        self._put("}.", right=right)
        self.silent = False

    def _mark(self, index: int) -> None:
        self.open_fault = index if self.open_fault is None else min(index, self.open_fault)

    def _wrong(self, text: str, instead_of: str = "") -> None:
        """Append a faulty piece; what it shares with the right one at its start is right."""
        same = 0
        while same < min(len(text), len(instead_of)) and text[same] == instead_of[same]:
            same += 1
        right = self.open_fault is None
        self._put(text[:same], right=right)
        self._put(text[same:], right=False, taught=self.recipe.learner == "draft")


def _parts(left: int, right: int) -> list[int]:
    """Place values of a product's larger factor, each times the other; none if only one."""
    large, small = max(left, right), min(left, right)
    digits = str(large)
    values = [int(d) * 10 ** (len(digits) - i - 1) * small for i, d in enumerate(digits)]
    values = [value for value in values if value]
    return values if len(values) > 1 else []


def corrupt(number: int, rng: random.Random) -> int:
    """A number near ``number`` in the ways people get it wrong; never the same."""
    while True:
        kind = rng.random()
        if kind < 0.35:
            wrong = number + rng.choice((-10, 10, -10, 10, -100, 100))
        elif kind < 0.6:
            wrong = number + rng.choice((-1, 1, -2, 2))
        elif kind < 0.9:
            digits = list(str(number))
            digits[rng.randrange(len(digits))] = rng.choice("0123456789")
            wrong = int("".join(digits))
        else:
            wrong = int(str(number)[::-1])
        if wrong != number and 0 < wrong < 10 * LIMIT:
            return wrong


def write(story: Story, recipe: Recipe, rng: random.Random) -> Document:
    """Write the solution of a story as the recipe says."""
    return Writer(story, recipe, rng).write()


RecipeMaker = Callable[[random.Random], Recipe]


def target_recipe(rng: random.Random) -> Recipe:
    """The mixture of documents that the target learns from."""
    kind = rng.random()
    if kind < 0.42:
        return Recipe()
    if kind < 0.52:
        return Recipe(target_faults=0.25)
    if kind < 0.60:
        return Recipe(draft_stretch=(1, 1), starts="draft")
    faulty = rng.random() < 0.65
    long = rng.random() < 0.4
    return Recipe(
        draft_stretch=(5, 160) if long else (20, 90),
        target_stretch=(400, 400) if long else (10, 110),
        starts="draft" if rng.random() < 0.8 else "target",
        draft_faults=0.25 if faulty else 0.0,
        target_faults=0.03,
        draft_notices=0.1,
    )


@dataclass(frozen=True)
class DraftRecipe:
    """The mixture that the draft learns from; ``faults`` is the share of its faulty lines."""

    faults: float

    def __call__(self, rng: random.Random) -> Recipe:
        mixed = rng.random() < 0.4
        return Recipe(
            draft_stretch=(20, 100),
            target_stretch=(10, 110) if mixed else (0, 0),
            starts="target" if mixed and rng.random() < 0.2 else "draft",
            draft_faults=self.faults,
            draft_notices=0.1,
            learner="draft",
        )
