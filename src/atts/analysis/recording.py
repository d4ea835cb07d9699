"""Recorded scores, of a run directory or a trace of the reference, and the order they come in."""

import gzip
import heapq
import json
import math
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from io import BufferedReader
from itertools import groupby
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, TypeVar

import numpy as np

from atts.analysis.graded_run import ChainVerdict, grade_run
from atts.conformal.calibration import Calibration
from atts.errors import CalibrationError, StoreError
from atts.files import open_plain, read_lines, read_plain
from atts.grading.grader import Grader, VerdictCache
from atts.store.npy import Perplexities, read_perplexities
from atts.store.run_directory import read_run
from atts.text import shortened
from atts.types import Chain

T = TypeVar("T")

_MOST_TURNS = 100_000

JITTER = 0.2
"""Simulated steps take between 1 - JITTER and 1 + JITTER of their recorded work."""


class ScoredTurn(NamedTuple):
    """One scored segment."""

    turn: int
    score: float
    take_over: bool
    """What was decided when it was recorded."""
    work: float
    """How long the chain took to get here from its last step: seconds, or characters written."""
    order: int | None
    """Its number in the order of arrival, if that was recorded."""
    scores: Mapping[str, float]
    """By kind of score; the one decided by stands under its kind."""


class ScoredChain(NamedTuple):
    problem_id: str
    sample: int
    right: bool | None
    """Whether its answer is right; None where that is not known."""
    steps: tuple[ScoredTurn, ...]


class Recording(NamedTuple):
    name: str
    seed: int
    """Tie-breakers derive from it and the chain's identity, as in the run."""
    chains: tuple[ScoredChain, ...]
    """In the order in which they were started."""
    kind: str = "mean"
    """The kind of score that was decided by."""


def load_recording(path: Path, grader: Grader | None = None) -> Recording:
    """Read a run directory, or a trace: ``.jsonl`` or ``.jsonl.gz``, one line a chain.

    Right and wrong are told by the grades of the run, else by the rules and by algebra, which is
    what ``grader`` compares by (none: one that lasts for this call and uses the user's cache).

    Raises:
        StoreError: it cannot be read, or holds no score.
    """
    if grader is None:
        with Grader(cache=VerdictCache()) as own:
            return load_recording(path, own)
    recording = _load_run(path, grader) if path.is_dir() else _load_trace(path, grader)
    if not any(chain.steps for chain in recording.chains):
        raise StoreError(f"{path} holds no score to replay")
    return recording


def load_calibration(path: Path, problem_ids: Sequence[str] = ()) -> Calibration:
    """Read a ``calibration.json``, or a ``.npy`` of perplexities, which are taken for turn 0.

    Args:
        path: of the file.
        problem_ids: what the numbers of a file of perplexities by question count.

    Raises:
        CalibrationError: it cannot be read, or is something else.
    """
    try:
        if path.suffix != ".npy":
            return Calibration.from_json(read_plain(path).decode(), str(path))
        perplexities = read_perplexities(path)
    except (OSError, ValueError, StoreError) as error:
        raise CalibrationError(
            f"cannot read the calibration {path}: {error}. It does not hold a row of perplexities, "
            "all above 0, or such rows by question (allow_pickle of numpy is never set)"
        ) from error
    if isinstance(perplexities, dict):
        return _by_question(perplexities, problem_ids, path)
    if not perplexities.size or not np.all((perplexities > 0) & (perplexities < np.inf)):
        raise CalibrationError(f"{path} does not hold a row of perplexities, all above 0")
    scores = tuple((score,) for score in np.log(perplexities).tolist())
    return Calibration(version=2, fingerprint={}, coverage="marginal", scores={"all": scores})


def _by_question(perplexities: Perplexities, problem_ids: Sequence[str], path: Path) -> Calibration:
    scores: dict[str, tuple[tuple[float | None, ...], ...]] = {}
    for key, values in perplexities.items():
        if not str(key).isdecimal() or int(key) >= len(problem_ids):
            raise CalibrationError(
                f"{path} has perplexities for question {key!r}, but the recording has "
                f"{len(problem_ids)} problems; is it of the same set?"
            )
        # 0 and infinity stand for scores that the reference could not get.
        usable = tuple((math.log(value),) for value in values if 0.0 < value < math.inf)
        if usable:
            scores[problem_ids[int(key)]] = usable
    if not scores:
        raise CalibrationError(f"{path} holds no usable perplexity")
    return Calibration(version=2, fingerprint={}, coverage="conditional", scores=scores)


def _load_run(path: Path, grader: Grader) -> Recording:
    graded = grade_run(read_run(path), grader)
    run = graded.run
    kind = run.config.take_over.score.kind
    return Recording(
        path.resolve().name,
        run.config.seed,
        tuple(
            ScoredChain(
                chain.problem_id,
                chain.sample,
                _right(graded.verdicts[chain.key]),
                tuple(_steps(chain, kind)),
            )
            for chain in sorted(run.chains, key=lambda chain: chain.started)
        ),
        kind,
    )


def _right(verdict: ChainVerdict) -> bool | None:
    """A chain that came to its end without an answer is wrong."""
    return False if verdict.outcome == "no answer" else verdict.correct


def _steps(chain: Chain, kind: str) -> Iterable[ScoredTurn]:
    last = None
    for number, decision in chain.decisions:
        if decision.passed:
            continue
        segments = chain.turns[number].segments
        begun = segments[0].timings.queued if segments else decision.timings.queued
        yield ScoredTurn(
            turn=number,
            score=decision.score,
            take_over=decision.take_over,
            # Clocks of two processes have nothing to do with each other: no step is negative.
            work=max(decision.timings.done - (begun if last is None else last), 0.0),
            order=decision.order,
            scores={**decision.scores, kind: decision.score},
        )
        last = decision.timings.done


def _load_trace(path: Path, grader: Grader) -> Recording:
    traced = read_trace(path, _traced)
    verdicts = grader.compare((gold, answer) for _, gold, answer in traced if answer is not None)
    chains = [
        chain._replace(right=False if answer is None else verdicts[gold, answer])
        for chain, gold, answer in traced
    ]
    return Recording(path.name.split(".")[0], 0, tuple(chains))


def read_trace(path: Path, read: Callable[[dict[str, Any]], T]) -> list[T]:
    """What ``read`` makes of each line of a trace: ``.jsonl`` or ``.jsonl.gz``.

    Raises:
        StoreError: it cannot be read, or a line is something else.
    """
    found = []
    number = 1
    try:
        with open_plain(path) as plain, _unpacked(path, plain) as file:
            for line in read_lines(file):
                number = line.number
                # Of one that is longer than any record there is nothing: that is no JSON.
                content = b"" if line.content is None else line.content
                if line.content is None or content.strip():
                    found.append(read(json.loads(content)))
    except _DAMAGED as error:
        raise StoreError(
            f"cannot read {path}, line {number}: {shortened(repr(error))}; it should be a run "
            "directory, or a trace with one JSON object a line"
        ) from error
    return found


_DAMAGED = (
    *(OSError, EOFError, zlib.error),
    *(ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError),
)


def _unpacked(path: Path, file: BinaryIO) -> AbstractContextManager[IO[bytes]]:
    return BufferedReader(gzip.open(file)) if path.suffix == ".gz" else nullcontext(file)


def _traced(line: dict[str, Any]) -> tuple[ScoredChain, str, str | None]:
    """A chain of the reference, the gold answer and the chain's; whether they agree is open.

    Empty segments have no perplexity there, and no decision here.
    """
    steps, written = [], 0.0
    for turn in line["turns"]:
        written += float(turn["draft_chars"])
        if turn["ppl"] is not None:
            score, number = math.log(turn["ppl"]), int(turn["turn"])
            if not (math.isfinite(score) and math.isfinite(written)):
                raise ValueError("a perplexity or a length is infinite, or no number")
            if not 0 <= number < _MOST_TURNS:
                raise ValueError(f"a turn from 0 to {_MOST_TURNS - 1:,} is expected")
            steps.append(
                ScoredTurn(number, score, bool(turn["rejected"]), written, None, {"mean": score})
            )
            written = 0.0
        written += float(turn["target_chars"])
    chain = ScoredChain(str(line["question_id"]), int(line["sample_index"]), None, tuple(steps))
    answer = line["reextracted"]
    return chain, str(line["gold_answer"]), None if answer is None else str(answer)


class ScoreArrival(NamedTuple):
    """A score that arrives."""

    chain: ScoredChain
    step: ScoredTurn


def recorded_order(recording: Recording) -> list[ScoreArrival]:
    """As the scores arrived.

    A trace of the reference does not say; it did one problem after the other, the chains of a
    problem side by side.
    """
    arrivals = [ScoreArrival(chain, step) for chain in recording.chains for step in chain.steps]
    if all(arrival.step.order is not None for arrival in arrivals):
        return sorted(arrivals, key=lambda arrival: arrival.step.order or 0)
    return [
        arrival
        for _, chains in groupby(recording.chains, key=lambda chain: chain.problem_id)
        for arrival in _pool(iter(chains), in_flight=2**20, rng=None)
    ]


def simulated_order(recording: Recording, seed: int, in_flight: int) -> list[ScoreArrival]:
    """As a pool of ``in_flight`` chains over all problems brings them, which is how ``atts`` runs.

    Chains start in their recorded order, each step takes its recorded work times a random
    factor, and when a chain ends the next one starts.
    """
    return list(_pool(iter(recording.chains), in_flight, random.Random(seed)))  # noqa: S311


def _pool(
    waiting: Iterator[ScoredChain], in_flight: int, rng: random.Random | None
) -> Iterator[ScoreArrival]:
    # The second entry keeps ties in the order in which chains started.
    pending: list[tuple[float, int, ScoredChain, int]] = []
    started = 0

    def duration(step: ScoredTurn) -> float:
        return step.work * (rng.uniform(1.0 - JITTER, 1.0 + JITTER) if rng else 1.0)

    def start(now: float) -> None:
        nonlocal started
        chain = next((chain for chain in waiting if chain.steps), None)
        if chain:
            started += 1
            heapq.heappush(pending, (now + duration(chain.steps[0]), started, chain, 0))

    for _ in range(in_flight):
        before = len(pending)
        start(0.0)
        if len(pending) == before:
            break
    while pending:
        now, number, chain, index = heapq.heappop(pending)
        yield ScoreArrival(chain, chain.steps[index])
        if index + 1 < len(chain.steps):
            done = now + duration(chain.steps[index + 1])
            heapq.heappush(pending, (done, number, chain, index + 1))
        else:
            start(now)
