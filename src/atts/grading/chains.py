"""Grades the chains of a run."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from atts.grading.cache import Pair, Verdicts
from atts.grading.choices import choice_letter
from atts.grading.equivalence import compare_exactly
from atts.grading.grader import Grader
from atts.grading.metrics import Grade
from atts.types import Chain, ChainKey, Problem


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
                verdict = _same_choice(by_id[key.problem_id], answer)
            grade = Grade(answer, correct=verdict is True, graded=verdict is not None)
        grades[key.problem_id].append(grade)
    rivals = [
        pair
        for name, graded in grades.items()
        if not by_id[name].choices
        for pair in _rivals(graded)
    ]
    return GradedChains(dict(grades), grader.compare(rivals))


def _same_choice(problem: Problem, answer: str) -> bool:
    gold = choice_letter(problem.answer, problem.choices) or problem.answer
    return gold == (choice_letter(answer, problem.choices) or answer)


def _rivals(grades: Sequence[Grade]) -> list[Pair]:
    """Pairs of wrong answers that, counted together, might outvote the right one."""
    wrong = Counter(
        grade.answer for grade in grades if grade.answer is not None and not grade.correct
    )
    if wrong.total() < sum(grade.correct for grade in grades):
        return []
    return list(combinations(wrong, 2))
