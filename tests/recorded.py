"""Run directories with chains in them, for what reads runs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from atts.analysis.graded_run import grade_run
from atts.analysis.summary import Summary, summarise
from atts.config import Config, parse_config
from atts.conformal.calibration import Calibration
from atts.store.environment import record_environment
from atts.store.run_directory import RecordedRun, RunStore
from atts.types import Chain, Decision, Problem, Segment, Timings, Turn

HOSTILE = (
    "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"
    "<!--<script>{{ 7*7 }} javascript:alert(1) \" ' & $x$ \u202e \x00 \x1b[31m \U0001f600"
)

SURPRISES = (0.0, 0.02, 0.0, 1.5, 0.0, 0.25, 7.25, 0.5, 0.5, 3.0)
"""Of the tokens of a segment from which something was cut."""


def summarised(
    config: Config,
    problems: Iterable[Problem],
    chains: Iterable[Chain],
    calibration: Calibration | None = None,
) -> Summary:
    """Chains graded and summed up, without a run directory."""
    run = RecordedRun(config, tuple(problems), tuple(chains), calibration)
    return summarise(grade_run(run))


def write_run(
    directory: Path,
    problems: int = 3,
    samples: int = 4,
    turns: int = 2,
    text: str = "1 + 1 = 2. ",
    names: str = "p",
    cut: str = "",
    **settings: Any,  # noqa: ANN401  (whatever the configuration takes)
) -> None:
    """A run whose chains all have so many turns; every other turn is taken over.

    The last problem's chains are wrong, of each of the others the first has no answer, and the
    very last chain failed. A turn takes 8 seconds. With ``cut``, a draft's segment is not replaced,
    but loses that end of it, as in mode ``rewind``.
    """
    config = parse_config({"samples": samples, **settings}, "the test")
    solved = [
        Problem(id=f"{names}{number}", question=f"What is {text}?", answer="2", choices=())
        for number in range(problems)
    ]
    with RunStore.open(directory, config, solved, None) as store:
        record_environment(directory, config)
        order = 0
        for number, problem in enumerate(solved):
            for sample in range(samples):
                last = number == problems - 1
                failed = last and sample == samples - 1
                begin = 10.0 * number + sample
                store.append(
                    Chain(
                        problem_id=problem.id,
                        sample=sample,
                        end="failed" if failed else "answer",
                        answer=None if sample == 0 and not last else "3" if last else "2",
                        turns=tuple(
                            _turn(begin + 8 * turn, order + turn, text, turn % 2 == 0, cut)
                            for turn in range(turns)
                        ),
                        started=begin - 0.5,
                        done=begin + 8 * turns,
                        error=f"EngineError: {text}" if failed else None,
                    )
                )
                order += turns


def _turn(begin: float, order: int, text: str, take_over: bool, cut: str) -> Turn:
    at = 1000.0 + begin

    def timings(*moments: float) -> Timings:
        queued, started, first_token, done = (at + moment for moment in moments)
        return Timings(queued=queued, started=started, first_token=first_token, done=done)

    draft = Segment(
        author="draft",
        text=f"draft: {text}",
        tokens=10,
        finish_reason="length",
        cached_tokens=0,
        timings=timings(0, 0.5, 1, 3),
        kept=bool(cut) or not take_over,
        cut=cut if take_over else "",
        cut_tokens=4 if cut and take_over else 0,
    )
    target = Segment(
        author="target",
        text=f"target: {text}",
        tokens=7,
        finish_reason="length",
        cached_tokens=0,
        timings=timings(5, 5.5, 6, 8),
    )
    decision = Decision(
        score=0.5 + 0.01 * order,
        p_value=(0.37 * (order + 1)) % 1.0,
        take_over=take_over,
        threshold=0.4,
        order=order,
        surprises=SURPRISES if cut else (),
        scored_tokens=len(SURPRISES),
        cached_tokens=0,
        timings=timings(3, 4, 5, 5),
    )
    return Turn(segments=(draft, target) if take_over else (draft,), decision=decision)
