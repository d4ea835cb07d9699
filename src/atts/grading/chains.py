"""Grades the chains of a run."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from atts.grading.choices import choice_letter
from atts.grading.equivalence import compare_exactly
from atts.grading.grader import Grader, Pair, Verdicts
from atts.grading.metrics import Grade
from atts.types import LETTERS, Chain, ChainKey, Problem

_FORMULA = re.compile(r"[\\^=+*/]")
"""An answer without any of these needs no algebra."""


class GradedChains(NamedTuple):
    """The grades of a run, and which of its answers are the same."""

    grades: dict[str, list[Grade]]
    """Problem id -> the grades of its chains, in their order."""
    verdicts: Verdicts

    def same(self, one: str, other: str) -> bool:
        """Whether two wrong answers of a problem are one."""
        verdict = self.verdicts.get((one, other), self.verdicts.get((other, one)))
        return bool(compare_exactly(one, other) if verdict is None else verdict)


def grade_chains(
    problems: Sequence[Problem],
    chains: Iterable[Chain],
    grader: Grader,
    judged: Mapping[ChainKey, bool | None] | None = None,
) -> GradedChains:
    """Compare each chain's answer with its problem's, and a problem's wrong answers among each
    other where that may change which of its answers is the most frequent.

    Args:
        problems: those that the chains solve.
        chains: in any order.
        grader: compares the answers.
        judged: verdicts that stand in place of the grader's, by chain.
    """
    judged = judged or {}
    by_id = {problem.id: problem for problem in problems}
    answers = {
        chain.key: None if chain.end == "failed" else chain.answer
        for chain in sorted(chains, key=lambda chain: chain.key)
        if chain.is_needed
    }
    pairs = {
        key: (by_id[key.problem_id].answer, answer)
        for key, answer in answers.items()
        if answer is not None and key not in judged and not by_id[key.problem_id].choices
    }
    letters = _letters(by_id, answers, grader)
    verdicts = grader.compare(pairs.values())
    grades: dict[str, list[Grade]] = defaultdict(list)
    for key, answer in answers.items():
        if answer is None:
            grade = Grade(None, correct=False)
        else:
            if key in judged:
                verdict = judged[key]
            elif key in pairs:
                verdict = verdicts[pairs[key]]
            else:
                answer, verdict = letters[key]
            grade = Grade(answer, correct=verdict is True, graded=verdict is not None)
        grades[key.problem_id].append(grade)
    rivals = [
        pair
        for name, graded in grades.items()
        if not by_id[name].choices
        for pair in _rivals(graded)
    ]
    return GradedChains(dict(grades), grader.compare(rivals))


def _letters(
    problems: Mapping[str, Problem], answers: Mapping[ChainKey, str | None], grader: Grader
) -> dict[ChainKey, tuple[str, bool | None]]:
    """The letter of each answer to a multiple-choice question, or the answer if it is no choice,
    and whether that is right.
    """
    asked = {
        key: (problems[key.problem_id], answer)
        for key, answer in answers.items()
        if answer is not None and problems[key.problem_id].choices
    }
    known = {
        key: choice_letter(answer, problem.choices) for key, (problem, answer) in asked.items()
    }
    # What is no letter and repeats no choice may still be equal to one, by algebra.
    verdicts = grader.compare(
        (choice, answer)
        for key, (problem, answer) in asked.items()
        if known[key] is None and _FORMULA.search(answer)
        for choice in problem.choices
    )
    found: dict[ChainKey, tuple[str, bool | None]] = {}
    for key, (problem, answer) in asked.items():
        gold = choice_letter(problem.answer, problem.choices) or problem.answer
        letter = known[key]
        if letter is None and _FORMULA.search(answer):
            same = [verdicts[choice, answer] for choice in problem.choices]
            if same.count(True) == 1:
                letter = answer = LETTERS[same.index(True)]
            elif gold in LETTERS[: len(same)] and same[LETTERS.index(gold)] is None:
                found[key] = answer, None
                continue
        found[key] = answer, gold == (letter or answer)
    return found


def _rivals(grades: Sequence[Grade]) -> list[Pair]:
    """Pairs of wrong answers that, counted together, might outvote the right one."""
    wrong = Counter(
        grade.answer for grade in grades if grade.answer is not None and not grade.correct
    )
    if wrong.total() < sum(grade.correct for grade in grades):
        return []
    return list(combinations(wrong, 2))
