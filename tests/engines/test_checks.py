"""What the doctor finds on servers that are well and on servers that are not."""

import pytest
from engines.stand_ins import PrefixCache, SGLangStandIn, StandIn, VllmStandIn, serve_stand_in
from transformers import PreTrainedModel

from atts.config import EngineName, ModelOptions, PromptOptions
from atts.engines.base import ScoreRequest
from atts.engines.checks import Check, check_model
from atts.engines.inprocess.engine import load_model
from atts.models.model_files import model_path
from atts.models.prompts import Tokenizer

BUNDLED = ModelOptions(model="bundled/draft", device="cpu")


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return load_model(BUNDLED, model_path("bundled/draft"))


async def checks(kind: EngineName, url: str, **changes: str) -> dict[str, Check]:
    options = BUNDLED.model_copy(
        update={"engine": kind, "urls": (url,), "served_as": "tiny", **changes}
    )
    return {c.name: c async for c in check_model("draft", options, PromptOptions()) if c.name}


def stand_in(kind: EngineName, model: PreTrainedModel) -> StandIn:
    server = SGLangStandIn(model) if kind == "sglang" else VllmStandIn(model, "v1")
    tokenizer = Tokenizer.load(BUNDLED)
    server.encode = tokenizer.encode
    return server


@pytest.mark.parametrize("kind", ["sglang", "vllm"])
async def test_all_is_well(kind: EngineName, model: PreTrainedModel) -> None:
    async with serve_stand_in(stand_in(kind, model)) as server:
        found = await checks(kind, server.url)
    assert {name: check.verdict for name, check in found.items()} == dict.fromkeys(
        (
            "tokenizer",
            "server",
            "scoring",
            "round trip",
            "same tokenizer",
            "writes",
            "seeds",
            "log-probabilities",
            "prefix cache",
            "abort",
        ),
        "good",
    )
    assert "version 0." in found["server"].found


async def test_nobody_there(model: PreTrainedModel) -> None:
    del model
    found = await checks("vllm", "http://127.0.0.1:9")
    assert found["server"].verdict == "broken"
    assert "atts servers up" in found["server"].mend
    assert set(found) == {"tokenizer", "server"}


async def test_another_tokenizer_is_broken(model: PreTrainedModel) -> None:
    server = stand_in("vllm", model)
    server.encode = lambda text: [3] * len(text)
    async with serve_stand_in(server):
        found = await checks("vllm", server.url)
    assert found["same tokenizer"].verdict == "broken"
    assert found["same tokenizer"].mend


async def test_a_server_without_a_prefix_cache_is_poor(model: PreTrainedModel) -> None:
    server = stand_in("sglang", model)
    server.cache = PrefixCache(block=10_000)  # so large that none is ever full
    async with serve_stand_in(server):
        found = await checks("sglang", server.url)
    assert found["prefix cache"].verdict == "poor"
    assert "0 of 300" in found["prefix cache"].found
    assert "--disable-radix-cache" in found["prefix cache"].mend


async def test_scores_that_do_not_belong_to_the_model_are_broken(model: PreTrainedModel) -> None:
    server = stand_in("sglang", model)
    score = server.engine.score

    async def upside_down(request: ScoreRequest) -> object:
        scored = await score(request)
        return scored._replace(logprobs=-20 - scored.logprobs)

    server.engine.score = upside_down  # type: ignore[method-assign, assignment]
    async with serve_stand_in(server):
        found = await checks("sglang", server.url)
    assert found["log-probabilities"].verdict == "broken"


async def test_a_wrong_configuration_is_said(model: PreTrainedModel) -> None:
    del model
    found = await checks("vllm", "http://127.0.0.1:9", api_key_env="NOT_SET_ANYWHERE")
    assert found["configuration"].verdict == "broken"
    assert "NOT_SET_ANYWHERE" in found["configuration"].found
    assert found["configuration"].mend.startswith("export NOT_SET_ANYWHERE=KEY")
