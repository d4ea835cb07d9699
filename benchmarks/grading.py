"""How well and how fast answers are graded, on real problem sets and real chains.

    python benchmarks/grading.py DATA

DATA holds ``problems/*.jsonl`` (id, question, answer) and ``traces/*.jsonl.gz`` (question_id,
sample_index, gold_answer, final_answer). Prints JSON: which gold answers do not equal themselves,
which pairs of different gold answers are found equal, and of sets, pairs and intervals of them; the
figures of the traces, and answers a second against math-verify in one process, with its own time
limits.
"""

import argparse
import gzip
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atts.grading.chains import accuracy, grade_chains, majority_vote, pass_at_k
from atts.grading.equivalence import compare_exactly
from atts.grading.grader import Grader, Pair, VerdictCache
from atts.types import Chain, Problem

PAIRS = 20_000
FORMS = ("\\{{{0},{1}\\}}", "({0},{1})", "[{0},{1}]", "({0},{1}]", "[{0},{1})")
"""What two numbers make up; no two of these are the same."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    folder: Path = parser.parse_args().data
    golds = {
        path.stem: [json.loads(line)["answer"] for line in path.read_text("utf-8").splitlines()]
        for path in sorted((folder / "problems").glob("*.jsonl"))
    }
    (traces,) = sorted((folder / "traces").glob("*.jsonl.gz"))
    with gzip.open(traces, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    report = {
        "gold answers": self_equality(golds),
        "different gold answers": different(golds),
        "traces": trace_metrics(rows),
        "speed": speed([(row["gold_answer"], row["final_answer"]) for row in rows]),
    }
    print(json.dumps(report, indent=1))


def self_equality(golds: dict[str, list[str]]) -> dict[str, Any]:
    every = [gold for answers in golds.values() for gold in answers]
    with Grader() as grader:
        verdicts = grader.compare([(gold, gold) for gold in every])
        # Text that equals itself is equal whatever it says; this is what algebra makes of it.
        algebra = dict(zip(every, algebraic(grader, every), strict=True))
    return {
        "count": len(every),
        "equal to themselves": sum(verdicts[(gold, gold)] is True for gold in every),
        "read by algebra too": sum(algebra[gold] is True for gold in every),
        "not read by algebra": sorted({gold for gold in every if algebra[gold] is not True}),
    }


def algebraic(grader: Grader, answers: list[str]) -> list[bool | None]:
    found = grader._by_algebra([(answer, answer) for answer in answers])
    return [found[(answer, answer)] for answer in answers]


def different(golds: dict[str, list[str]]) -> dict[str, Any]:
    chance = random.Random(0)
    pairs: list[Pair] = []
    numbers = [gold for answers in golds.values() for gold in answers if gold.isdecimal()]
    while len(pairs) < PAIRS // 10:
        two = sorted(chance.sample(numbers, 2), key=int)
        if two[0] != two[1]:
            one, other = (form.format(*two) for form in chance.sample(FORMS, 2))
            pairs.append((one, other))
    while len(pairs) < PAIRS:
        one, other = chance.sample(chance.choice(list(golds.values())), 2)
        if one != other:
            pairs.append((one, other))
    with Grader() as grader:
        verdicts = grader.compare(pairs)
    return {
        "pairs": len(pairs),
        "needed algebra": sum(compare_exactly(*pair) is None for pair in verdicts),
        "found equal": [pair for pair in verdicts if verdicts[pair]],
        "ungraded": [pair for pair in verdicts if verdicts[pair] is None],
    }


def trace_metrics(rows: list[dict[str, Any]]) -> dict[str, Any]:
    problems = {
        row["question_id"]: Problem(
            id=row["question_id"], question="not recorded", answer=row["gold_answer"]
        )
        for row in rows
    }
    figures = {}
    for key in ("final_answer", "final_answer_regex"):
        chains = [
            Chain(
                problem_id=row["question_id"],
                sample=row["sample_index"],
                end="answer",
                answer=row[key] if row[key] not in ("", "invalid") else None,
                turns=(),
                started=0.0,
                done=row["duration_seconds"],
            )
            for row in rows
        ]
        with Grader() as grader:
            graded = grade_chains(list(problems.values()), chains, grader)
        grades = graded.grades
        every = [grade for of_problem in grades.values() for grade in of_problem]
        figures[key] = {
            "accuracy per chain": accuracy(grades).model_dump(),
            "majority vote": majority_vote(grades, graded.same).model_dump(),
            "pass@16": pass_at_k(grades, 16).model_dump(),
            "without answer": sum(grade.answer is None for grade in every) / len(every),
            "ungraded": sum(not grade.graded for grade in every) / len(every),
        }
    return figures


def speed(pairs: list[Pair]) -> dict[str, float]:
    """Answers a second; starting the processes counts."""
    with tempfile.TemporaryDirectory() as folder:
        cache = VerdictCache(Path(folder) / "verdicts.sqlite3")

        def ours(cache: VerdictCache | None) -> Callable[[], None]:
            def run() -> None:
                with Grader(cache=cache) as grader:
                    grader.compare(pairs)

            return run

        return {
            "math-verify, one process": per_second(pairs, lambda: math_verify(pairs)),
            "ours, no cache": per_second(pairs, ours(None)),
            "ours, cache being filled": per_second(pairs, ours(cache)),
            "ours, cache filled": per_second(pairs, ours(cache)),
        }


def per_second(pairs: list[Pair], grade: Callable[[], None]) -> float:
    began = time.perf_counter()
    grade()
    return round(len(pairs) / (time.perf_counter() - began), 1)


def math_verify(pairs: list[Pair]) -> None:
    from math_verify import parse, verify

    for gold, answer in pairs:
        verify(parse(f"${gold}$"), parse(f"${answer}$"))


if __name__ == "__main__":
    main()
