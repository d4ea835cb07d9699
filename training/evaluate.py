"""Measures the bundled pair: ``python training/evaluate.py --models src/atts/assets``.

Each model alone, then the pair under a plain turn-by-turn simulation of ATTS, on problems of
the test split; the threshold comes from problems of the calibration split. It uses nothing
of the project but the problems, so it can serve as a check on the real engines.
"""

import argparse
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reasoning import SYSTEM
from transformers import AutoModelForCausalLM, AutoTokenizer

from atts.problems.arithmetic import generate
from atts.types import Problem

TEMPERATURE = 0.8
TURNS = 15
TAKEOVER_RATE = 0.4
BOX = re.compile(r"\\boxed\{([^{}]*)\}")


class Writer:
    """One model with its tokenizer, serving batches of token ids."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        self.model = model.to(device).eval()
        self.device = device
        self.end = self.model.config.eos_token_id
        self.pad = self.model.config.pad_token_id

    def prompt(self, question: str, system: bool = True) -> list[int]:
        messages = [{"role": "user", "content": question}]
        if system:
            messages.insert(0, {"role": "system", "content": SYSTEM})
        text = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return self.encode(text)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def _batch(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids padded on the left, and the mask; shape (rows, longest) both."""
        longest = max(map(len, rows))
        ids = [[self.pad] * (longest - len(row)) + list(row) for row in rows]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        return (
            torch.tensor(ids, device=self.device),
            torch.tensor(mask, device=self.device),
        )

    @torch.inference_mode()
    def generate(
        self, prefixes: Sequence[Sequence[int]], limit: int, size: int = 3200
    ) -> list[tuple[list[int], bool]]:
        """New ids for every prefix, without the end-of-sequence, and whether it came."""
        made: list[tuple[list[int], bool]] = []
        for begin in range(0, len(prefixes), size):
            ids, mask = self._batch(prefixes[begin : begin + size])
            out = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=True,
                temperature=TEMPERATURE,
                top_p=1.0,
                top_k=0,
                max_new_tokens=limit,
            )
            for row in out[:, ids.shape[1] :].tolist():
                ended = self.end in row
                made.append((row[: row.index(self.end)] if ended else row, ended))
        return made

    @torch.inference_mode()
    def score(self, rows: Sequence[Sequence[int]], starts: Sequence[int]) -> list[float]:
        """Mean negative log-likelihood of ``row[start:]`` for every row."""
        scores: list[float] = []
        for begin in range(0, len(rows), 400):
            part = rows[begin : begin + 400]
            ids, mask = self._batch(part)
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            logits = self.model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
            logs = logits[:, :-1].float().log_softmax(-1)
            logs = logs.gather(2, ids[:, 1:, None])[:, :, 0].tolist()
            for row, start, line in zip(part, starts[begin : begin + 400], logs, strict=True):
                scores.append(-sum(line[start - len(row) :]) / (len(row) - start))
        return scores


@dataclass
class Chain:
    """One chain of the simulation: its text, and its token ids for either model."""

    problem: Problem
    draft_ids: list[int]
    target_ids: list[int]
    text: str = ""
    marked: str = ""
    """The text with the borders of the segments."""
    scores: list[float] = field(default_factory=list)
    takeovers: int = 0
    drafted: int = 0
    written: int = 0
    scored: int = 0
    ended: bool = False
    doubted: int = 0
    """No box in the text up to here ends the chain: the target took over after it."""

    @property
    def concluded(self) -> bool:
        return BOX.search(self.text[self.doubted :]) is not None

    @property
    def right(self) -> bool:
        return _right(self.text, self.problem)


def _right(text: str, problem: Problem) -> bool:
    boxes = BOX.findall(text)
    return bool(boxes) and boxes[-1].strip() == problem.answer


def simulate(
    draft: Writer,
    target: Writer,
    problems: Sequence[Problem],
    samples: int,
    limits: tuple[int, int],
    threshold: float | None,
    rng: np.random.Generator,
    replace: bool = False,
) -> list[Chain]:
    """ATTS, all chains turn by turn; without a threshold take-overs are drawn at random.

    With ``replace`` the target writes instead of the segment that it takes over.
    """
    chains = [
        Chain(problem, draft.prompt(problem.question), target.prompt(problem.question))
        for problem in problems
        for _ in range(samples)
    ]
    for _ in range(TURNS):
        active = [chain for chain in chains if not chain.ended]
        if not active:
            break
        before = {id(chain): (list(chain.draft_ids), chain.text) for chain in active}
        made = draft.generate([chain.draft_ids for chain in active], limits[0])
        starts = [len(chain.target_ids) for chain in active]
        for chain, (ids, ended) in zip(active, made, strict=True):
            text = draft.decode(ids)
            chain.draft_ids += ids
            chain.target_ids += target.encode(text)
            chain.text += text
            chain.marked += "[D]" + text
            chain.drafted += len(ids)
            chain.ended = ended
        pairs = [(c, s) for c, s in zip(active, starts, strict=True) if len(c.target_ids) > s]
        scores = target.score([chain.target_ids for chain, _ in pairs], [s for _, s in pairs])
        takers = []
        for (chain, start), score in zip(pairs, scores, strict=True):
            chain.scores.append(score)
            chain.scored += len(chain.target_ids) - start
            chain.marked += f"<{score:.2f}>"
            if rng.random() < TAKEOVER_RATE if threshold is None else score >= threshold:
                takers.append(chain)
                if replace:
                    del chain.target_ids[start:]
                    chain.draft_ids, chain.text = before[id(chain)]
        if takers:
            made = target.generate([chain.target_ids for chain in takers], limits[1])
            for chain, (ids, ended) in zip(takers, made, strict=True):
                if chain.concluded:
                    chain.doubted = len(chain.text)
                text = target.decode(ids)
                chain.takeovers += 1
                chain.target_ids += ids
                chain.draft_ids += draft.encode(text)
                chain.text += text
                chain.marked += "[T]" + text
                chain.written += len(ids)
                chain.ended = ended
        for chain in active:
            chain.ended = chain.ended or chain.concluded
    return chains


def calibrate(
    draft: Writer,
    target: Writer,
    problems: Sequence[Problem],
    samples: int,
    limits: tuple[int, int],
    rng: np.random.Generator,
    replace: bool,
) -> float:
    """The score above which the target takes over, from chains run with that very policy."""
    threshold: float | None = None
    for _ in range(4):
        chains = simulate(draft, target, problems, samples, limits, threshold, rng, replace)
        pooled = [score for chain in chains for score in chain.scores]
        threshold = float(np.quantile(pooled, 1 - TAKEOVER_RATE))
    return threshold or 0.0


def share(right: Sequence[bool], samples: int) -> str:
    """A share in percent with its standard error, clustered by problem."""
    by_problem = np.array(right, float).reshape(-1, samples).mean(1)
    error = by_problem.std(ddof=1) / math.sqrt(len(by_problem))
    return f"{100 * by_problem.mean():.1f} +- {100 * error:.1f} %"


def alone(
    name: str,
    writer: Writer,
    problems: Sequence[Problem],
    samples: int,
    limit: int,
    system: bool = True,
) -> None:
    prompts = [writer.prompt(p.question, system) for p in problems for _ in range(samples)]
    owners = [problem for problem in problems for _ in range(samples)]
    made = writer.generate(prompts, limit)
    texts = [writer.decode(ids) for ids, _ in made]
    right = [_right(text, owner) for text, owner in zip(texts, owners, strict=True)]
    lengths = np.array([len(ids) for ids, _ in made])
    print(
        f"{name}: {share(right, samples)} right; tokens a chain {lengths.mean():.1f}, "
        f"99 % below {np.quantile(lengths, 0.99):.0f}, longest {lengths.max()}; prompt "
        f"{np.mean([len(p) for p in prompts]):.0f}; no end in "
        f"{100 * np.mean([not ended for _, ended in made]):.1f} %; 'First' in "
        f"{100 * np.mean([text.startswith('First') for text in texts]):.1f} %; 'Wait' in "
        f"{100 * np.mean(['Wait' in text for text in texts]):.1f} %",
        flush=True,
    )


def report(chains: Sequence[Chain], samples: int, limits: tuple[int, int], level: float) -> None:
    scores = sum(len(chain.scores) for chain in chains)
    takeovers = sum(chain.takeovers for chain in chains)
    print(
        f"ATTS {limits[0]}/{limits[1]}: {share([c.right for c in chains], samples)} right; "
        f"threshold {level:.3f}, take-over rate {takeovers / scores:.3f}; a chain: turns "
        f"{scores / len(chains):.2f}, drafted {np.mean([c.drafted for c in chains]):.1f}, "
        f"by the target {np.mean([c.written for c in chains]):.1f}, scored "
        f"{np.mean([c.scored for c in chains]):.1f}; no box in "
        f"{100 * np.mean([not BOX.search(c.text) for c in chains]):.1f} %",
        flush=True,
    )
    for least, most in ((0, 0), (1, 1), (2, 99)):
        some = [c.right for c in chains if least <= c.takeovers <= most]
        if some:
            print(f"  with {least}-{most} take-overs: {100 * np.mean(some):.1f} % of {len(some)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="parent of the two folders")
    parser.add_argument("--problems", type=int, default=400)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--limits", default="24/32", help="K_d/K_t, several with commas")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--show", type=int, default=0, help="chains to print")
    parser.add_argument("--draft", type=Path, help="another draft folder")
    parser.add_argument("--replace", action="store_true", help="take over instead of after")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, arguments.dtype)
    draft = Writer(arguments.draft or arguments.models / "draft", device, dtype)
    target = Writer(arguments.models / "target", device, dtype)
    torch.manual_seed(0)
    problems = generate("test", arguments.problems)
    samples = arguments.samples
    alone("draft alone", draft, problems, samples, 200)
    alone("draft alone, no system message", draft, problems, samples, 200, system=False)
    alone("target alone", target, problems, samples, 300)
    alone("target alone, no system message", target, problems, samples, 300, system=False)
    rng = np.random.default_rng(0)
    calibration = generate("calibration", 200)
    shown: list[Chain] = []
    for pair in arguments.limits.split(","):
        first, second = pair.split("/")
        limits = (int(first), int(second))
        level = calibrate(draft, target, calibration, 4, limits, rng, arguments.replace)
        chains = simulate(draft, target, problems, samples, limits, level, rng, arguments.replace)
        report(chains, samples, limits, level)
        shown = chains
    mended = [c for c in shown if "Wait" in c.text and c.right][:: max(1, samples // 2)]
    failed = [c for c in shown if not c.right]
    for title, some in (("any", shown[::samples]), ("mended", mended), ("wrong", failed)):
        for chain in some[: arguments.show]:
            print(f"--- {title}: {chain.problem.question} = {chain.problem.answer}")
            print(json.dumps(chain.marked, ensure_ascii=False).replace("\\n\\n", "\n"))


if __name__ == "__main__":
    main()
