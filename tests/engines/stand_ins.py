"""Servers that speak the protocols of SGLang and vLLM, with a tiny model behind.

What they accept, refuse and send is that of SGLang 0.5.12 (``managers/io_struct.py``,
``tokenizer_manager.py``) and vLLM 0.32.0 (``entrypoints/scale_out/token_in_token_out``,
``v1/worker``), read from their sources; the text of a token id is the character of that number.
"""

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from aiohttp import web
from transformers import PreTrainedModel

from atts.engines.base import Completion, Engine, GenerateRequest, Sampling, ScoreRequest
from atts.engines.inprocess.engine import InProcessEngine

BLOCK = 16
VllmVersion = Literal["v2", "v1", "v1-nan", "0.26", "no-details", "completions"]

SGLANG_REQUEST = {
    "rid",
    "input_ids",
    "sampling_params",
    "return_logprob",
    "logprob_start_len",
    "top_logprobs_num",
    "stream",
}
"""The fields of GenerateReqInput that a request may have here."""
SGLANG_SAMPLING = {
    "max_new_tokens",
    "temperature",
    "top_p",
    "top_k",
    "stop",
    "stop_token_ids",
    "sampling_seed",
}
"""The fields of SamplingParams that a request may have here."""


class PrefixCache:
    """Which beginnings of what was sent are held, in whole blocks."""

    def __init__(self, block: int) -> None:
        self._block = block
        self._held: set[tuple[int, ...]] = set()

    def add(self, ids: list[int]) -> None:
        ends = range(self._block, len(ids) + 1, self._block)
        self._held |= {tuple(ids[:end]) for end in ends}

    def hit(self, ids: list[int], most: int) -> int:
        """Length of the longest beginning that is held, up to ``most`` tokens."""
        length = most - most % self._block
        while length and tuple(ids[:length]) not in self._held:
            length -= self._block
        return length


class StandIn:
    """One server; ``app`` is what it answers."""

    def __init__(self, model: PreTrainedModel, block: int) -> None:
        self.engine: Engine = InProcessEngine(model, cache_tokens=10_000)
        self.cache = PrefixCache(block)
        self.computed = 0
        """Prompt tokens that were not cached, over all requests."""
        self.working = 0
        self.aborted = 0
        self.requests: list[dict[str, Any]] = []
        self.bodies: list[dict[str, Any]] = []
        """What was sent to be written or scored, as it came."""
        self.url = ""
        self.encode: Callable[[str], list[int]] = lambda text: list(map(ord, text))
        self.vocabulary: int = model.config.vocab_size
        self.context: int = model.config.max_position_embeddings
        self.end: int = model.config.eos_token_id
        self.app = web.Application()
        self.app.router.add_get("/health", self.health)
        self.app.router.add_post("/tokenize", self.tokenize)

    async def count_computed(self) -> int:
        return self.computed

    async def health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def tokenize(self, request: web.Request) -> web.Response:
        return web.json_response({"tokens": self.encode((await request.json())["prompt"])})

    async def work(self, ids: list[int], sampling: Sampling) -> tuple[list[int], str, Any]:
        """Ids written with the end-of-sequence, why it ended, and what it ended at."""
        self.working += 1
        try:
            done = await self.engine.generate(GenerateRequest(ids, replace(sampling, stop=())))
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        finally:
            self.working -= 1
        return stopped(done, sampling.stop, self.end)

    async def logprobs_of(self, ids: list[int], output: list[int]) -> list[float]:
        if not output:
            return []
        scored = await self.engine.score(ScoreRequest(ids + output, len(ids)))
        logprobs: list[float] = scored.logprobs.tolist()
        return logprobs


def stopped(done: Completion, stop: tuple[str, ...], end: int) -> tuple[list[int], str, Any]:
    """Where a server would have stopped."""
    for length in range(1, len(done.token_ids) + 1):
        text = "".join(map(chr, done.token_ids[:length]))
        for string in stop:
            if string in text:
                return list(done.token_ids[:length]), "stop", string
    if done.finish_reason == "stop":
        return [*done.token_ids, end], "stop", end
    return list(done.token_ids), "length", None


class SGLangStandIn(StandIn):
    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model, block=1)
        self.through_a_router = False
        """A router adds every field that it knows, with its default."""
        self._tasks: dict[str, asyncio.Task[dict[str, Any]]] = {}
        self.app.router.add_get("/v1/models", self.models)
        self.app.router.add_get("/server_info", self.server_info)
        self.app.router.add_get("/v1/loads", self.loads)
        self.app.router.add_post("/generate", self.generate)
        self.app.router.add_post("/abort_request", self.abort)

    async def models(self, _: web.Request) -> web.Response:
        card = {"id": "tiny", "root": "tiny", "max_model_len": self.context}
        return web.json_response({"object": "list", "data": [card]})

    async def server_info(self, _: web.Request) -> web.Response:
        return web.json_response(
            {"version": "0.5.12", "model_path": "tiny", "enable_deterministic_inference": True}
        )

    async def loads(self, _: web.Request) -> web.Response:
        rank = {"dp_rank": 0, "num_running_reqs": self.working, "num_waiting_reqs": 0}
        return web.json_response({"version": "0.5.12", "loads": [rank | {"token_usage": 0.25}]})

    async def abort(self, request: web.Request) -> web.Response:
        rid = (await request.json())["rid"]
        for known, task in list(self._tasks.items()):
            if known.startswith(rid):
                task.cancel()
        return web.Response()

    async def generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append(body)
        self.bodies.append(body)
        assert self.through_a_router or set(body) <= SGLANG_REQUEST, body.keys()
        assert set(body["sampling_params"]) <= SGLANG_SAMPLING, body["sampling_params"].keys()
        ids, options = body["input_ids"], body["sampling_params"]
        if len(ids) >= self.context - 6:
            return _sglang_error(
                f"The input ({len(ids)} tokens) is longer than the model's context length "
                f"({self.context} tokens)."
            )
        if len(ids) + options["max_new_tokens"] > self.context:
            return _sglang_error("Requested token count exceeds the model's maximum context length")
        assert max(ids) < self.vocabulary, "this would have killed the server"
        # As there, closing the connection alone aborts nothing for some seconds.
        task = asyncio.create_task(self._answer(body, ids, options))
        # Its client may be gone before it ends: somebody must take note of how it ended.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._tasks[body["rid"]] = task
        try:
            return web.json_response(await asyncio.shield(task))
        except asyncio.CancelledError:
            if task.cancelled():
                end = {"type": "abort", "message": "Abort", "status_code": None, "err_type": None}
                return web.json_response({"output_ids": [], "meta_info": {"finish_reason": end}})
            raise
        finally:
            if task.done():
                self._tasks.pop(body["rid"], None)

    def _shown(self, token_id: int) -> int:
        """As there, where the last id of the vocabulary is taken for padding."""
        return token_id if token_id < self.vocabulary - 1 else 0

    async def _answer(
        self, body: dict[str, Any], ids: list[int], options: dict[str, Any]
    ) -> dict[str, Any]:
        meta: dict[str, Any] = {"id": body["rid"], "prompt_tokens": len(ids)}
        if body.get("return_logprob") and body.get("logprob_start_len", -1) >= 0:
            start = body["logprob_start_len"]
            cached = self.cache.hit(ids, start)
            scored = await self.engine.score(ScoreRequest(ids, start + 1))
            meta["input_token_logprobs"] = [
                [None, self._shown(ids[start]), None],
                *(
                    [logprob, self._shown(i), None]
                    for logprob, i in zip(scored.logprobs.tolist(), ids[start + 1 :], strict=True)
                ),
            ]
            if top := body.get("top_logprobs_num"):
                found = (await self.engine.score(ScoreRequest(ids, start + 1, top=top))).top
                assert found is not None
                rows = [[[logprob, 0, None] for logprob in row] for row in found.tolist()]
                meta["input_top_logprobs"] = [None, *rows]
            output, end = [self.end], {"type": "length", "length": 1}
        else:
            sampling = Sampling(
                max_tokens=options["max_new_tokens"],
                temperature=options["temperature"],
                top_p=options["top_p"],
                seed=options["sampling_seed"],
                stop=tuple(options["stop"]),
            )
            cached = self.cache.hit(ids, len(ids) - 1)
            output, kind, matched = await self.work(ids, sampling)
            if body.get("return_logprob"):
                logprobs = await self.logprobs_of(ids, output)
                meta["output_token_logprobs"] = [
                    [logprob, i, None] for logprob, i in zip(logprobs, output, strict=True)
                ]
            if len(output) == sampling.max_tokens:  # the limit is looked at before the end
                kind = "length"
            end = {"type": kind}
            end |= {"matched": matched} if kind == "stop" else {"length": len(output)}
        self.cache.add(ids + output[:-1])
        self.computed += len(ids) - cached
        meta |= {"finish_reason": end, "cached_tokens": cached, "completion_tokens": len(output)}
        return {"text": "".join(map(chr, output)), "output_ids": output, "meta_info": meta}


def _sglang_error(message: str) -> web.Response:
    error = {"object": "error", "message": message, "type": "BadRequestError", "code": 400}
    return web.json_response({"error": error}, status=400)


class VllmStandIn(StandIn):
    """``version`` is that of the model runner, or what an older or other server lacks."""

    def __init__(self, model: PreTrainedModel, version: VllmVersion) -> None:
        super().__init__(model, BLOCK)
        self.version = version
        self.app.router.add_get("/v1/models", self.models)
        self.app.router.add_get("/version", self.tell_version)
        self.app.router.add_get("/metrics", self.metrics)
        self.app.router.add_post("/v1/completions", self.completions)
        if version != "completions":
            self.app.router.add_post("/inference/v1/generate", self.generate)

    async def models(self, _: web.Request) -> web.Response:
        card = {"id": "tiny", "root": "/models/tiny", "max_model_len": self.context}
        return web.json_response({"object": "list", "data": [card]})

    async def metrics(self, _: web.Request) -> web.Response:
        label = '{engine="0",model_name="tiny"}'
        lines = (
            "# TYPE vllm:num_requests_running gauge",
            f"vllm:num_requests_running{label} {self.working}.0",
            "# TYPE vllm:num_requests_waiting gauge",
            f"vllm:num_requests_waiting{label} 0.0",
            "# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.",
            "# TYPE vllm:kv_cache_usage_perc gauge",
            f"vllm:kv_cache_usage_perc{label} 0.25",
        )
        return web.Response(text="\n".join(lines) + "\n")

    async def tell_version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "0.32.0"})

    async def generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        return await self._answer(body["token_ids"], body["sampling_params"])

    async def completions(self, request: web.Request) -> web.Response:
        body = await request.json()
        body.pop("skip_reading_prefix_cache", None)
        assert body["max_tokens"] > 0
        return await self._answer(body["prompt"], body, as_completion=True)

    async def _answer(
        self, ids: list[int], options: dict[str, Any], as_completion: bool = False
    ) -> web.Response:
        self.requests.append(options)
        if len(ids) + options["max_tokens"] > self.context:
            return _vllm_error(
                f"This model's maximum context length is {self.context} tokens. However, your "
                f"request has {len(ids)} input tokens."
            )
        if max(ids) >= self.vocabulary:
            return _vllm_error(f"Token id {max(ids)} is out of vocabulary")
        scored_ids = options.get("prompt_logprob_token_ids")
        if scored_ids is not None and self.version != "v2":
            return _vllm_error("prompt_logprob_token_ids requires the V2 model runner")
        scores = scored_ids is not None or "prompt_logprobs" in options
        skip = options.get("skip_reading_prefix_cache", scores)
        cached = 0 if skip else self.cache.hit(ids, len(ids) - 1)
        reply: dict[str, Any] = {"prompt_logprobs": None, "prompt_token_id_logprobs": None}
        if scores and cached and self.version == "v1-nan":
            return _vllm_error("Out of range float values are not JSON compliant")
        if scores:
            reply |= await self._score(ids, options, cached)
        sampling = Sampling(
            max_tokens=options["max_tokens"],
            temperature=options.get("temperature", 1.0),
            top_p=options.get("top_p", 1.0),
            seed=options.get("seed", 0),
            stop=tuple(options.get("stop", ())),
        )
        output, reason, at = await self.work(ids, sampling)
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "token_ids": output}
        choice |= {"stop_reason": at if isinstance(at, str) else None, "logprobs": None}
        if self.version == "0.26" and not as_completion:
            del choice["stop_reason"]
        if options.get("logprobs") in (0, 1) and "logprob_token_ids" not in options:
            logprobs = await self.logprobs_of(ids, output)
            choice["logprobs"] = {"content": [{"logprob": value} for value in logprobs]}
            if as_completion:
                choice["logprobs"] = {"token_logprobs": logprobs}
        if wanted := options.get("logprob_token_ids"):
            assert options["logprobs"] == len(wanted)
            choice["logprobs"] = {"content": [await self._next(ids, output[0], wanted)]}
        self.cache.add(ids + output[:-1])
        self.computed += len(ids) - cached
        details = None if self.version == "no-details" else {"cached_tokens": cached}
        usage = {"prompt_tokens": len(ids), "prompt_tokens_details": details}
        if as_completion:
            choice |= {"prompt_logprobs": reply["prompt_logprobs"], "text": ""}
            if not options.get("return_token_ids"):
                choice["token_ids"] = None
        return web.json_response({**reply, "usage": usage, "choices": [choice]})

    async def _score(self, ids: list[int], options: dict[str, Any], cached: int) -> dict[str, Any]:
        # The row of a token comes from the state of the token before it.
        logprobs = np.empty(0)  # where all tokens but the last are cached
        if cached + 1 < len(ids):
            logprobs = (await self.engine.score(ScoreRequest(ids, cached + 1))).logprobs
        if "prompt_logprob_token_ids" in options:
            first = options["prompt_logprob_start"]
            rows = options["prompt_logprob_token_ids"]
            assert [row for (row,) in rows] == ids[first + 1 :]
            if cached > first:
                return {}
            file = io.BytesIO()
            np.save(file, logprobs[first - cached :, None].astype(np.float32))
            return {"prompt_token_id_logprobs": base64.b64encode(file.getvalue()).decode()}
        assert options.get("detokenize") is False or cached == 0
        meaningless = {"1953458256": {"logprob": 1.2e-38, "rank": 0, "decoded_token": None}}
        rows = [None] + [meaningless] * cached
        if self.version == "v2":
            rows = [None]
        rows += [
            {str(i): {"logprob": logprob, "rank": 1, "decoded_token": None}}
            for logprob, i in zip(logprobs.tolist(), ids[cached + 1 :], strict=True)
        ]
        return {"prompt_logprobs": rows}

    async def _next(self, ids: list[int], sampled: int, wanted: list[int]) -> dict[str, Any]:
        logprobs = {
            i: (await self.engine.score(ScoreRequest([*ids, i], len(ids)))).logprobs[0]
            for i in wanted
        }
        entries = {sampled: -0.5} | logprobs
        top: list[dict[str, Any]]
        top = [{"token_id": i, "logprob": value, "rank": 1} for i, value in entries.items()]
        if self.version == "0.26":
            top = [{"token": f"token_id:{i}", "logprob": value} for i, value in entries.items()]
        return {"token_id": sampled, "logprob": -0.5, "top_logprobs": top[: len(wanted)]}


def _vllm_error(message: str) -> web.Response:
    return web.json_response(
        {"error": {"message": message, "type": "BadRequestError", "code": 400}}, status=400
    )


@asynccontextmanager
async def serving(app: web.Application, port: int = 0) -> AsyncIterator[str]:
    """Serve on this machine; gives the URL."""
    # As uvicorn under vLLM does: a closed connection cancels what was asked for by it.
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def serve_stand_in(stand_in: StandIn) -> AsyncIterator[StandIn]:
    """Serve a stand-in until the end of the block."""
    async with serving(stand_in.app) as stand_in.url:
        try:
            yield stand_in
        finally:
            await stand_in.engine.aclose()


OpenAIKind = Literal["llama.cpp", "text", "echo", "prompt_logprobs", "one off", "template"]


class OpenAIStandIn(StandIn):
    """A server with OpenAI's completions route; kinds differ in what they take and tell.

    ``llama.cpp`` is its own server, as read from its sources (build 11434): ids or text, ids beside
    log-probabilities, no echo. ``text`` takes text alone and refuses fields that it does not know.
    ``echo`` and ``prompt_logprobs`` take ids and score; ``one off`` scores the tokens before those
    that it shows. ``template`` puts every prompt into a chat template.
    """

    def __init__(self, model: PreTrainedModel, kind: OpenAIKind) -> None:
        super().__init__(model, block=1)
        self.kind = kind
        self.app.router.add_get("/v1/models", self.models)
        self.app.router.add_post("/v1/completions", self.completions)
        if kind == "llama.cpp":
            self.app.router.add_get("/slots", self.slots)

    async def models(self, _: web.Request) -> web.Response:
        card: dict[str, Any] = {"id": "tiny", "object": "model"}
        if self.kind == "llama.cpp":
            card["meta"] = {"n_ctx": self.context, "n_ctx_train": 4 * self.context}
        return web.json_response({"object": "list", "data": [card]})

    async def slots(self, _: web.Request) -> web.Response:
        slots = [{"id": n, "is_processing": n < self.working} for n in range(16)]
        return web.json_response(slots)

    async def tokenize(self, request: web.Request) -> web.Response:
        content = (await request.json()).get("content", "")
        return web.json_response({"tokens": self.encode(content)})

    async def completions(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append(body)
        self.bodies.append(body)
        prompt = body["prompt"]
        if isinstance(prompt, list) and self.kind in ("text", "template"):
            return _openai_error(400, "prompt must be a string")
        unknown = body.keys() & {"top_k", "min_p", "repeat_penalty", "return_token_ids"}
        if self.kind == "text" and unknown:
            return _openai_error(422, f"unknown fields {sorted(unknown)}")
        if self.kind == "echo" and body.get("top_k") == 0:
            return _openai_error(400, "top_k must be -1 (disable), or at least 1, got 0.")
        if body.get("echo") and self.kind not in ("echo", "one off"):
            return _openai_error(500, "Only no echo is supported")
        ids = prompt if isinstance(prompt, list) else self.encode(prompt)
        if self.kind == "template":
            ids = [*self.encode("<U>"), *ids, *self.encode("<A>")]
        if len(ids) + 1 > self.context:
            return _openai_error(
                400,
                f"request ({len(ids)} tokens) exceeds the available context size ({self.context} "
                "tokens), try increasing it",
            )
        sampling = Sampling(
            max_tokens=min(body["max_tokens"], self.context - len(ids)),
            temperature=body["temperature"],
            top_p=body.get("top_p", 1.0),
            seed=body.get("seed", 0),
        )
        assert "stop" not in body, "its stop strings would be lost"
        output, reason, _ = await self.work(ids, sampling)
        shown = [i for i in output if i != self.end]
        choice: dict[str, Any] = {"index": 0, "text": "".join(map(chr, shown))}
        choice |= {"finish_reason": reason, "logprobs": None}
        if body.get("logprobs"):
            choice["logprobs"] = await self._logprobs(body, ids, output)
        if "prompt_logprobs" in body and self.kind == "prompt_logprobs":
            scored = await self.engine.score(ScoreRequest(ids, 1))
            choice["prompt_logprobs"] = [
                None,
                *(
                    {str(i): {"logprob": logprob, "rank": 1}}
                    for i, logprob in zip(ids[1:], scored.logprobs.tolist(), strict=True)
                ),
            ]
        if body.get("return_token_ids") and self.kind == "prompt_logprobs":
            choice["token_ids"] = output
        cached = self.cache.hit(ids, len(ids) - 1)
        self.cache.add(ids + output[:-1])
        self.computed += len(ids) - cached
        usage: dict[str, Any] = {"prompt_tokens": len(ids), "completion_tokens": len(output)}
        if self.kind != "text":
            usage["prompt_tokens_details"] = {"cached_tokens": cached}
        return web.json_response({"object": "text_completion", "choices": [choice], "usage": usage})

    async def _logprobs(
        self, body: dict[str, Any], ids: list[int], output: list[int]
    ) -> dict[str, Any]:
        logprobs: list[float | None] = [*await self.logprobs_of(ids, output)]
        if self.kind == "llama.cpp":
            return {
                "content": [
                    {"id": i, "token": chr(i), "logprob": logprob}
                    for i, logprob in zip(output, logprobs, strict=True)
                ]
            }
        if body.get("echo"):
            before = (await self.engine.score(ScoreRequest(ids, 1))).logprobs.tolist()
            logprobs = [None, *before, *logprobs]
            if self.kind == "one off":
                logprobs = [None, *logprobs[:-1]]
        return {"token_logprobs": logprobs}


class OllamaStandIn(StandIn):
    """Ollama: its own route takes text as it is, the completions route puts it into a template."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model, block=1)
        self.app.router.add_get("/v1/models", self.models)
        self.app.router.add_get("/api/version", self.tell_version)
        self.app.router.add_post("/api/generate", self.generate)

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "tiny", "object": "model"}]})

    async def tell_version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "0.12.3"})

    async def tokenize(self, _: web.Request) -> web.Response:
        raise web.HTTPNotFound

    async def generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        assert body["raw"] is True
        assert body["stream"] is False
        ids, options = self.encode(body["prompt"]), body["options"]
        assert options["num_ctx"] == self.context
        sampling = Sampling(
            max_tokens=options["num_predict"],
            temperature=options.get("temperature", 0.8),
            top_p=options.get("top_p", 0.9),
            seed=options.get("seed", 0),
        )
        output, reason, _ = await self.work(ids, sampling)
        text = "".join(chr(i) for i in output if i != self.end)
        done = {"done": True, "done_reason": reason, "prompt_eval_count": len(ids)}
        return web.json_response({"model": "tiny", "response": text, **done})


def _openai_error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status)


class Characters:
    """The tokenizer of the stand-ins: the text of a token id is the character of that number."""

    special = (0, 1, 2)

    def encode(self, text: str) -> list[int]:
        return list(map(ord, text))

    def decode(self, token_ids: list[int]) -> str:
        return "".join(chr(i) for i in token_ids if i not in self.special)

    def spell(self, token_ids: list[int]) -> str:
        return "".join(map(chr, token_ids))
