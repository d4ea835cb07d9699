"""A run as records, one a chain: JSON lines for ``datasets``, Parquet, a data frame."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from atts.analysis.graded_run import GradedRun, grade_run
from atts.errors import ConfigError
from atts.files import replacing
from atts.package import install
from atts.store.run_directory import read_run


def rows(graded_run: GradedRun) -> Iterator[dict[str, Any]]:
    """One row per chain; ``correct`` is null where there is no answer or it is ungraded, for which
    ``ungraded`` has the reason.
    """
    by_id = {problem.id: problem for problem in graded_run.run.problems}
    for chain in sorted(graded_run.run.chains, key=lambda chain: chain.key):
        problem = by_id[chain.problem_id]
        decisions = [decision for _, decision in chain.decisions]
        yield {
            "problem_id": chain.problem_id,
            "sample": chain.sample,
            "question": problem.question,
            "choices": list(problem.choices),
            "gold_answer": problem.answer,
            "answer": chain.answer,
            "correct": graded_run.verdicts[chain.key].correct,
            "ungraded": graded_run.verdicts[chain.key].reason or None,
            "end": chain.end,
            "error": chain.error,
            "text": chain.text,
            "turns": len(chain.turns),
            "take_overs": chain.take_overs,
            "scores": [None if each.passed else each.score for each in decisions],
            "p_values": [decision.p_value for decision in decisions],
            "ratings": [turn.rating.value for turn in chain.turns if turn.rating],
            "draft_tokens": chain.written("draft"),
            "draft_tokens_kept": chain.kept("draft"),
            "target_tokens": chain.written("target"),
            "seconds": chain.seconds,
        }


def write_parquet(path: Path, table: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as Parquet; a file that was there is replaced as a whole, or not at all.

    Raises:
        ConfigError: pyarrow is not installed.
        StoreError: the file cannot be written.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise ConfigError(f"Parquet needs pyarrow: {install('data')}") from None
    # Written out, so that a run without errors or choices has the same columns as any other.
    schema = pa.schema(
        [
            ("problem_id", pa.string()),
            ("sample", pa.int64()),
            ("question", pa.string()),
            ("choices", pa.list_(pa.string())),
            ("gold_answer", pa.string()),
            ("answer", pa.string()),
            ("correct", pa.bool_()),
            ("ungraded", pa.string()),
            ("end", pa.string()),
            ("error", pa.string()),
            ("text", pa.string()),
            ("turns", pa.int64()),
            ("take_overs", pa.int64()),
            ("scores", pa.list_(pa.float64())),
            ("p_values", pa.list_(pa.float64())),
            ("ratings", pa.list_(pa.float64())),
            ("draft_tokens", pa.int64()),
            ("draft_tokens_kept", pa.int64()),
            ("target_tokens", pa.int64()),
            ("seconds", pa.float64()),
        ]
    )
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(table), schema=schema), temporary)


def read_records(directory: Path | str) -> list[dict[str, Any]]:
    """A dictionary per chain, by problem and sample, with answers as they were graded last.

    The keys are those of ``atts export``: ``pandas.DataFrame(read_records(...))`` is a table.
    Answers that need algebra are compared in other processes.

    Raises:
        StoreError: there is no run, or one of its files is corrupt.
    """
    return list(rows(grade_run(read_run(directory))))
