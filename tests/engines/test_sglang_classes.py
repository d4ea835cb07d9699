"""The requests of the engine against SGLang's own classes, where its sources are at hand.

``ATTS_SGLANG_SOURCE`` is the folder of an unpacked wheel: ``pip download --no-deps sglang`` and
``unzip``. Of its files only the classes of requests are executed: the whole would need CUDA.
"""

import ast
import dataclasses
import os
import uuid
from pathlib import Path
from typing import Any

import pytest
from engines.stand_ins import SGLangStandIn, serve_stand_in
from engines.tiny import CONTEXT, END, VOCABULARY, greedy, sampled, some_ids, tiny_llama

from atts.config import ModelOptions
from atts.engines.base import GenerateRequest, ScoreRequest
from atts.engines.http import HttpClient
from atts.engines.sglang import SGLangEngine

SOURCE = os.environ.get("ATTS_SGLANG_SOURCE")
pytestmark = pytest.mark.skipif(SOURCE is None, reason="ATTS_SGLANG_SOURCE is not set")
CONSTANTS = ("_SAMPLING_EPS =", "TOP_K_ALL =")


def classes(path: str, *names: str) -> dict[str, Any]:
    """Some classes of a file, with no more of what it imports than they need."""
    tree = ast.parse((Path(str(SOURCE)) / path).read_text())
    wanted: list[ast.stmt] = [
        node
        for node in tree.body
        if (isinstance(node, ast.ClassDef) and node.name in names)
        or (isinstance(node, ast.ImportFrom) and node.module in ("__future__", "typing", "abc"))
        or (isinstance(node, ast.Assign) and ast.unparse(node).startswith(CONSTANTS))
    ]
    space: dict[str, Any] = {"dataclass": dataclasses.dataclass, "field": dataclasses.field}
    space |= {"uuid": uuid, "__name__": __name__}
    # The classes of a wheel that the person who runs the test has chosen.
    exec(compile(ast.Module(wanted, []), path, "exec"), space)  # noqa: S102
    return space


async def test_every_request_is_one_that_sglang_takes() -> None:
    requests = classes(
        "sglang/srt/managers/io_struct.py", "BaseReq", "GenerateReqInput", "AbortReq"
    )
    sampling = classes("sglang/srt/sampling/sampling_params.py", "SamplingParams")
    async with serve_stand_in(SGLangStandIn(tiny_llama(eos_token_id=END))) as server:
        client = HttpClient(server.url, "tiny")
        engine = SGLangEngine(
            client, ModelOptions(model="tiny", engine="sglang"), VOCABULARY, frozenset()
        )
        await engine.generate(GenerateRequest(some_ids(20), greedy(5)))
        await engine.generate(
            GenerateRequest(some_ids(20), dataclasses.replace(sampled(5, 2**53 - 1), stop=("a",)))
        )
        await engine.score(ScoreRequest(some_ids(CONTEXT - 7), 30))
        await engine.aclose()
    assert len(server.requests) == 3
    for body in server.requests:
        request = requests["GenerateReqInput"](**body)
        request.normalize_batch_and_arguments()
        assert request.is_single
        assert request.rid == body["rid"]
        assert request.input_ids == body["input_ids"]
        assert request.return_logprob is bool(body.get("return_logprob"))
        assert request.logprob_start_len == body.get("logprob_start_len", -1)
        params = sampling["SamplingParams"](**body["sampling_params"])
        params.normalize(None)
        params.verify(VOCABULARY)
        assert params.max_new_tokens == body["sampling_params"]["max_new_tokens"]
    assert requests["AbortReq"](rid="f" * 32).rid == "f" * 32
