"""Runs whose times are known to the second."""

from collections.abc import Callable, Sequence

from atts.config import parse_config
from atts.store.run_directory import RecordedRun
from atts.types import Author, Chain, Decision, Problem, Segment, Timings, Turn

Moments = tuple[float, float, float, float]
"""Of a request: queued, started, first token, done."""

MakeRun = Callable[..., RecordedRun]


def segment(author: Author, moments: Moments, tokens: int = 10) -> Segment:
    return Segment(
        author=author,
        text="text",
        tokens=tokens,
        finish_reason="length",
        cached_tokens=0,
        timings=timings(moments),
    )


def decision(moments: Moments, take_over: bool = False, **more: object) -> Decision:
    return Decision.model_validate(
        {
            "score": 1.0,
            "p_value": 0.3 if take_over else 0.7,
            "take_over": take_over,
            "scored_tokens": 10,
            "cached_tokens": 0,
            "timings": timings(moments),
            **more,
        }
    )


def timings(moments: Moments) -> Timings:
    queued, started, first_token, done = moments
    return Timings(queued=queued, started=started, first_token=first_token, done=done)


def chain(
    turns: Sequence[Turn], started: float, done: float, problem: str = "p", sample: int = 0
) -> Chain:
    return Chain(
        problem_id=problem,
        sample=sample,
        end="answer",
        answer="2",
        turns=tuple(turns),
        started=started,
        done=done,
    )


def make_timed_run(chains: Sequence[Chain], **settings: object) -> RecordedRun:
    samples = 1 + max(chain.sample for chain in chains)
    config = parse_config({"samples": samples, **settings}, "the test")
    ids = dict.fromkeys(chain.problem_id for chain in chains)
    problems = tuple(Problem(id=name, question="1 + 1?", answer="2") for name in ids)
    return RecordedRun(config, problems, tuple(chains))
