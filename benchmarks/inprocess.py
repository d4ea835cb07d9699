"""Tokens per second of the in-process engine against plain transformers, in one process.

The same requests, prompts of the bundled problems at temperature 0.8 until the model stops,
are served three ways: by ``transformers.generate`` one at a time, by ``transformers.generate``
as one static batch, and by the engine at several concurrencies. Rounds alternate between the
ways, so that a machine that slows down slows them all; the table shows medians and ratios.

    python benchmarks/inprocess.py [--model bundled/target] [--rounds 3]
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from atts.config import ModelOptions, PromptOptions
from atts.engines.base import GenerateRequest, Sampling
from atts.engines.inprocess.engine import InProcessEngine, end_of_sequence_ids, load_model
from atts.models.model_files import model_path
from atts.models.prompts import Tokenizer
from atts.problems.arithmetic import generate

MOST_TOKENS = 256
"""Longest completion; the bundled models stop well before."""

ALONE = 8
"""Requests that are served one at a time: enough for a rate, as each waits for nobody."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="bundled/target")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()

    options = ModelOptions(model=arguments.model)
    tokenizer = Tokenizer.load(options)
    prompts = [
        tokenizer.prompt(problem, PromptOptions())
        for problem in generate("test", arguments.requests)
    ]
    rates = asyncio.run(measure(options, prompts, arguments.rounds))
    if arguments.json:
        print(json.dumps(rates))
    else:
        show(rates)


async def measure(
    options: ModelOptions, prompts: list[list[int]], rounds: int
) -> dict[str, list[float]]:
    """Tokens per second of each way, one figure a round."""
    model = load_model(options, model_path(options.model))
    engine = InProcessEngine(model, options.cache_tokens)
    rates: dict[str, list[float]] = {}
    for round_number in range(rounds + 1):
        figures = {
            "generate, one at a time": timed(lambda: plain(model, prompts[:ALONE], 1)),
            f"generate, a static batch of {len(prompts)}": timed(
                lambda: plain(model, prompts, len(prompts))
            ),
        }
        for concurrency in (1, 16, 64):
            served = prompts[:ALONE] if concurrency == 1 else prompts
            figures[f"engine, {concurrency} at a time"] = await concurrent(
                engine, served, concurrency, round_number
            )
        if round_number:  # the first round warms up
            for name, rate in figures.items():
                rates.setdefault(name, []).append(rate)
    await engine.aclose()
    return rates


def timed(work: Callable[[], int]) -> float:
    started = time.perf_counter()
    tokens = work()
    return tokens / (time.perf_counter() - started)


def plain(model: Any, prompts: list[list[int]], batch_size: int) -> int:  # noqa: ANN401
    """Serve prompts with ``transformers.generate``; the number of tokens written."""
    pad = model.generation_config.pad_token_id
    tokens = 0
    for first in range(0, len(prompts), batch_size):
        batch = prompts[first : first + batch_size]
        longest = max(map(len, batch))
        ids = torch.tensor([[pad] * (longest - len(p)) + p for p in batch], device=model.device)
        mask = torch.tensor(
            [[0] * (longest - len(p)) + [1] * len(p) for p in batch], device=model.device
        )
        written = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            temperature=0.8,
            top_k=0,
            max_new_tokens=MOST_TOKENS,
        )[:, longest:]
        ends = end_of_sequence_ids(model)
        for row in written.tolist():
            tokens += next((i for i, token in enumerate(row) if token in ends), len(row))
    return tokens


async def concurrent(
    engine: InProcessEngine, prompts: list[list[int]], concurrency: int, seed: int
) -> float:
    room = asyncio.Semaphore(concurrency)

    async def serve(index: int, prompt: list[int]) -> int:
        sampling = Sampling(MOST_TOKENS, 0.8, 1.0, seed * 1000 + index)
        async with room:
            return len((await engine.generate(GenerateRequest(prompt, sampling))).token_ids)

    started = time.perf_counter()
    counts = await asyncio.gather(*(serve(i, p) for i, p in enumerate(prompts)))
    return sum(counts) / (time.perf_counter() - started)


def show(rates: dict[str, list[float]]) -> None:
    medians = {name: statistics.median(figures) for name, figures in rates.items()}
    one_at_a_time, static_batch, *_ = medians.values()
    table = Table("", "tokens/s", "min", "max", "x one at a time", "x static batch")
    for name, median in medians.items():
        table.add_row(
            name,
            f"{median:,.0f}",
            f"{min(rates[name]):,.0f}",
            f"{max(rates[name]):,.0f}",
            f"{median / one_at_a_time:.2f}",
            f"{median / static_batch:.2f}",
        )
    Console().print(table)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
