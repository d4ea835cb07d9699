"""Recorded scores: of a run directory, or of a trace of the reference implementation."""

import gzip
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from atts.conformal.calibration import Calibration
from atts.errors import CalibrationError, StoreError
from atts.grading.equivalence import equivalent
from atts.store.run_directory import read_run
from atts.types import Chain


class Step(NamedTuple):
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


class RecordedChain(NamedTuple):
    problem_id: str
    sample: int
    right: bool | None
    """Whether its answer is right; None where that is not known."""
    steps: tuple[Step, ...]


class Recording(NamedTuple):
    name: str
    seed: int
    """Tie-breakers derive from it and the chain's identity, as in the run."""
    chains: tuple[RecordedChain, ...]
    """In the order in which they were started."""


def load_recording(path: Path) -> Recording:
    """Read a run directory, or a trace: ``.jsonl`` or ``.jsonl.gz``, one line a chain.

    Raises:
        StoreError: it cannot be read, or holds no score.
    """
    recording = _load_run(path) if path.is_dir() else _load_trace(path)
    if not any(chain.steps for chain in recording.chains):
        raise StoreError(f"{path} holds no score to replay")
    return recording


def load_calibration(path: Path) -> Calibration:
    """Read a ``calibration.json``, or a ``.npy`` of perplexities, which are taken for turn 0.

    Raises:
        CalibrationError: it cannot be read, or is something else.
    """
    try:
        if path.suffix != ".npy":
            return Calibration.from_json(path.read_text(encoding="utf-8"), str(path))
        perplexities = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CalibrationError(f"cannot read the calibration {path}: {error}") from error
    if perplexities.ndim != 1 or perplexities.dtype.kind != "f" or not np.all(perplexities > 0):
        raise CalibrationError(f"{path} does not hold a row of perplexities, all above 0")
    scores = tuple((score,) for score in np.log(perplexities).tolist())
    return Calibration(version=2, fingerprint={}, coverage="marginal", scores={"all": scores})


def _load_run(path: Path) -> Recording:
    run = read_run(path)
    gold = {problem.id: problem.answer for problem in run.problems}
    kind = run.config.take_over.score.kind
    return Recording(
        path.resolve().name,
        run.config.seed,
        tuple(
            RecordedChain(
                chain.problem_id,
                chain.sample,
                None
                if chain.end == "failed" or not chain.is_needed
                else _right(gold[chain.problem_id], chain.answer),
                tuple(_steps(chain, kind)),
            )
            for chain in sorted(run.chains, key=lambda chain: chain.started)
        ),
    )


def _steps(chain: Chain, kind: str) -> Iterable[Step]:
    last = None
    for number, turn in enumerate(chain.turns):
        if not turn.decision:
            continue
        decision = turn.decision
        begun = turn.segments[0].timings.queued if turn.segments else decision.timings.queued
        yield Step(
            turn=number,
            score=decision.score,
            take_over=decision.take_over,
            # Clocks of two processes have nothing to do with each other: no step is negative.
            work=max(decision.timings.done - (begun if last is None else last), 0.0),
            order=decision.order,
            scores={**decision.scores, kind: decision.score},
        )
        last = decision.timings.done


def _load_trace(path: Path) -> Recording:
    opened = gzip.open if path.suffix == ".gz" else Path.open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            lines = file.read().splitlines()
        chains = tuple(_traced(json.loads(line)) for line in lines if line.strip())
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"cannot read {path}: {error!r}; a recording is a run directory, or a trace with one "
            "JSON object a line"
        ) from error
    return Recording(path.name.split(".")[0], 0, chains)


def _traced(line: dict[str, Any]) -> RecordedChain:
    """A chain of the reference. Empty segments have no perplexity there, and no decision here."""
    steps, written = [], 0.0
    for turn in line["turns"]:
        written += turn["draft_chars"]
        if turn["ppl"] is not None:
            score = math.log(turn["ppl"])
            steps.append(
                Step(
                    int(turn["turn"]), score, bool(turn["rejected"]), written, None, {"mean": score}
                )
            )
            written = 0.0
        written += turn["target_chars"]
    gold, answer = str(line["gold_answer"]), line["reextracted"]
    return RecordedChain(
        str(line["question_id"]), int(line["sample_index"]), _right(gold, answer), tuple(steps)
    )


def _right(gold: str, answer: str | None) -> bool:
    return answer is not None and equivalent(gold, answer)
