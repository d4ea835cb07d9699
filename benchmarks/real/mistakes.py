"""Which score finds the place of the mistake: rollouts from before and after a segment.

    python benchmarks/real/mistakes.py label RUN -c PAIR.yaml --segments 300 --out labels.jsonl
    python benchmarks/real/mistakes.py judge labels.jsonl --problems PROBLEMS.jsonl

RUN is a run whose take-overs never happen (``take_over.control=coin``, ``take_over.rate=0``), so
that every segment of the draft is scored and stays. ``label`` takes some of them at random, at most
three a problem, has the target continue k times from before and k times from after each, and both
models score the segment. The segment spoils the chain by the drop in the share of continuations
that are right. ``judge`` prints, for each kind of score, the AUROC against a drop of at least
``--drop``, with intervals clustered by problem; chance is 0.5. Those marked * are no kind of score
that a run can take: they say whether it would be worth while.
"""

import argparse
import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from atts.config import Config, ScoreOptions, load_config
from atts.conformal.scores import TOP, SegmentLogprobs, all_scores
from atts.engines.base import ChainMark, GenerateRequest, Sampling, ScoreRequest
from atts.errors import EngineError
from atts.grading.extract import extract_answer
from atts.grading.grader import Grader, VerdictCache
from atts.grading.intervals import clustered_auroc
from atts.methods.chain import Model
from atts.runs.setup import open_models
from atts.store.run_directory import read_run
from atts.types import Author, Chain, Problem

A_PROBLEM = 3
LONGEST = 700
"""Tokens of a continuation, at most."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    label = commands.add_parser("label")
    label.add_argument("run", type=Path)
    label.add_argument("-c", "--config", type=Path, required=True)
    label.add_argument("--set", action="append", default=[], dest="settings")
    label.add_argument("--segments", type=int, default=300)
    label.add_argument("--continuations", type=int, default=8)
    label.add_argument("--out", type=Path, default=Path("labels.jsonl"))
    label.set_defaults(do=lambda options: asyncio.run(write_labels(options)))
    judge = commands.add_parser("judge")
    judge.add_argument("labels", type=Path)
    judge.add_argument("--problems", type=Path, required=True)
    judge.add_argument("--drop", type=float, default=0.25)
    judge.set_defaults(do=print_separations)
    options = parser.parse_args()
    options.do(options)


async def write_labels(options: argparse.Namespace) -> None:
    run = read_run(options.run)
    config = load_config(options.config, options.settings)
    problems = {problem.id: problem for problem in run.problems}
    picked = pick(list(run.chains), options.segments)
    lines: list[dict[str, Any]] = []

    async def one(chain: Chain, number: int, models: Mapping[Author, Model]) -> None:
        problem, turn = problems[chain.problem_id], chain.turns[number]
        before = "".join(s.text for each in chain.turns[:number] for s in each.segments)
        after = before + "".join(s.text for s in turn.segments)
        line: dict[str, Any] = {"problem": problem.id, "sample": chain.sample, "turn": number}
        for author, model in models.items():
            line[author] = await scored(model, problem, config, before, after)
        for name, text in (("before", before), ("after", after)):
            line[name] = await asyncio.gather(
                *(
                    continued(models["target"], problem, config, text, seed)
                    for seed in range(options.continuations)
                )
            )
        lines.append(line)

    both: tuple[Author, ...] = ("draft", "target")
    async with open_models(config, both) as models:
        await asyncio.gather(*(one(chain, number, models) for chain, number in picked))
    lines.sort(key=lambda line: (line["problem"], line["sample"], line["turn"]))
    options.out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    print(f"{len(lines)} segments, {2 * options.continuations} continuations each")


def pick(chains: list[Chain], count: int) -> list[tuple[Chain, int]]:
    """Segments at random: a chain, and the number of a turn that was scored and is not its last."""
    generator = random.Random(0)
    generator.shuffle(chains)
    of_problem: dict[str, int] = defaultdict(int)
    picked: list[tuple[Chain, int]] = []
    for chain in chains:
        numbers = [n for n, turn in enumerate(chain.turns[:-1]) if turn.decision]
        if numbers and of_problem[chain.problem_id] < A_PROBLEM and len(picked) < count:
            of_problem[chain.problem_id] += 1
            picked.append((chain, generator.choice(numbers)))
    return picked


async def scored(
    model: Model, problem: Problem, config: Config, before: str, after: str
) -> dict[str, list[Any]]:
    """Of each token of a segment: its log-probability, and the largest ones at its position."""
    prefix = model.tokenizer.prompt(problem, config.prompt) + model.tokenizer.encode(before)
    ids = prefix + model.tokenizer.encode(after[len(before) :])
    found = await model.engine.score(ScoreRequest(ids, len(prefix), ChainMark(), top=TOP))
    top = [] if found.top is None else found.top.round(3).tolist()
    return {"logprobs": found.logprobs.round(3).tolist(), "top": top}


def scores_of(line: dict[str, Any]) -> dict[str, float]:
    """Every kind of score of a labelled segment, and some that are none."""
    target, draft = (np.array(line[author]["logprobs"]) for author in ("target", "draft"))
    same = len(target) == len(draft)
    top = {author: np.array(line[author]["top"]) for author in ("target", "draft")}
    segment = SegmentLogprobs(
        target, draft if same else None, top["target"] if len(top["target"]) else None
    )
    scores = all_scores(segment, ScoreOptions())
    if len(top["draft"]):
        entropy = -(np.exp(top["draft"]) * top["draft"]).sum(axis=1)
        scores["* draft's entropy, first token"] = float(entropy[0])
        scores["* draft's entropy, mean"] = float(entropy.mean())
    if same:
        scores["* mean ratio"] = float((draft - target).mean())
        scores["* mean of the draft's surprise"] = -float(draft.mean())
    if segment.top is not None:
        lost = segment.top[:, 0] - target  # to the target's first choice
        scores["* mean margin"] = float(lost.mean())
        scores["* largest margin"] = float(lost.max())
    scores["* position of the segment"] = float(line["turn"])
    return scores


async def continued(
    model: Model, problem: Problem, config: Config, text: str, seed: int
) -> str | None:
    """The answer that the target comes to from a text; None: none."""
    ids = model.tokenizer.prompt(problem, config.prompt) + model.tokenizer.encode(text)
    sampling = Sampling(
        max_tokens=LONGEST,
        temperature=config.sampling.temperature,
        top_p=config.sampling.top_p,
        seed=seed,
    )
    try:
        completion = await model.engine.generate(GenerateRequest(ids, sampling, ChainMark()))
    except EngineError as error:
        print(f"a continuation of {problem.id} failed: {error}")
        return None
    return extract_answer(text + model.tokenizer.decode(list(completion.token_ids)))


def print_separations(options: argparse.Namespace) -> None:
    golds = {
        line["id"]: line["answer"]
        for line in map(json.loads, options.problems.read_text(encoding="utf-8").splitlines())
    }
    lines = [json.loads(line) for line in options.labels.read_text(encoding="utf-8").splitlines()]
    pairs = {
        (golds[line["problem"]], answer)
        for line in lines
        for answer in line["before"] + line["after"]
        if answer is not None
    }
    with Grader(cache=VerdictCache()) as grader:
        verdicts = grader.compare(pairs)

    def share(line: dict[str, Any], name: str) -> float:
        gold = golds[line["problem"]]
        return sum(verdicts.get((gold, a)) is True for a in line[name] if a) / len(line[name])

    drops = [share(line, "before") - share(line, "after") for line in lines]
    spoilt = [drop >= options.drop for drop in drops]
    print(
        f"{len(lines)} segments of {len({line['problem'] for line in lines})} problems; "
        f"{sum(spoilt)} drop by at least {options.drop:g}; mean drop {sum(drops) / len(drops):.3f}"
    )
    scores = [scores_of(line) for line in lines]
    for kind in sorted(set.intersection(*map(set, scores))):
        found = clustered_auroc(
            [each[kind] for each in scores], spoilt, [line["problem"] for line in lines]
        )
        print(f"{kind:>32}  AUROC {found.estimate:.3f} ({found.low:.3f}-{found.high:.3f})")


if __name__ == "__main__":
    main()
