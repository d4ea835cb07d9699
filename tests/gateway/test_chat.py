"""Chat completions without a stream, and everything beside them, over scripted engines."""

import asyncio
from pathlib import Path

import orjson
import pytest
from fakes import FakeEngine
from gateway.conftest import TEXT, GatedEngine, Start, goes_on_with, until
from prometheus_client.parser import text_string_to_metric_families

from atts.config import Config, parse_config
from atts.engines.base import Completion, GenerateRequest
from atts.errors import EngineTimeoutError
from atts.runs.setup import limited
from atts.types import Author


async def test_a_reply_is_that_of_the_chain(start: Start) -> None:
    async with start() as running:
        response = await running.chat()
    reply = response.json()
    (choice,) = reply["choices"]
    assert response.status_code == 200
    assert (reply["object"], reply["model"]) == ("chat.completion", "atts")
    assert choice["message"]["content"] == TEXT
    assert choice["message"]["reasoning_content"] is None
    assert choice["finish_reason"] == "stop"
    assert choice["atts"]["end"] == "answer"
    assert choice["atts"]["answer"] == "42"
    usage = reply["usage"]
    assert usage["prompt_tokens"] == len("u:What is 17 + 25?\na:")
    assert usage["completion_tokens"] == len(TEXT)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    details = usage["completion_tokens_details"]
    assert (details["draft_tokens"], details["target_tokens"]) == (len(TEXT), 0)
    assert details["target_tokens_scored"] == len(TEXT)


async def test_the_target_has_its_share_of_the_usage(start: Start) -> None:
    async with start() as running:
        reply = (await running.chat(atts={"take_over_rate": 1.0})).json()
    details = reply["usage"]["completion_tokens_details"]
    assert reply["choices"][0]["message"]["content"] == TEXT
    assert details["target_tokens"] > 0
    assert details["draft_tokens"] + details["target_tokens"] == len(TEXT)
    assert reply["choices"][0]["atts"]["take_overs"] > 0


async def test_each_chain_is_a_choice(start: Start) -> None:
    async with start() as running:
        reply = (await running.chat(n=3)).json()
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2]
    assert reply["usage"]["completion_tokens"] == 3 * len(TEXT)


async def test_a_vote_gives_one_choice(start: Start) -> None:
    texts = iter(["So \\boxed{41}.", "So \\boxed{42}.", "Hence \\boxed{42}."])
    async with start(target=FakeEngine(lambda _: next(texts))) as running:
        extra = {"method": "target-only", "vote": True}
        reply = (await running.chat(atts=extra)).json()
    assert [each["message"]["content"] for each in reply["choices"]] == ["So \\boxed{42}."]
    assert reply["atts"] == {
        "answer": "42",
        "votes": [{"answer": "42", "chains": 2}, {"answer": "41", "chains": 1}],
        "samples": 3,
    }
    written = sum(map(len, ["So \\boxed{41}.", "So \\boxed{42}.", "Hence \\boxed{42}."]))
    assert reply["usage"]["completion_tokens"] == written


async def test_a_thought_is_told_from_the_answer(start: Start) -> None:
    text = "<think>\n17 + 25?</think>\n\nIt is \\boxed{42}."
    async with start(draft=FakeEngine(goes_on_with(text))) as running:
        message = (await running.chat()).json()["choices"][0]["message"]
    assert message["reasoning_content"].strip() == "17 + 25?"
    assert message["content"].strip() == "It is \\boxed{42}."


async def test_the_conversation_reaches_the_model_as_it_stands(start: Start) -> None:
    async with start() as running:
        messages = [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "1 + 1?"},
            {"role": "assistant", "content": "2", "reasoning_content": "one and one"},
            {"role": "user", "content": "And 2 + 2?"},
        ]
        await running.chat(messages=messages)
        prompt, _ = running.engines["draft"].generated[0]
    assert prompt == "s:Be brief.\nu:1 + 1?\na:2\nu:And 2 + 2?\na:"


async def test_what_is_asked_for_reaches_the_engine(start: Start) -> None:
    async with start() as running:
        await running.chat(temperature=0.25, top_p=0.5, max_tokens=7, stop=["\n\n"])
        _, sampling = running.engines["draft"].generated[0]
    assert (sampling.temperature, sampling.top_p) == (0.25, 0.5)
    assert sampling.max_tokens == 7
    assert sampling.stop == ("\n\n",)


async def test_a_reply_ends_before_its_stop_text_and_within_its_tokens(start: Start) -> None:
    async with start() as running:
        stopped = (await running.chat(stop="make")).json()["choices"][0]
        short = (await running.chat(max_tokens=20)).json()["choices"][0]
    assert stopped["message"]["content"] == "17 and 25 "
    assert stopped["finish_reason"] == "stop"
    assert short["message"]["content"] == TEXT[:20]
    assert short["finish_reason"] == "length"


async def test_seeds_are_kept_and_otherwise_new(start: Start) -> None:
    async with start() as running:
        for seed in (1, 1, None, None):
            await running.chat(seed=seed)
        seeds = [
            sampling.seed for prompt, sampling in running.engines["draft"].generated
            if prompt.endswith("a:")
        ]  # fmt: skip
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == 3


async def test_models_are_named_after_methods_and_presets(start: Start) -> None:
    async with start() as running:
        listed = (await running.client.get("/v1/models")).json()
        one = await running.client.get("/v1/models/target-only:paper")
        none = await running.client.get("/v1/models/gpt")
    names = [each["id"] for each in listed["data"]]
    assert names == running.names
    assert names[0] == "atts"
    assert {"target-only", "target-only:paper"} <= set(names)
    assert "atts:paper" not in names  # it decides by a calibration, and there is none
    assert one.json()["id"] == "target-only:paper"
    assert none.status_code == 404


async def test_a_model_that_cannot_be_served_says_why(start: Start) -> None:
    async with start() as running:
        unknown = (await running.chat(model="gpt")).json()["error"]
        no_calibration = (await running.chat(model="atts:paper")).json()["error"]
        method = (await running.chat(atts={"method": "guessing"})).json()["error"]
    assert (unknown["code"], unknown["param"]) == ("model_not_found", "model")
    assert "atts calibrate" in no_calibration["message"]
    assert method["param"] == "atts.method"


async def test_a_rate_that_nothing_keeps_to_is_refused(start: Start) -> None:
    async with start() as running:
        response = await running.chat(model="target-only", atts={"take_over_rate": 0.3})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "atts.take_over_rate"


class Failing(FakeEngine):
    async def generate(self, request: GenerateRequest) -> Completion:  # noqa: ARG002
        raise EngineTimeoutError("http://gpu1: no reply for 900 s\x1b[31m")


@pytest.mark.parametrize("fields", [{}, {"n": 2}, {"atts": {"vote": True}}, {"stream": True}])
async def test_an_engine_that_fails_is_a_bad_gateway(
    start: Start, fields: dict[str, object]
) -> None:
    async with start(draft=Failing()) as running:
        response = await running.chat(**fields)
    assert response.status_code == 502
    error = response.json()["error"]
    assert error["type"] == "EngineTimeoutError"
    assert error["message"] == "http://gpu1: no reply for 900 s\\x1b[31m"


async def test_an_engine_that_is_gone_is_told_at_once(start: Start, served_config: Config) -> None:
    limits = served_config.limits.model_copy(update={"patience_seconds": 0.0, "attempts": 9})
    config = served_config.model_copy(
        update={"limits": limits.model_copy(update={"backoff_seconds": 0.0})}
    )
    async with start(config=config) as running:
        author: Author = "draft"
        gone = limited(Failing(), author, config.limits)
        model = running.solver.models[author]
        running.solver.models[author] = model._replace(engine=gone)
        response = await running.chat()
    assert response.status_code == 502
    error = response.json()["error"]
    assert error["type"] == "EngineGoneError"
    assert "\n" not in error["message"]


async def test_a_vote_goes_on_without_a_chain_that_failed(start: Start) -> None:
    class Once(FakeEngine):
        async def generate(self, request: GenerateRequest) -> Completion:
            if not self.generated:
                self.generated.append(("", request.sampling))
                raise EngineTimeoutError("no reply")
            return await super().generate(request)

    async with start(target=Once(goes_on_with(TEXT))) as running:
        reply = (await running.chat(atts={"method": "target-only", "vote": True})).json()
    assert reply["atts"]["votes"] == [{"answer": "42", "chains": 2}]


async def test_more_than_may_wait_is_told_to_come_back(start: Start) -> None:
    draft = GatedEngine()
    async with start(draft=draft, most_waiting=1) as running:
        first = [asyncio.create_task(running.chat(n=8))]
        await draft.asked.wait()
        first.append(asyncio.create_task(running.chat()))
        await until(lambda: running.solver.waiting > 0)
        assert running.solver.in_flight == 8
        refused = await running.chat()
        for _ in range(200):
            draft.let.release()
        answered = await asyncio.gather(*first)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert [response.status_code for response in answered] == [200, 200]


async def test_more_chains_than_there_is_room_for_are_refused(start: Start) -> None:
    async with start() as running:
        response = await running.chat(n=9)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "n"


async def test_bodies_are_json_and_bounded(start: Start) -> None:
    async with start() as running:
        url = "/v1/chat/completions"
        form = await running.client.post(url, data={"model": "atts"})
        large = await running.chat(user="x" * 2**20)
        nowhere = await running.client.get("/v1/embeddings")
        wrong = await running.client.get(url)
    assert [r.status_code for r in (form, large, nowhere, wrong)] == [415, 413, 404, 405]
    assert all("error" in response.json() for response in (form, large, nowhere, wrong))


async def test_a_prompt_that_fills_the_context_is_the_clients_fault(start: Start) -> None:
    class Full(FakeEngine):
        async def generate(self, request: GenerateRequest) -> Completion:  # noqa: ARG002
            from atts.errors import ContextLengthError

            raise ContextLengthError("2000 tokens leave nothing of 1024")

    async with start(draft=Full()) as running:
        response = await running.chat()
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"


async def test_what_nobody_expected_is_told_without_its_text(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start() as running:
        monkeypatch.setattr(running.solver, "ask", lambda _: 1 / 0)
        response = await running.chat()
    assert response.status_code == 500
    assert "division" not in response.text


async def test_the_key_opens_all_but_health(start: Start) -> None:
    async with start(key="s3cret") as running:
        without = await running.client.get("/v1/models")
        wrong = await running.client.get("/v1/models", headers={"Authorization": "Bearer s3cre"})
        right = await running.client.get("/v1/models", headers={"Authorization": "Bearer s3cret"})
        health = await running.client.get("/health")
    assert [r.status_code for r in (without, wrong, right, health)] == [401, 401, 200, 200]
    assert without.json()["error"]["code"] == "invalid_api_key"
    assert "s3cret" not in without.text


async def test_without_a_key_only_this_machine_is_answered(start: Start) -> None:
    async with start() as running:
        answers = {
            host: (await running.client.get("/health", headers={"Host": host})).status_code
            for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "evil.example:8000", "")
        }
    assert [host for host, status in answers.items() if status == 200] == [
        "localhost:8000",
        "127.0.0.1",
        "[::1]:8000",
    ]


async def test_metrics_tell_what_the_chains_did(start: Start) -> None:
    async with start() as running:
        await running.chat(n=2, atts={"take_over_rate": 1.0})
        await running.chat(model="nothing")
        text = (await running.client.get("/metrics")).text
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    written = {a: samples["atts_tokens_total", "atts", a, "yes"] for a in ("draft", "target")}
    assert written["draft"] > 0
    assert sum(written.values()) == 2 * len(TEXT)
    assert samples["atts_chains_total", "answer", "atts"] == 2
    assert samples["atts_p_value_count", "atts"] > 0
    assert samples["atts_take_over_rate_nominal", "1", "atts"] == 1.0
    assert samples["atts_take_over_rate", "1", "atts"] == 1.0
    assert samples["atts_chains_in_flight",] == samples["atts_chains_waiting",] == 0
    assert samples["atts_requests_total", "/v1/chat/completions", "200"] == 1
    assert samples["atts_requests_total", "/v1/chat/completions", "404"] == 1


async def test_what_the_deciders_have_learnt_is_kept(start: Start, tmp_path: Path) -> None:
    async with start() as running:
        await running.chat(atts={"take_over_rate": 0.5})
    state = orjson.loads((tmp_path / "serve" / "deciders.json").read_bytes())
    async with start() as running:
        await running.chat(atts={"take_over_rate": 0.5})
    later = orjson.loads((tmp_path / "serve" / "deciders.json").read_bytes())
    made = {k: v["made"] for k, v in state["deciders"].items() if v["made"]}
    assert len(made) == 1
    assert {k: later["deciders"][k]["made"] for k in made} == {k: 2 * v for k, v in made.items()}


async def test_a_method_whose_model_is_not_open_is_not_offered(start: Start) -> None:
    alone = parse_config({"method": "target-only"}, "a test")
    async with start(config=alone) as running:
        assert running.names[0] == "target-only"
        assert isinstance(running.solver.config, Config)
