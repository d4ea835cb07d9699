"""Speculative decoding on servers: how it is asked for, what is told of it, and who must know."""

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from engines.stand_ins import SGLangStandIn, VllmStandIn, serve_stand_in, serving
from engines.test_servers import engine_for
from engines.tiny import VOCABULARY, sampled, some_ids, tiny_llama
from fakes import FakeEngine

from atts.config import Config, ModelOptions, parse_config
from atts.engines.base import GenerateRequest, speculation_of
from atts.engines.http import HttpClient
from atts.engines.limits import LimitedEngine
from atts.engines.remote import RemoteEngine
from atts.engines.replicas import Replicas
from atts.engines.servers.plan import plan_servers
from atts.engines.sglang import SGLangEngine
from atts.engines.vllm import VllmEngine
from atts.errors import ConfigError, EngineUnavailableError
from atts.types import Speculation

METRICS = """\
vllm:num_requests_running{engine="0"} 1.0
# TYPE vllm:spec_decode_num_drafts counter
vllm:spec_decode_num_drafts_total{engine="0"} 10.0
vllm:spec_decode_num_drafts_total{engine="1"} 5.0
vllm:spec_decode_num_draft_tokens_total{engine="0"} 60.0
vllm:spec_decode_num_accepted_tokens_total{engine="0"} 30.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="0"} 9.0
"""
NEW = {"spec_verify_ct": 3, "spec_num_proposed_drafts": 12, "spec_num_correct_drafts": 7}
OLD = {"spec_verify_ct": 3, "spec_draft_token_num": 12, "spec_accept_token_num": 7}


class SpeculatingSGLang(SGLangStandIn):
    """Says how it decodes, and of each request what came of it."""

    def __init__(self, algorithm: str | None, told: dict[str, Any] | None = None) -> None:
        super().__init__(tiny_llama(eos_token_id=None))
        self.algorithm = algorithm
        self.told = told or {}

    async def server_info(self, _: web.Request) -> web.Response:
        return web.json_response({"model_path": "tiny", "speculative_algorithm": self.algorithm})

    async def _answer(
        self, body: dict[str, Any], ids: list[int], options: dict[str, Any]
    ) -> dict[str, Any]:
        reply = await super()._answer(body, ids, options)
        reply["meta_info"] |= self.told
        return reply


def asking_for(method: str, url: str, kind: type[SGLangEngine | VllmEngine]) -> RemoteEngine:
    options = ModelOptions.model_validate(
        {"model": "tiny", "server": {"speculative": {"method": method}}}
    )
    return kind(HttpClient(url, "tiny", timeout_seconds=30.0), options, VOCABULARY, frozenset())


@pytest.mark.parametrize("told", [NEW, OLD])
async def test_sglang_tells_of_each_request(told: dict[str, int]) -> None:
    async with serve_stand_in(SpeculatingSGLang("STANDALONE", told)) as server:
        engine = engine_for(server.url, "sglang")
        assert await engine.speculation() is None
        for seed in range(2):
            await engine.generate(GenerateRequest(some_ids(9), sampled(4, seed)))
        limited = LimitedEngine(Replicas([engine, FakeEngine()]), 1, 1, 0.0)
        found = Speculation(passes=6, proposed=24, accepted=14)
        assert await speculation_of(limited) == found
        await engine.aclose()
    assert found.tokens_a_pass == 1 + 14 / 6


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"spec_verify_ct": 3},
        NEW | {"spec_verify_ct": -1},
        NEW | {"spec_verify_ct": 10**9},
        NEW | {"spec_num_correct_drafts": 13},
        NEW | {"spec_num_correct_drafts": "7"},
    ],
)
async def test_what_cannot_be_is_not_counted(told: dict[str, Any]) -> None:
    async with serve_stand_in(SpeculatingSGLang("NGRAM", told)) as server:
        engine = engine_for(server.url, "sglang")
        await engine.generate(GenerateRequest(some_ids(9), sampled(4, 1)))
        assert await engine.speculation() is None
        await engine.aclose()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (METRICS, Speculation(passes=15, proposed=60, accepted=30)),
        ("vllm:num_requests_running 1.0\n", None),
        ("<html>", None),
        (METRICS.replace("60.0", "NaN"), None),
    ],
)
async def test_vllm_tells_of_all_requests(text: str, found: Speculation | None) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=text)

    app = web.Application()
    app.router.add_get("/metrics", answer)
    async with serving(app) as url:
        engine = engine_for(url, "vllm")
        assert await engine.speculation() == found
        await engine.aclose()


async def test_an_engine_that_does_not_answer_tells_nothing() -> None:
    class Lost(FakeEngine):
        async def speculation(self) -> Speculation | None:
            raise EngineUnavailableError("it is gone")

    assert await speculation_of(Lost()) is None


async def test_a_server_that_does_not_speculate_is_refused_where_it_should() -> None:
    async with serve_stand_in(SpeculatingSGLang(None)) as server:
        engine = asking_for("ngram", server.url, SGLangEngine)
        with pytest.raises(ConfigError, match=r"does not decode speculatively.*servers up"):
            await engine.connect()
        await engine.aclose()
    async with serve_stand_in(VllmStandIn(tiny_llama(eos_token_id=None), "v2")) as other:
        engine = asking_for("ngram", other.url, VllmEngine)
        with pytest.raises(ConfigError, match="does not decode speculatively"):
            await engine.connect()
        await engine.aclose()


async def test_a_server_that_speculates_unasked_is_remarked_upon() -> None:
    async with serve_stand_in(SpeculatingSGLang("EAGLE3")) as server:
        for method, remarks in (("off", 1), ("ngram", 0)):
            engine = asking_for(method, server.url, SGLangEngine)
            facts = await engine.connect()
            told = [each for each in facts.remarks if "decodes speculatively (EAGLE3)" in each]
            assert (len(told), engine.cannot_score) == (remarks, None)
            await engine.aclose()


async def test_a_server_that_would_refuse_to_score_is_known_at_once() -> None:
    async with serve_stand_in(SpeculatingSGLang("DFLASH")) as server:
        engine = engine_for(server.url, "sglang")
        await engine.connect()
        assert "no log-probabilities with --speculative-algorithm DFLASH" in str(
            engine.cannot_score
        )
        await engine.aclose()


def planned(tmp_path: Path, engine: str, speculative: dict[str, Any]) -> list[str]:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    config: Config = parse_config(
        {
            "target": {
                "engine": engine,
                "server": {"executable": str(python), "port": 40917, "speculative": speculative},
            },
        },
        "a test",
    )
    (plan,) = plan_servers(config, ["target"])
    return list(plan.command)


def test_sglang_is_started_so(tmp_path: Path) -> None:
    more = {"max_requests": 77}
    command = " ".join(
        planned(tmp_path, "sglang", {"method": "draft", "draft": "org/small", "tokens": 3} | more)
    )
    for part in (
        "--speculative-algorithm STANDALONE",
        "--speculative-draft-model-path org/small",
        "--speculative-num-steps 3 --speculative-eagle-topk 1",
        "--speculative-num-draft-tokens 4",
        "--max-running-requests 77",
    ):
        assert part in command
    ngram = " ".join(planned(tmp_path, "sglang", {"method": "ngram"}))
    assert "--speculative-algorithm NGRAM --speculative-num-draft-tokens 5" in ngram
    assert "eagle" not in ngram
    assert "specul" not in " ".join(planned(tmp_path, "sglang", {}))


def test_vllm_is_started_so(tmp_path: Path) -> None:
    command = planned(tmp_path, "vllm", {"method": "eagle3", "draft": "org/head"})
    given = json.loads(command[command.index("--speculative-config") + 1])
    assert given == {"method": "eagle3", "model": "org/head", "num_speculative_tokens": 4}
    command = planned(tmp_path, "vllm", {"method": "ngram", "tokens": 2})
    given = json.loads(command[command.index("--speculative-config") + 1])
    assert given == {"method": "ngram", "num_speculative_tokens": 2}
    assert "--speculative-config" not in planned(tmp_path, "vllm", {})


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    with pytest.raises(ConfigError, match=f"no model in the folder {empty}"):
        planned(tmp_path, "vllm", {"method": "draft", "draft": str(empty)})
