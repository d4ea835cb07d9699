#!/usr/bin/env python3
"""Stands in for the Python that has SGLang, to try the benchmark without a GPU: it answers as one
would, and takes a little time for each token. Run as ``stand_in.py -m sglang.launch_server ...``.
"""

import argparse
import asyncio
import random
import sys
from typing import Any

from aiohttp import web

SECONDS_A_TOKEN = 1e-4
CACHE_TOKENS = 100_000


class StandIn:
    def __init__(self, model: str) -> None:
        self.model = model
        self.working = 0
        self.held: dict[int, int] = {}  # by hash of a beginning of 16 tokens: its length

    async def models(self, _: web.Request) -> web.Response:
        card = {"id": self.model, "root": self.model, "max_model_len": 32_768}
        return web.json_response({"object": "list", "data": [card]})

    async def info(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "stand-in", "model_path": self.model})

    async def loads(self, _: web.Request) -> web.Response:
        load = {
            "num_running_reqs": self.working,
            "num_waiting_reqs": 0,
            "token_usage": 0.1,
            "num_used_tokens": CACHE_TOKENS // 10,
            "max_total_num_tokens": CACHE_TOKENS,
        }
        return web.json_response({"loads": [load]})

    async def nothing(self, _: web.Request) -> web.Response:
        return web.Response(text="")

    async def generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        ids, start = body["input_ids"], body.get("logprob_start_len", -1)
        tokens = body["sampling_params"]["max_new_tokens"]
        beginning = hash(tuple(ids[:16]))
        cached = min(self.held.get(beginning, 0), len(ids) - 1 if start < 0 else start)
        self.working += 1
        try:
            await asyncio.sleep(SECONDS_A_TOKEN * tokens)
        finally:
            self.working -= 1
        self.held[beginning] = len(ids)
        meta: dict[str, Any] = {
            "finish_reason": {"type": "length", "length": tokens},
            "cached_tokens": cached,
        }
        if start >= 0:
            rest = [[-0.5, token, None] for token in ids[start + 1 :]]
            meta["input_token_logprobs"] = [[None, ids[start], None], *rest]
        written = random.choices(range(4, 100), k=tokens)
        return web.json_response({"text": "", "output_ids": written, "meta_info": meta})


def main() -> None:
    if sys.argv[1] == "-c":  # asked whether SGLang is installed
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("-m")
    parser.add_argument("--port", type=int)
    parser.add_argument("--model-path")
    options, _ = parser.parse_known_args()
    stand_in = StandIn(options.model_path)
    app = web.Application()
    app.router.add_get("/v1/models", stand_in.models)
    app.router.add_get("/server_info", stand_in.info)
    app.router.add_get("/v1/loads", stand_in.loads)
    app.router.add_get("/health", stand_in.nothing)
    app.router.add_get("/flush_cache", stand_in.nothing)
    app.router.add_post("/abort_request", stand_in.nothing)
    app.router.add_post("/generate", stand_in.generate)
    web.run_app(app, host="127.0.0.1", port=options.port, print=None)


if __name__ == "__main__":
    main()
