"""Streams, over a real socket: what is decided comes at once; a client that leaves is noticed."""

import asyncio
from typing import Any

import httpx
import orjson
import pytest
from fakes import FakeEngine
from gateway.conftest import TEXT, GatedEngine, Running, Start, body, goes_on_with, until
from openai import AsyncOpenAI

from atts.engines.base import Completion, GenerateRequest
from atts.errors import EngineConnectionError
from atts.gateway import streams


async def events(response: httpx.Response) -> list[Any]:
    """All events of a stream; the last one must be its end."""
    lines = [line async for line in response.aiter_lines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    return [orjson.loads(line.removeprefix("data: ")) for line in lines[:-1]]


async def streamed(running: Running, **fields: object) -> list[Any]:
    asked = body(stream=True, **fields)
    async with running.client.stream("POST", "/v1/chat/completions", json=asked) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        return await events(response)


def joined(chunks: list[Any], key: str = "content", index: int = 0) -> str:
    return "".join(
        choice["delta"].get(key) or ""
        for chunk in chunks
        for choice in chunk["choices"]
        if choice["index"] == index
    )


async def test_a_stream_says_what_the_reply_would(start: Start) -> None:
    async with start(on_socket=True) as running:
        whole = (await running.chat()).json()
        chunks = await streamed(running, stream_options={"include_usage": True})
    first, *pieces, last, usage = chunks
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert joined(chunks) == TEXT
    assert len(pieces) > 1  # turn by turn
    assert {piece["atts"]["author"] for piece in pieces} == {"draft"}
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["choices"][0]["atts"] == whole["choices"][0]["atts"]
    assert usage["choices"] == []
    assert usage["usage"] == whole["usage"]
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_thoughts_stream_as_reasoning(start: Start) -> None:
    text = "<think>17 + 25?</think>It is \\boxed{42}."
    async with start(draft=FakeEngine(goes_on_with(text)), on_socket=True) as running:
        chunks = await streamed(running)
    assert joined(chunks, "reasoning_content") == "17 + 25?"
    assert joined(chunks) == "It is \\boxed{42}."


async def test_choices_stream_side_by_side(start: Start) -> None:
    async with start(on_socket=True) as running:
        chunks = await streamed(running, n=2)
    assert joined(chunks, index=0) == joined(chunks, index=1) == TEXT


async def test_a_vote_comes_whole_at_the_end(start: Start) -> None:
    async with start(on_socket=True) as running:
        chunks = await streamed(running, atts={"vote": True, "samples": 3})
    assert joined(chunks) == TEXT
    assert chunks[-1]["atts"] == {
        "answer": "42",
        "votes": [{"answer": "42", "chains": 3}],
        "samples": 3,
    }


async def test_the_first_piece_comes_before_the_second_is_written(start: Start) -> None:
    draft = GatedEngine()
    async with start(draft=draft, on_socket=True) as running:
        client = AsyncOpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
        async with client:
            stream = await client.chat.completions.create(**body(stream=True))
            draft.let.release()
            said = ""
            while not said:
                said = (await anext(stream)).choices[0].delta.content or ""
            assert TEXT.startswith(said)
            assert len(said) < len(TEXT)
            for _ in range(20):
                draft.let.release()
            async for chunk in stream:
                said += chunk.choices[0].delta.content or ""
    assert said == TEXT


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_client_that_leaves_takes_its_chains_along(start: Start, is_stream: bool) -> None:
    draft = GatedEngine()
    async with start(draft=draft, on_socket=True) as running:
        leaving = asyncio.create_task(running.chat(n=3, stream=is_stream))
        await until(lambda: draft.in_flight == 3)
        leaving.cancel()
        await asyncio.wait([leaving])
        await until(lambda: not running.solver.open_chains)
        assert (draft.in_flight, draft.aborted) == (0, 3)
        text = (await running.client.get("/metrics")).text
    assert "atts_chains_aborted_total 3.0" in text


async def test_leaving_in_the_middle_of_a_stream_is_noticed_too(start: Start) -> None:
    draft = GatedEngine()
    async with start(draft=draft, on_socket=True) as running:
        asked = body(stream=True)
        draft.let.release()
        async with running.client.stream("POST", "/v1/chat/completions", json=asked) as response:
            lines = response.aiter_lines()
            while 'content":"1' not in await anext(lines):
                pass
        await until(lambda: not running.solver.open_chains)
        assert (draft.in_flight, draft.aborted) == (0, 1)


async def test_leaving_before_the_question_is_whole_disturbs_nobody(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    async with start(on_socket=True) as running:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", int(running.url.rpartition(":")[2])
        )
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
        writer.write(f"{head}Content-Type: application/json\r\n\r\n{{".encode())
        await writer.drain()
        writer.close()
        await reader.read()
        assert (await running.chat()).status_code == 200
    assert not caplog.records


@pytest.mark.parametrize("fields", [{}, {"stream": True}])
async def test_what_a_server_cuts_off_at_its_end_is_told_so(
    start: Start, fields: dict[str, object]
) -> None:
    draft = GatedEngine()
    async with start(draft=draft) as running:
        asking = asyncio.create_task(running.chat(**fields))
        await draft.asked.wait()
        asking.cancel()  # in this process that cancels the server's part of it
        response = await asking
        assert not running.solver.open_chains
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "server_ends"
    assert draft.aborted == 1


async def test_an_error_after_the_first_piece_is_an_event(start: Start) -> None:
    class Breaks(FakeEngine):
        async def generate(self, request: GenerateRequest) -> Completion:
            if self.generated:
                raise EngineConnectionError("the connection broke")
            return await super().generate(request)

    async with start(draft=Breaks(goes_on_with(TEXT)), on_socket=True) as running:
        asked = body(stream=True)
        async with running.client.stream("POST", "/v1/chat/completions", json=asked) as response:
            lines = [line async for line in response.aiter_lines() if line]
    assert response.status_code == 200
    assert orjson.loads(lines[-1].removeprefix("data: "))["error"] == {
        "message": "the connection broke",
        "type": "EngineConnectionError",
        "param": None,
        "code": "engine_failed",
    }


async def test_a_stream_with_nothing_to_say_says_that_it_lives(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "KEEP_ALIVE_SECONDS", 0.01)
    draft = GatedEngine()
    async with start(draft=draft, on_socket=True) as running:
        asked = body(stream=True)
        async with running.client.stream("POST", "/v1/chat/completions", json=asked) as response:
            lines = response.aiter_lines()
            assert (await anext(lines)).startswith(":")
            for _ in range(20):
                draft.let.release()
            rest = [line async for line in lines]
    assert rest[-2] == "data: [DONE]"
