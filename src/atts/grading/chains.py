"""Grades the chains of a run; metrics over them, each with an interval clustered by problem."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from math import comb
from typing import NamedTuple

from atts.errors import GradingError
from atts.grading.choices import choice_letter
from atts.grading.equivalence import compare_exactly, equivalent
from atts.grading.grader import Grader, Pair, Verdicts, why_ungraded
from atts.grading.intervals import Interval, clustered_interval
from atts.grading.programs.extract import as_vote
from atts.types import LETTERS, Chain, ChainKey, Problem

_FORMULA = re.compile(r"[\\^=+*/]")
"""An answer without any of these needs no algebra."""


class Grade(NamedTuple):
    """What a chain came to. A failed chain, or one that gave no answer, is ``(None, False)``."""

    answer: str | None
    correct: bool
    graded: bool = True
    """False if the answer could not be compared with the gold answer, or there is none; then it is
    not correct."""
    reason: str = ""
    """Why it could not be compared."""
    is_program: bool = False
    """Programs are one answer only where their texts are, right ones too."""


Grades = Mapping[str, Sequence[Grade]]
"""Problem id -> the grades of all its chains, failed ones included."""


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
        key: (gold, answer)
        for key, answer in answers.items()
        if answer is not None
        and key not in judged
        and not by_id[key.problem_id].choices
        and not by_id[key.problem_id].tests
        and (gold := by_id[key.problem_id].answer) is not None
    }
    programs = [
        (key, (tests, answer))
        for key, answer in answers.items()
        if answer is not None and key not in judged and (tests := by_id[key.problem_id].tests)
    ]
    passed = dict(
        zip((key for key, _ in programs), grader.check(each for _, each in programs), strict=True)
    )
    letters = _letters(by_id, answers, grader)
    verdicts = grader.compare(pairs.values())
    grades: dict[str, list[Grade]] = defaultdict(list)
    for key, answer in answers.items():
        is_program = by_id[key.problem_id].tests is not None
        if answer is None:
            grade = Grade(None, correct=False, is_program=is_program)
        else:
            reason = ""
            if key in judged:
                verdict, reason = judged[key], "the language model gave no verdict"
            elif is_program:
                verdict, reason = passed[key], "the program could not be run"
            elif key in pairs:
                verdict = verdicts[pairs[key]]
            elif key in letters:
                answer, verdict = letters[key]
            else:
                verdict = None
            grade = Grade(answer, verdict is True, verdict is not None, is_program=is_program)
            gold = by_id[key.problem_id].answer
            if not grade.graded and (is_program or gold is not None):
                grade = grade._replace(reason=reason or why_ungraded((gold or "", answer)))
        grades[key.problem_id].append(grade)
    rivals = [
        pair
        for name, graded in grades.items()
        if not by_id[name].choices and not by_id[name].tests
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
        known_gold = problem.answer or ""
        gold = choice_letter(known_gold, problem.choices) or known_gold
        letter = known[key]
        if letter is None and _FORMULA.search(answer):
            same = [verdicts[choice, answer] for choice in problem.choices]
            if same.count(True) == 1:
                letter = answer = LETTERS[same.index(True)]
            elif gold and gold in LETTERS[: len(same)] and same[LETTERS.index(gold)] is None:
                found[key] = answer, None
                continue
        right = gold == (letter or answer) if problem.answer is not None else None
        found[key] = answer, right
    return found


def _rivals(grades: Sequence[Grade]) -> list[Pair]:
    """Pairs of wrong answers that, counted together, might outvote the right one."""
    wrong = Counter(
        grade.answer for grade in grades if grade.answer is not None and not grade.correct
    )
    if wrong.total() < sum(grade.correct for grade in grades):
        return []
    return list(combinations(wrong, 2))


def accuracy(grades: Grades) -> Interval:
    """The share of chains that are right, over all problems.

    Raises:
        GradingError: there are no chains.
    """
    results = _by_problem(grades)
    right = [sum(grade.correct for grade in chains) for chains in results]
    return clustered_interval(right, [len(chains) for chains in results])


def accuracy_by_problem(grades: Grades) -> dict[str, float]:
    """The share of each problem's chains that are right."""
    return {
        name: sum(grade.correct for grade in grades[name]) / len(grades[name])
        for name in sorted(grades)
    }


def majority_vote(grades: Grades, same: Callable[[str, str], bool] = equivalent) -> Interval:
    """The share of problems whose most frequent answer is right.

    Right answers count together, and so do wrong ones that are the ``same``; chains without an
    answer do not vote. Where answers tie
    for the lead, the problem counts for the share of the leaders that are right, which is what
    a random choice among them would score on average. A problem without any answer is wrong.
    Programs vote with those of the same text alone: what they do is not compared.

    Raises:
        GradingError: there are no problems.
    """
    return mean_over_problems(majority_by_problem(grades, same))


def majority_by_problem(
    grades: Grades, same: Callable[[str, str], bool] = equivalent
) -> dict[str, float]:
    """Each problem's part in ``majority_vote``: 1 if right, 0 if not, between where tied."""
    return {name: _vote(grades[name], same) for name in sorted(grades)}


def mean_over_problems(shares: Mapping[str, float]) -> Interval:
    """The mean of a share that each problem has, e.g. whether its answer is right.

    Raises:
        GradingError: there are no problems.
    """
    scores = [shares[name] for name in sorted(shares)]
    return clustered_interval(scores, [1] * len(scores))


def pass_at_k(grades: Grades, k: int) -> Interval:
    """The chance that at least one of k chains of a problem is right, averaged over problems.

    The unbiased estimate from n chains of which c are right is 1 - C(n - c, k) / C(n, k)
    (Chen et al. 2021, arXiv 2107.03374, equation 1). Failed chains are among the n, as wrong.

    Raises:
        GradingError: there are no problems, k is below 1, or a problem has fewer than k chains.
    """
    if k < 1:
        raise GradingError(f"pass@k needs a k of at least 1, got {k}")
    if short := next((name for name in sorted(grades) if len(grades[name]) < k), None):
        raise GradingError(
            f"pass@{k} needs {k} chains a problem; problem {short} has {len(grades[short])}: "
            "count failed chains as wrong ones, or choose a smaller k"
        )
    chances = []
    for chains in _by_problem(grades):
        wrong = sum(not grade.correct for grade in chains)
        chances.append(1.0 - comb(wrong, k) / comb(len(chains), k))
    return clustered_interval(chances, [1] * len(chances))


def _by_problem(grades: Grades) -> list[Sequence[Grade]]:
    # In the order of their ids: that in which problems ended must not show in a sum's last digit.
    return [grades[name] for name in sorted(grades)]


def _vote(chains: Sequence[Grade], same: Callable[[str, str], bool]) -> float:
    if any(grade.is_program for grade in chains):
        return _vote_of_programs(chains)
    right = 0
    wrong: list[tuple[str, int]] = []  # an answer, and how many chains gave it
    for grade in chains:
        if grade.answer is None:
            continue
        if grade.correct:
            right += 1
            continue
        for index, (answer, votes) in enumerate(wrong):
            if same(answer, grade.answer):
                wrong[index] = (answer, votes + 1)
                break
        else:
            wrong.append((grade.answer, 1))
    most = max([right, *(votes for _, votes in wrong)])
    if most == 0 or right < most:
        return 0.0
    return 1.0 / (1 + sum(votes == most for _, votes in wrong))


def _vote_of_programs(chains: Sequence[Grade]) -> float:
    votes = Counter(as_vote(grade.answer) for grade in chains if grade.answer is not None)
    most = max(votes.values(), default=0)
    right = {as_vote(grade.answer) for grade in chains if grade.answer and grade.correct}
    leading = [program in right for program, count in votes.items() if count == most]
    return sum(leading) / len(leading) if leading else 0.0
