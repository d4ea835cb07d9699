"""Grades a recorded run anew, without its models: other extraction, other verdicts."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

from filelock import FileLock

from atts.analysis.graded_run import GradedRun, grade_run
from atts.analysis.summary import Summary, summarise
from atts.errors import AttsError, ConfigError, JudgeError, ProblemError, StoreError
from atts.files import atomic_write, to_jsonl
from atts.grading.answers import find_answer
from atts.grading.choices import choice_letter
from atts.grading.grader import Grader
from atts.grading.judge import Cost, Judge
from atts.methods import authors_of
from atts.models.thought import begin_in_thought, united_ends
from atts.store.contents import PROBLEMS, SUMMARY
from atts.store.grades import GRADES, ChainGrade, ExtractedBy, text_digest
from atts.store.run_directory import RecordedRun, lock_run, read_run
from atts.types import Chain, ChainKey, Problem

ExtractBy = Literal["regex", "llm"]
JudgeBy = Literal["rules", "llm", "both"]


class Change(NamedTuple):
    """A chain whose answer or verdict is another than before."""

    key: ChainKey
    answer_before: str | None
    answer_after: str | None
    correct_before: bool | None
    correct_after: bool | None


class Agreement(NamedTuple):
    """How far the language model and the rules agree, over the answers that both judged."""

    both_right: int
    only_rules: int
    only_llm: int
    both_wrong: int

    @property
    def share(self) -> float:
        """Share of the answers on which they agree; NaN if there are none."""
        count = sum(self)
        return (self.both_right + self.both_wrong) / count if count else float("nan")

    @property
    def kappa(self) -> float:
        """Agreement beyond chance (Cohen 1960); NaN if it is not defined.

        >>> round(Agreement(both_right=40, only_rules=5, only_llm=5, both_wrong=50).kappa, 3)
        0.798
        """
        count = sum(self)
        if not count:
            return float("nan")
        rules, llm = self.both_right + self.only_rules, self.both_right + self.only_llm
        chance = (rules * llm + (count - rules) * (count - llm)) / count**2
        return (self.share - chance) / (1.0 - chance) if chance < 1.0 else float("nan")


class Regraded(NamedTuple):
    """The outcome."""

    before: Summary
    after: Summary
    changes: Sequence[Change]
    agreement: Agreement | None
    """None unless the language model judged and so did the rules."""
    cost: Cost
    error: str | None
    """The last failure of the language model, if one of its questions got no usable reply."""
    ungraded: Mapping[str, int] = MappingProxyType({})
    """How many answers have no verdict, by the reason why."""
    corrected: Sequence[str] = ()
    """Ids of the problems whose gold answer is another now."""
    written: Sequence[str] = ()
    """Names of the files that were written."""


async def regrade(
    directory: Path,
    extract: ExtractBy,
    judge_by: JudgeBy,
    judge: Judge | None,
    grader: Grader,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
    problems: Sequence[Problem] | None = None,
) -> Regraded:
    """Extract and judge a run's answers again, and write ``grades.jsonl`` and ``summary.json``.

    Where the language model gives no usable reply, the chain keeps the answer and the verdict that
    it had, or else gets the verdict of the rules. If it gives none at all, no file that is there is
    written again.

    Args:
        directory: the run; it may be unfinished, but nobody else may work in it.
        extract: ``regex`` is what the run itself does; ``llm`` asks the language model.
        judge_by: whose verdict counts. With ``both`` it is that of the rules, and of the language
            model where they give none.
        judge: the language model; needed by ``llm`` and ``both``.
        grader: compares answers by rules.
        dry_run: write nothing.
        progress: is told how many chains the language model is done with, of how many.
        problems: the run's problems with corrected gold answers; ``problems.jsonl`` takes them.

    Raises:
        StoreError: the directory is not a run, is in use, or cannot be written.
        ProblemError: a problem of the run is not among those given, or is another one there.
        GradingError: there are no chains.
        ConfigError: the endpoint refuses the key or does not know the model; or a model is to judge
            programs, which their tests do.
    """
    lock = None if dry_run else _locked(directory)
    try:
        recorded = read_run(directory)
        if judge and any(problem.tests for problem in recorded.problems):
            raise ConfigError(
                f"{directory} has answers that are programs: their tests say which are right, and "
                "no language model is asked; leave --judge and --extract out"
            )
        run, corrected = _with_golds(recorded, problems)
        work = _Regrade(run, judge, progress)
        extracted = await work.extract(extract)
        grades = await work.verdicts(extracted, judge_by, grader)
        before = grade_run(recorded, grader)
        after = grade_run(run._replace(grades=grades), grader)
        summary = summarise(after)
        files = {
            GRADES: to_jsonl(grades[key] for key in sorted(grades)),
            SUMMARY: summary.model_dump_json(indent=2) + "\n",
        }
        if corrected:
            files = {PROBLEMS: to_jsonl(run.problems), **files}
        written = []
        for name, text in files.items():
            if not dry_run and not (work.got_nothing and (directory / name).exists()):
                atomic_write(directory / name, text)
                written.append(name)
    finally:
        if lock:
            lock.release()
    return Regraded(
        summarise(before),
        summary,
        _changes(before, after),
        _agreement(grades.values()) if judge_by != "rules" else None,
        judge.cost if judge else Cost(),
        work.error,
        Counter(each.reason for each in after.verdicts.values() if each.outcome == "ungraded"),
        corrected,
        written,
    )


def _with_golds(
    run: RecordedRun, problems: Sequence[Problem] | None
) -> tuple[RecordedRun, list[str]]:
    """The run with the gold answers of these problems, and which of them have changed."""
    if problems is None:
        return run, []
    given = {problem.id: problem for problem in problems}
    corrected = []
    for problem in run.problems:
        other = given.get(problem.id)
        if other is None:
            raise ProblemError(
                f"the run's problem {problem.id!r} is not among the {len(given)} problems given; "
                "name the file or set that the run was made on"
            )
        if (other.question, other.choices) != (problem.question, problem.choices):
            raise ProblemError(
                f"the problem {problem.id!r} has another question or other choices now, so the "
                "run's chains are no answers to it; only its gold answer may change"
            )
        if (other.answer, other.tests) != (problem.answer, problem.tests):
            corrected.append(problem.id)
    return run._replace(problems=tuple(given[problem.id] for problem in run.problems)), corrected


class _Regrade:
    """One call of ``regrade``."""

    def __init__(
        self,
        run: RecordedRun,
        judge: Judge | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._run = run
        self._old = run.grades
        authors = authors_of(run.config)
        self._ends = united_ends(run.config.options_of(author).thought_ends for author in authors)
        # A run does not record its prompts, but its chains show whether those opened a thought.
        self._in_thought = begin_in_thought((chain.text for chain in run.chains), self._ends)
        self._problems = {problem.id: problem for problem in run.problems}
        self._judge = judge
        self._progress = progress
        self._asked = 0
        self.error: str | None = None

    @property
    def got_nothing(self) -> bool:
        """Whether the language model was asked and gave no usable reply at all."""
        cost = self._judge.cost if self._judge else Cost()
        return bool(cost.failed) and cost.failed == self._asked and not cost.reused

    async def extract(self, by: ExtractBy) -> dict[ChainKey, ChainGrade]:
        """The chains' answers, not judged yet."""
        found: dict[ChainKey, ChainGrade] = {}

        async def one(chain: Chain) -> None:
            problem = self._problems[chain.problem_id]
            answer = chain.answer
            extracted_by: ExtractedBy = "run"
            if chain.text and chain.end != "failed" and chain.is_needed:
                if by == "regex":
                    extracted_by = "regex"
                    answer = find_answer(problem, chain.text, self._ends, self._in_thought)
                else:
                    try:
                        answer = await self._extracted(problem, chain.text)
                        extracted_by = "llm"
                    except JudgeError as error:
                        self.error = str(error)
                        if old := self._old.get(chain.key):
                            answer, extracted_by = old.answer, old.extracted_by
            found[chain.key] = ChainGrade(
                problem_id=chain.problem_id,
                sample=chain.sample,
                text_digest=text_digest(chain),
                original_answer=chain.answer,
                answer=answer,
                extracted_by=extracted_by,
                correct=None,
                decided_by="rules",
            )

        await self._each([one(chain) for chain in self._run.chains], shown=by == "llm")
        return found

    async def verdicts(
        self, grades: dict[ChainKey, ChainGrade], by: JudgeBy, grader: Grader
    ) -> dict[ChainKey, ChainGrade]:
        """The same with verdicts."""
        run = self._run._replace(grades=grades)
        rules = grade_run(run, grader).verdicts if by != "llm" else {}
        unanswered: set[ChainKey] = set()
        judged: dict[ChainKey, bool] = {}
        if by != "rules":
            # One question for each different answer to a problem.
            asked: dict[tuple[str, str], list[ChainKey]] = {}
            for key, grade in grades.items():
                known = self._problems[key.problem_id].is_graded
                if grade.answer is not None and known:
                    asked.setdefault((key.problem_id, grade.answer), []).append(key)

            async def one(problem_id: str, answer: str, keys: list[ChainKey]) -> None:
                try:
                    verdict = await self._judged(self._problems[problem_id], answer)
                except JudgeError as error:
                    self.error = str(error)
                    unanswered.update(keys)
                else:
                    judged.update(dict.fromkeys(keys, verdict))

            await self._each([one(*pair, keys) for pair, keys in asked.items()], shown=True)
        decided = {
            key: _decided(grade, by, rules[key].correct if rules else None, judged.get(key))
            for key, grade in grades.items()
        }
        if by == "llm" and unanswered:
            rules = grade_run(run, grader).verdicts
            for key in unanswered:
                old = self._old.get(key)
                decided[key] = (
                    old
                    if old and old.answer == grades[key].answer
                    else _decided(grades[key], "rules", rules[key].correct, None)
                )
        return decided

    async def _each(self, tasks: Sequence[Awaitable[None]], shown: bool) -> None:
        done = 0

        async def counted(task: Awaitable[None]) -> None:
            nonlocal done
            await task
            done += 1
            if shown and self._progress:
                self._progress(done, len(tasks))

        try:
            async with asyncio.TaskGroup() as group:
                for task in tasks:
                    group.create_task(counted(task))
        except* AttsError as errors:
            raise errors.exceptions[0] from None

    async def _extracted(self, problem: Problem, text: str) -> str | None:
        self._asked += 1
        answer = await self._model().extract(problem, text)
        if answer and problem.choices:
            return choice_letter(answer, problem.choices) or answer
        return answer

    async def _judged(self, problem: Problem, answer: str) -> bool:
        self._asked += 1
        return await self._model().equivalent(problem, answer)

    def _model(self) -> Judge:
        if self._judge is None:
            raise ValueError("to ask the language model, a judge must be given")
        return self._judge


def _locked(directory: Path) -> FileLock:
    if not directory.is_dir():  # the lock would make it
        raise StoreError(f"there is no run directory {directory}; check the path")
    return lock_run(directory)


def _decided(grade: ChainGrade, by: JudgeBy, rules: bool | None, llm: bool | None) -> ChainGrade:
    by_llm = by == "llm" or (by == "both" and rules is None and llm is not None)
    return grade.model_copy(
        update={
            "correct": llm if by_llm else rules,
            "decided_by": "llm" if by_llm else "rules",
            "rules": rules,
            "llm": llm,
        }
    )


def _changes(before: GradedRun, after: GradedRun) -> list[Change]:
    return [
        Change(key, old.answer, new.answer, old.correct, new.correct)
        for key, new in sorted(after.verdicts.items())
        if new[:2] != (old := before.verdicts[key])[:2]
    ]


def _agreement(grades: Iterable[ChainGrade]) -> Agreement | None:
    pairs = Counter(
        (grade.rules, grade.llm)
        for grade in grades
        if grade.rules is not None and grade.llm is not None
    )
    if not pairs:
        return None
    return Agreement(
        both_right=pairs[True, True],
        only_rules=pairs[True, False],
        only_llm=pairs[False, True],
        both_wrong=pairs[False, False],
    )
