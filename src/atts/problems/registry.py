"""The problem sets that are known by name, and how a row of each becomes a problem.

``NAME`` is a whole set; ``NAME/paper`` is the part of it that arXiv 2509.15148 evaluates on, where
it does. Every set comes from the Hugging Face hub, at a fixed revision, or from a folder of JSONL
files of the same names.
"""

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from atts import registry
from atts.errors import ConfigError, ProblemError
from atts.types import LETTERS, Problem

Row = Mapping[str, Any]
"""A row as the hub has it, or an object of a JSONL file."""

Entry = tuple[Problem, Row]

ReadRow = Callable[[int, Row, int], Problem]
"""A problem from a row's number, the row, and a seed for the order of choices."""


class HubSource(NamedTuple):
    """A split of a dataset on the Hugging Face hub."""

    repo: str
    revision: str
    """A commit, so that the problems never change; ``main`` is whatever is newest."""
    split: str
    config: str | None = None


class ProblemSet(NamedTuple):
    """A problem set; see ``docs/problems.md`` for how to register one's own."""

    name: str
    title: str
    hub: HubSource
    read: ReadRow
    size: int | None = None
    """Number of rows; another number is refused. None does not check."""
    paper: Callable[[Sequence[Entry]], Sequence[Entry]] | None = None
    """Picks ``NAME/paper`` from the whole set."""
    rest_calibrates: bool = False
    """Calibration for ``NAME/paper`` takes what it leaves of the set."""
    calibrate_on: str | None = None
    """The set that calibration takes otherwise, for one too small to split."""
    training: HubSource | None = None
    """Problems for ``split=train``, which calibration takes too."""
    file: str | None = None
    """Name in a folder of JSONL files, without the ending; None is ``name``."""


def register(problem_set: ProblemSet) -> None:
    """Make a problem set known by its name.

    Raises:
        ValueError: the name is taken, or cannot be told from a path.
    """
    name = problem_set.name
    if name in SETS or name in {"arithmetic", "auto"}:
        raise ValueError(f"there is a problem set {name!r} already")
    if not name or set(name) & set("/\\."):
        raise ValueError(f"a problem set's name is a word without / \\ and ., got {name!r}")
    SETS[name] = problem_set


def known_sets() -> Mapping[str, ProblemSet]:
    """All sets by name; those of other packages join when this is first asked.

    Raises:
        ConfigError: a set of another package has a name that is taken.
    """
    for each in registry.PROBLEMS.found.values():
        if SETS.get(each.name) != each:
            try:
                register(each)
            except ValueError as error:
                raise ConfigError(f"a package registers a problem set: {error}") from None
    return SETS


def _of(key: str, **fields: str) -> ReadRow:
    """Reads rows whose id, question and answer are columns; ``key`` formats the id."""

    def read(number: int, row: Row, _seed: int) -> Problem:
        return _problem(
            key.format(number=number, row=row), row, fields["question"], fields["answer"]
        )

    return read


def _problem(problem_id: str, row: Row, question: str, answer: str) -> Problem:
    for column in (question, answer):
        if not isinstance(row.get(column), str | int | float) or not str(row[column]).strip():
            raise ProblemError(
                f"problem {problem_id}: the column {column!r} holds no text; is this the right "
                "revision?"
            )
    return Problem(id=problem_id, question=str(row[question]), answer=str(row[answer]))


def _aime(year: int) -> ReadRow:
    def read(number: int, row: Row, _seed: int) -> Problem:
        part, position = ("I", "II")[number // 15], number % 15 + 1
        return _problem(f"aime-{year}-{part}-{position}", row, "problem", "answer")

    return read


def _amc(number: int, row: Row, _seed: int) -> Problem:
    # .../2022_AMC_12A_Problems/Problem_1 is amc-2022-12A-1, as in the folder's files.
    problem = _problem(f"amc-row-{number}", row, _first(row, "question", "problem"), "answer")
    parts = str(row.get("url", "")).replace("/", "_").split("_")
    if "AMC" in parts and parts[-1].isdecimal():
        at = parts.index("AMC")
        problem = problem.model_copy(
            update={"id": f"amc-{parts[at - 1]}-{parts[at + 1]}-{parts[-1]}"}
        )
    # The set stores its integers as floats: 142.0.
    return problem.model_copy(update={"answer": (problem.answer or "").removesuffix(".0")})


def _first(row: Row, *columns: str) -> str:
    return next((column for column in columns if column in row), columns[0])


def _olympiad(number: int, row: Row, _seed: int) -> Problem:
    answers = row.get("final_answer")
    if not isinstance(answers, Sequence) or not answers:
        raise ProblemError(f"olympiadbench, row {number}: there is no final_answer")
    flat = {"question": row.get("question"), "answer": ", ".join(map(str, answers))}
    return _problem(f"olympiad-{row.get('id', number)}", flat, "question", "answer")


def _gsm8k(_number: int, row: Row, _seed: int) -> Problem:
    _, _, answer = str(row.get("answer", "")).rpartition("####")
    digest = hashlib.sha256(str(row.get("question")).encode()).hexdigest()[:12]
    flat = {**row, "answer": answer.strip()}
    return _problem(f"gsm8k-{digest}", flat, "question", "answer")


def _gpqa(number: int, row: Row, seed: int) -> Problem:
    columns = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
    problem_id = f"gpqa-{row.get('Record ID', number)}"
    problem = _problem(problem_id, row, "Question", columns[0])
    choices = [str(row.get(column, "")).strip() for column in columns]
    if not all(choices):
        raise ProblemError(f"problem {problem_id}: a choice is empty")
    order = list(range(len(choices)))
    # Each problem has a seed of its own: its order does not depend on which others are taken.
    random.Random(f"{seed} {problem_id}").shuffle(order)
    return problem.model_copy(
        update={
            "answer": LETTERS[order.index(0)],
            "choices": tuple(choices[position] for position in order),
        }
    )


def _first_of(count: int) -> Callable[[Sequence[Entry]], Sequence[Entry]]:
    return lambda entries: entries[:count]


def _math500_paper(entries: Sequence[Entry]) -> Sequence[Entry]:
    if len(entries) != 500:
        raise ProblemError(
            f"math500/paper is drawn from the 500 problems in their order, got {len(entries)}"
        )
    return [entries[position] for position in random.Random(42).sample(range(500), 100)]


def _olympiad_paper(entries: Sequence[Entry]) -> Sequence[Entry]:
    numerical = [
        entry
        for entry in entries
        if entry[1].get("answer_type") == "Numerical"
        and entry[1].get("is_multiple_answer") is False
    ]
    if len(numerical) < 50:
        raise ProblemError(
            "olympiadbench/paper takes numerical problems with a single answer, and finds fewer "
            "than 50: the rows need the keys answer_type and is_multiple_answer"
        )
    return numerical[:50]


# Revisions as pinned by public evaluation code; each is checked by its number of rows.
_MATH500 = HubSource("HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", "test")
_AIME24 = HubSource("HuggingFaceH4/aime_2024", "2fe88a2f1091d5048c0f36abc874fb997b3dd99a", "train")
_AIME25 = HubSource("math-ai/aime25", "563bb8404243c5f09de6ec262f2db674fe5bce9b", "test")
_AMC23 = HubSource("math-ai/amc23", "80815d37005feb82cd7f8fbc6901d5d3eff43057", "test")
_AIMO_AMC = HubSource(
    "AI-MO/aimo-validation-amc", "69d78a4a2c840e82d69af6bc742bda09005f6316", "train"
)
_OLYMPIADBENCH = HubSource(
    "Hothan/OlympiadBench",
    "91184b52131e7fc9455fef848035173aea8cc01a",
    "train",
    "OE_TO_maths_en_COMP",
)
_GPQA = HubSource(
    "Idavidrein/gpqa", "633f5ee89ab8ad4522a9f850766b73f62147ffdd", "train", "gpqa_diamond"
)
_GSM8K = HubSource("openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866", "test", "main")
# No published commit was found for this one; its problems serve calibration and training.
_S1K = HubSource("simplescaling/s1K-1.1", "main", "train")

SETS: dict[str, ProblemSet] = {
    problem_set.name: problem_set
    for problem_set in (
        ProblemSet(
            "math500",
            "MATH-500: competition maths of five levels",
            _MATH500,
            _of("{row[unique_id]}", question="problem", answer="answer"),
            size=500,
            paper=_math500_paper,
            rest_calibrates=True,
            calibrate_on="aimo-amc",
        ),
        ProblemSet(
            "aime24",
            "AIME 2024, I and II",
            _AIME24,
            _aime(2024),
            size=30,
            paper=_first_of(15),
            calibrate_on="aime25",
        ),
        ProblemSet(
            "aime25",
            "AIME 2025, I and II",
            _AIME25,
            _aime(2025),
            size=30,
            paper=_first_of(15),
            calibrate_on="aime24",
        ),
        ProblemSet(
            "amc23",
            "AMC 12 2023, with integer answers",
            _AMC23,
            _amc,
            size=40,
            calibrate_on="aimo-amc",
        ),
        ProblemSet(
            "aimo-amc",
            "AIMO validation set: AMC 12 2022 and 2023",
            _AIMO_AMC,
            _amc,
            size=83,
            paper=_first_of(50),
            rest_calibrates=True,
            calibrate_on="aime24",
            file="aimo_validation_amc",
        ),
        ProblemSet(
            "olympiadbench",
            "OlympiadBench: maths, English, open-ended, competition",
            _OLYMPIADBENCH,
            _olympiad,
            size=674,
            paper=_olympiad_paper,
            rest_calibrates=True,
            calibrate_on="math500",
            file="olympiadbench_maths_en_comp",
        ),
        ProblemSet(
            "gpqa-diamond",
            "GPQA Diamond: multiple choice, graduate science (asks for a Hugging Face account)",
            _GPQA,
            _gpqa,
            size=198,
            paper=_first_of(60),
            rest_calibrates=True,
            file="gpqa_diamond",
        ),
        ProblemSet(
            "gsm8k",
            "GSM8K: grade-school word problems",
            _GSM8K,
            _gsm8k,
            size=1319,
            training=_GSM8K._replace(split="train"),
        ),
        ProblemSet(
            "s1k",
            "s1K-1.1: 1,000 hard questions; answers are worked solutions, for calibration only",
            _S1K,
            _of("s1k-{number}", question="question", answer="solution"),
            size=1000,
            calibrate_on="math500",
        ),
    )
}
"""The sets by their names."""
