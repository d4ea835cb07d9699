"""The ``openai`` package against a gateway: what it sends is taken, what it gets it understands."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import openai
import pytest
from gateway.conftest import TEXT, Running, Start
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is 17 + 25?"}]


@asynccontextmanager
async def client_of(running: Running, key: str = "none") -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0) as client:
        yield client


async def test_a_completion(start: Start) -> None:
    async with start(on_socket=True) as running, client_of(running) as client:
        reply = await client.chat.completions.create(
            model="atts", messages=MESSAGES, n=2, seed=1, temperature=0.5, stop=["\n\n"], user="me"
        )
        models = [model.id async for model in client.models.list()]
    assert [choice.message.content for choice in reply.choices] == [TEXT, TEXT]
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage
    assert reply.usage.completion_tokens == 2 * len(TEXT)
    assert models == running.names


async def test_the_program_of_the_page(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "endpoint.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.S | re.M)
    async with start(on_socket=True) as running:
        await asyncio.to_thread(exec, code.replace("http://127.0.0.1:8000", running.url), {})
    assert capsys.readouterr().out == TEXT


async def test_an_extra_body_and_headers(start: Start) -> None:
    async with start(on_socket=True) as running, client_of(running) as client:
        voted = await client.chat.completions.create(
            model="atts", messages=MESSAGES, extra_body={"atts": {"samples": 3, "vote": True}}
        )
        by_headers = await client.chat.completions.create(
            model="atts",
            messages=MESSAGES,
            extra_headers={"X-Atts-Samples": "3", "X-Atts-Vote": "true"},
        )
    for reply in (voted, by_headers):
        assert len(reply.choices) == 1
        assert (reply.model_extra or {})["atts"]["answer"] == "42"


async def test_a_stream_with_its_usage(start: Start) -> None:
    async with start(on_socket=True) as running, client_of(running) as client:
        stream = await client.chat.completions.create(
            model="atts", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == TEXT
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == len(TEXT)


async def test_faults_are_the_exceptions_of_the_package(start: Start) -> None:
    async with start(on_socket=True) as running, client_of(running) as client:
        create = client.chat.completions.create
        with pytest.raises(openai.NotFoundError, match="what is served: atts"):
            await create(model="gpt", messages=MESSAGES)
        with pytest.raises(openai.BadRequestError, match="logprobs") as caught:
            await create(model="atts", messages=MESSAGES, logprobs=True)
    assert caught.value.param == "logprobs"
    assert caught.value.code == "unsupported_parameter"


async def test_a_wrong_key_is_refused(start: Start) -> None:
    opened = start(key="right", on_socket=True)
    async with opened as running, client_of(running, "wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
