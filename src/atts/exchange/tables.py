"""A run as records, one a chain: JSON lines for ``datasets``, Parquet, a data frame."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from atts.analysis.graded_run import states
from atts.errors import ConfigError
from atts.files import replacing
from atts.grading.cache import VerdictCache
from atts.grading.grader import Grader
from atts.store.grades import read_grades, regraded
from atts.store.run_directory import read_run
from atts.types import Author, Chain, ChainKey, Problem


def rows(
    problems: Sequence[Problem],
    chains: Iterable[Chain],
    correct: Mapping[ChainKey, bool | None],
) -> Iterator[dict[str, Any]]:
    """One row per chain; ``correct`` is null where there is no answer or it is ungraded."""
    by_id = {problem.id: problem for problem in problems}
    for chain in chains:
        problem = by_id[chain.problem_id]
        decisions = [turn.decision for turn in chain.turns if turn.decision]
        yield {
            "problem_id": chain.problem_id,
            "sample": chain.sample,
            "question": problem.question,
            "choices": list(problem.choices),
            "gold_answer": problem.answer,
            "answer": chain.answer,
            "correct": correct.get(chain.key),
            "end": chain.end,
            "error": chain.error,
            "text": chain.text,
            "turns": len(chain.turns),
            "take_overs": sum(bool(turn.take_over) for turn in chain.turns),
            "scores": [decision.score for decision in decisions],
            "p_values": [decision.p_value for decision in decisions],
            "ratings": [turn.rating.value for turn in chain.turns if turn.rating],
            "draft_tokens": _tokens(chain, "draft"),
            "target_tokens": _tokens(chain, "target"),
            "seconds": chain.done - chain.started,
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
        raise ConfigError("Parquet needs pyarrow: pip install 'atts[data]'") from None
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
            ("end", pa.string()),
            ("error", pa.string()),
            ("text", pa.string()),
            ("turns", pa.int64()),
            ("take_overs", pa.int64()),
            ("scores", pa.list_(pa.float64())),
            ("p_values", pa.list_(pa.float64())),
            ("ratings", pa.list_(pa.float64())),
            ("draft_tokens", pa.int64()),
            ("target_tokens", pa.int64()),
            ("seconds", pa.float64()),
        ]
    )
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(table), schema=schema), temporary)


def _tokens(chain: Chain, author: Author) -> int:
    return sum(s.tokens for turn in chain.turns for s in turn.segments if s.author == author)


def read_records(directory: Path | str) -> list[dict[str, Any]]:
    """A dictionary per chain, by problem and sample, with answers as they were graded last.

    The keys are those of ``atts export``: ``pandas.DataFrame(read_records(...))`` is a table.
    Answers that need algebra are compared in other processes.

    Raises:
        StoreError: there is no run, or one of its files is corrupt.
    """
    directory = Path(directory)
    recorded = read_run(directory)
    grades = read_grades(directory, recorded.chains)
    chains = sorted(regraded(recorded.chains, grades), key=lambda chain: chain.key)
    with Grader(cache=VerdictCache()) as grader:
        graded = states(recorded, grades, grader)
    correct = {key: state.correct for key, state in graded.items()}
    return list(rows(recorded.problems, chains, correct))
