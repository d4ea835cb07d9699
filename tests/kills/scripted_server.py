"""A server that speaks SGLang's protocol and writes what its seeds say, at once or never.

Run as a program it stands in for the Python that has SGLang. It tells at ``/counts`` how many
requests it works on, and how many were aborted.
"""

import argparse
import asyncio
import hashlib
import sys
from typing import Any

from aiohttp import web
from tokenizers import Tokenizer

CONTEXT = 2048
ANSWERS = ("x+1", "1+x", r"\frac{2x+2}{2}", "x", r"\sqrt{8}", r"2\sqrt{2}", "7", r"\frac{14}{2}")
"""Some pairs of them are the same only by algebra."""


class ScriptedServer:
    def __init__(self, model_path: str, seconds: float) -> None:
        self.model_path = model_path
        self.seconds = seconds
        """How long a request takes."""
        self.working = self.aborted = 0
        self._tokenizer = Tokenizer.from_file(f"{model_path}/tokenizer.json")
        self._tasks: dict[str, asyncio.Task[web.Response]] = {}
        self.app = web.Application()
        self.app.router.add_get("/health", self.health)
        self.app.router.add_get("/v1/models", self.models)
        self.app.router.add_get("/server_info", self.server_info)
        self.app.router.add_get("/v1/loads", self.loads)
        self.app.router.add_get("/counts", self.counts)
        self.app.router.add_post("/generate", self.generate)
        self.app.router.add_post("/abort_request", self.abort)

    async def health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def models(self, _: web.Request) -> web.Response:
        card = {"id": self.model_path, "root": self.model_path, "max_model_len": CONTEXT}
        return web.json_response({"data": [card]})

    async def server_info(self, _: web.Request) -> web.Response:
        info = {"version": "0.5.12", "enable_deterministic_inference": True}
        return web.json_response(info | {"model_path": self.model_path})

    async def loads(self, _: web.Request) -> web.Response:
        rank = {"num_running_reqs": self.working, "num_waiting_reqs": 0, "token_usage": 0.1}
        return web.json_response({"loads": [rank]})

    async def counts(self, _: web.Request) -> web.Response:
        return web.json_response({"working": self.working, "aborted": self.aborted})

    async def generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        # As there, closing the connection alone aborts nothing.
        task = asyncio.create_task(self._answer(body))
        self._tasks[body["rid"]] = task
        try:
            return await asyncio.shield(task)
        finally:
            self._tasks.pop(body["rid"], None)

    async def abort(self, request: web.Request) -> web.Response:
        if task := self._tasks.get((await request.json())["rid"]):
            task.cancel()
        return web.Response()

    async def _answer(self, body: dict[str, Any]) -> web.Response:
        self.working += 1
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.aborted += 1
            return web.json_response({"meta_info": {"finish_reason": {"type": "abort"}}})
        finally:
            self.working -= 1
        ids: list[int] = body["input_ids"]
        meta: dict[str, Any] = {"finish_reason": {"type": "length"}, "cached_tokens": 0}
        output: list[int] = []
        if "logprob_start_len" in body:
            start = body["logprob_start_len"] + 1
            meta["input_token_logprobs"] = [
                [None, ids[start - 1], None],
                *(
                    [-likely(ids[: place + 1]), ids[place], None]
                    for place in range(start, len(ids))
                ),
            ]
        else:
            options = body["sampling_params"]
            text = written(options["sampling_seed"])
            output = self._tokenizer.encode(text, add_special_tokens=False).ids
            output = output[: options["max_new_tokens"]]
        return web.json_response({"output_ids": output, "meta_info": meta})


def written(seed: int) -> str:
    """An answer in every third segment or so."""
    number = drawn(str(seed))
    if number % 3:
        return f" Step {number % 1000}: so it goes on."
    return f" So it is \\boxed{{{ANSWERS[number % len(ANSWERS)]}}}."


def likely(ids: list[int]) -> float:
    return drawn(str(ids[-3:])) % 400 / 100


def drawn(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


def main() -> None:
    if sys.argv[1] == "-c":  # asked whether the package is installed
        raise SystemExit
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-path", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=0.01)
    arguments, _ = parser.parse_known_args()
    server = ScriptedServer(arguments.model_path, arguments.seconds)
    web.run_app(server.app, host="127.0.0.1", port=arguments.port, print=None)


if __name__ == "__main__":
    main()
