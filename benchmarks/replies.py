"""Our own processor time for what a server replies: parsed, checked, believed.

    python benchmarks/replies.py [--tokens 500] [--rounds 9]

A turn of a chain of 4,000 tokens at SGLang and at vLLM: so many tokens are written, and so many
scored. The replies are at hand as bytes, so that nothing but the engines' own work is timed, by the
processor's clock: the best of all rounds.
"""

import argparse
import asyncio
import base64
import io
import random
import time
from typing import Any

import numpy as np
import orjson

from atts.config import ModelOptions
from atts.engines.base import GenerateRequest, Sampling, ScoreRequest
from atts.engines.http import HttpClient
from atts.engines.remote import RemoteEngine, ServerFacts
from atts.engines.sglang import SGLangEngine
from atts.engines.vllm import Scoring, VllmEngine

CHAIN = 4_001
"""Not a whole number of blocks, where vLLM is asked twice."""
VOCABULARY = 32_000
END = frozenset({2})
TURNS = 100


class Prepared(HttpClient):
    """Sends nothing, and gives back one of two replies."""

    def __init__(self, written: Any, scored: Any) -> None:  # noqa: ANN401 - JSON
        super().__init__("http://127.0.0.1:1", "benchmark")
        self._replies = (orjson.dumps(written), orjson.dumps(scored))

    async def _request(self, *request: Any, **_: Any) -> bytes:  # noqa: ANN401
        return self._replies[b"prob_start" in request[2]]


def sglang(ids: list[int], last: int, logprobs: list[float]) -> RemoteEngine:
    end = {"finish_reason": {"type": "length", "length": len(ids)}, "cached_tokens": CHAIN - 100}
    rows = [[None, last, None]]
    scored = rows + [[p, i, None] for p, i in zip(logprobs, ids, strict=True)]
    client = Prepared(
        {"text": "word " * len(ids), "output_ids": ids, "meta_info": end},
        {"output_ids": [1], "meta_info": end | {"input_token_logprobs": scored}},
    )
    return SGLangEngine(client, ModelOptions(model="m", engine="sglang"), VOCABULARY, END)


def vllm(ids: list[int], logprobs: list[float]) -> RemoteEngine:
    file = io.BytesIO()
    np.save(file, np.array(logprobs, dtype=np.float32)[:, None])
    usage = {"prompt_tokens_details": {"cached_tokens": CHAIN - 100}}
    choice = {"token_ids": ids, "finish_reason": "length", "stop_reason": None}
    reply = {"choices": [choice], "usage": usage}
    array = base64.b64encode(file.getvalue()).decode()
    client = Prepared(reply, reply | {"prompt_token_id_logprobs": array})
    engine = VllmEngine(client, ModelOptions(model="m", engine="vllm"), VOCABULARY, END)
    engine._scoring = Scoring.TOKEN_IDS
    return engine


async def measure(engine: RemoteEngine, chain: list[int], ids: list[int], rounds: int) -> float:
    """Microseconds of the processor for a turn."""
    engine._facts = ServerFacts("1", "m", 100_000, "")
    write = GenerateRequest(chain, Sampling(len(ids), 0.8, 1.0, 1))
    score = ScoreRequest(chain + ids, CHAIN)
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(TURNS):
            await engine.generate(write)
            await engine.score(score)
        best = min(best, time.process_time() - began)
    return 1e6 * best / TURNS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    rng = random.Random(0)
    chain, ids = (
        [rng.randrange(3, VOCABULARY) for _ in range(n)] for n in (CHAIN, arguments.tokens)
    )
    logprobs = [-rng.random() for _ in ids]
    for name, engine in (
        ("sglang", sglang(ids, chain[-1], logprobs)),
        ("vllm", vllm(ids, logprobs)),
    ):
        microseconds = asyncio.run(measure(engine, chain, ids, arguments.rounds))
        print(f"{name}: {microseconds:,.0f} us of CPU a turn")


if __name__ == "__main__":
    main()
