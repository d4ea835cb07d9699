"""A run as a log of inspect_ai, version 2 of its JSON format: ``inspect view`` opens the chains.

https://inspect.aisi.org.uk/eval-logs.html. The format is written by hand: it is plain JSON, and
inspect_ai brings a hundred packages. ``make test-clients`` reads what is written with inspect_ai.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from atts.analysis.graded_run import ChainVerdict, GradedRun
from atts.analysis.summary import Summary, summarise
from atts.methods import authors_of
from atts.models.prompts import question
from atts.package import DISTRIBUTION
from atts.store.contents import CHAINS
from atts.types import Author, Chain, Problem, Turn

_VALUES = {True: "C", False: "I", None: "N"}
"""Right, wrong, and neither, as inspect_ai calls them."""


def inspect_log(graded_run: GradedRun, directory: Path) -> dict[str, Any]:
    """The log: a sample for each chain, an epoch for each of a problem's chains.

    Every segment is a message by the model that wrote it, with its decision as metadata; scores,
    tokens and the configuration are where inspect_ai looks for them.

    Args:
        graded_run: what is written.
        directory: it is in; its name and the time of its last chain are those of the log.
    """
    run = graded_run.run
    config, problems = run.config, {problem.id: problem for problem in run.problems}
    summary = summarise(graded_run)
    chains = sorted(run.chains, key=lambda chain: chain.key)
    ended = datetime.fromtimestamp((directory / CHAINS).stat().st_mtime, UTC)
    models = _models(graded_run)
    name = "+".join(models.values())
    return {
        "version": 2,
        "status": "success" if summary.is_whole else "started",
        "eval": {
            "eval_id": summary.digest,
            "run_id": summary.digest,
            "created": ended.isoformat(timespec="seconds"),
            "task": directory.resolve().name,
            "task_id": summary.digest,
            "task_args": config.model_dump(mode="json"),
            "solver": config.method,
            "dataset": {
                "name": config.problems.source,
                "samples": len(problems),
                "sample_ids": list(problems),
            },
            "model": name,
            "model_args": dict(models),
            "config": {"epochs": config.samples, "epochs_reducer": ["mean"]},
            "packages": {DISTRIBUTION: version(DISTRIBUTION)},
        },
        "results": {
            "total_samples": summary.expected_chains,
            "completed_samples": summary.chains,
            "scores": _scores(summary),
        },
        "stats": {
            "started_at": "",
            "completed_at": ended.isoformat(timespec="seconds"),
            "model_usage": _usage(chains, models),
        },
        "samples": [
            _sample(chain, problems[chain.problem_id], graded_run.verdicts[chain.key], graded_run)
            for chain in chains
        ],
    }


def _models(graded_run: GradedRun) -> dict[Author, str]:
    config = graded_run.run.config
    names: dict[Author, str] = {"draft": config.draft.model, "target": config.target.model}
    return {author: names[author] for author in authors_of(config)}


def _scores(summary: Summary) -> list[dict[str, Any]]:
    """Accuracy a chain and by majority, with half of their intervals as two standard errors."""
    found = {"accuracy": summary.accuracy, "majority_vote": summary.majority_vote}
    metrics: dict[str, Any] = {}
    for name, interval in found.items():
        if interval is None:
            continue
        metrics[name] = {"name": name, "value": interval.estimate}
        error = (interval.high - interval.low) / 4
        metrics[f"{name}_stderr"] = {"name": f"{name}_stderr", "value": error}
    return [{"name": "atts", "scorer": "atts", "metrics": metrics}] if metrics else []


def _usage(chains: list[Chain], models: dict[Author, str]) -> dict[str, Any]:
    """By model: what it wrote, and as input what the target scored."""
    written: Counter[str] = Counter()
    read: Counter[str] = Counter()
    for chain in chains:
        for author, model in models.items():
            written[model] += chain.written(author)
        if "target" in models:
            read[models["target"]] += sum(each.scored_tokens for _, each in chain.decisions)
    return {
        model: {
            "input_tokens": read[model],
            "output_tokens": written[model],
            "total_tokens": read[model] + written[model],
        }
        for model in dict.fromkeys(models.values())
    }


def _sample(
    chain: Chain, problem: Problem, verdict: ChainVerdict, graded_run: GradedRun
) -> dict[str, Any]:
    config, models = graded_run.run.config, _models(graded_run)
    asked: list[dict[str, Any]] = [
        {"role": message.role, "content": message.content} for message in problem.messages
    ] or [{"role": "user", "content": question(problem, config.prompt)}]
    last = models.get("target") or models["draft"]
    sample: dict[str, Any] = {
        "id": problem.id,
        "epoch": chain.sample + 1,
        "input": problem.question,
        "choices": list(problem.choices) or None,
        "target": problem.answer or "",
        "messages": [*asked, *_messages(chain, models)],
        "output": {
            "model": last,
            "choices": [
                {
                    "message": {"role": "assistant", "content": chain.text, "source": "generate"},
                    "stop_reason": "stop" if chain.is_finished else "unknown",
                }
            ],
        },
        "scores": {
            "atts": {
                "value": _VALUES[verdict.correct],
                "answer": chain.answer,
                "explanation": verdict.reason or None,
            }
        },
        "metadata": {"end": chain.end, "turns": len(chain.turns), "take_overs": chain.take_overs},
        "total_time": chain.seconds,
    }
    if chain.error:
        sample["error"] = {"message": chain.error, "traceback": "", "traceback_ansi": ""}
    return sample


def _messages(chain: Chain, models: dict[Author, str]) -> Iterator[dict[str, Any]]:
    for number, turn in enumerate(chain.turns):
        for segment in turn.segments:
            if not segment.kept:
                continue
            yield {
                "role": "assistant",
                "content": segment.text,
                "source": "generate",
                "model": models[segment.author],
                "metadata": {"author": segment.author, "turn": number, **_decision(turn)},
            }


def _decision(turn: Turn) -> dict[str, Any]:
    if turn.decision is None:
        return {}
    names = ("p_value", "threshold", "take_over", *(() if turn.decision.passed else ("score",)))
    return {name: getattr(turn.decision, name) for name in names}
