"""Each way in which a server can misbehave, and the one error that it becomes."""

import asyncio
import errno
import gzip
import os
import socket
import struct
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atts.engines.http import MOST_BYTES, HttpClient, seconds_to_wait
from atts.errors import (
    ConfigError,
    ContextLengthError,
    EngineBusyError,
    EngineConnectionError,
    EngineError,
    EngineReplyError,
    EngineServerError,
    EngineTimeoutError,
    EngineUnavailableError,
    RequestRefusedError,
)

KEY = "sk-very-secret"
RESET = b"reset the connection"


class RawServer:
    """Answers the n-th request with ``replies[n]``, the last of them from then on.

    A reply is written as it is and the connection closed; None never answers. ``RESET`` ends the
    connection in the way in which a request to one that is long closed finds out.
    """

    def __init__(self, *replies: bytes | None) -> None:
        self.replies = replies
        self.heads: list[bytes] = []
        self.closed_by_client = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            reply = self.replies[min(len(self.heads), len(self.replies)) - 1]
            if reply is None:
                while await reader.read(65_536):
                    pass
                self.closed_by_client.set()
            elif reply is RESET:
                at_once = struct.pack("ii", 1, 0)
                end = writer.get_extra_info("socket")
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            else:
                writer.write(reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed_by_client.set()
        finally:
            writer.close()


def reply(status: int, body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 %d X" % status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@asynccontextmanager
async def raw_server(*replies: bytes | None) -> AsyncIterator[tuple[RawServer, HttpClient]]:
    raw = RawServer(*replies)
    server = await asyncio.start_server(raw.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = HttpClient(f"http://127.0.0.1:{port}", "a-model", KEY, timeout_seconds=20)
    try:
        yield raw, client
    finally:
        await client.aclose()
        server.close()


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (reply(429, b"slow down"), EngineBusyError, "slow down"),
        (reply(503, b"loading"), EngineBusyError, "loading"),
        (reply(500, b"CUDA out of memory"), EngineServerError, "CUDA out of memory"),
        (reply(502, b"bad gateway"), EngineServerError, "bad gateway"),
        (reply(400, b'{"message": "no such field"}'), RequestRefusedError, "no such field"),
        (reply(401, b"who are you?"), RequestRefusedError, "api_key_env"),
        (reply(401, f"the key {KEY} is none".encode()), RequestRefusedError, "the key *** is none"),
        (reply(500, b"no room for Bearer abcdefghijk"), EngineServerError, "for Bearer ***"),
        (
            reply(302, b"", b"Location: https://me:pw@host/x"),
            RequestRefusedError,
            "https://***@host",
        ),
        (reply(404, b"Not Found"), RequestRefusedError, "address"),
        (reply(302, b"", b"Location: /login"), RequestRefusedError, "redirects to '/login'"),
        (
            reply(308, b"", b"Location: https://elsewhere/\x1b[31m" + b"x" * 999),
            RequestRefusedError,
            "redirects to 'https://elsewhere/\\x1b[31mxxx",
        ),
        (reply(400, b"is longer than the model's context length"), ContextLengthError, "longer"),
        (reply(400, b"maximum context length is 99 tokens"), ContextLengthError, "99"),
        (reply(200, b'{"half": '), EngineReplyError, "not JSON"),
        (reply(200, b"<html>Sign in</html>"), EngineReplyError, "proxy's error page"),
        (reply(200, b'{"l": [-1.0, NaN]}'), EngineReplyError, "NaN where a number should be"),
        (reply(200, b'{"l": [-Infinity]}'), EngineReplyError, "Infinity where a number"),
        (reply(200, b'{"l": [-1e999]}'), EngineReplyError, "1e999 where a number"),
        (reply(200, b'{"l": [nan]}'), EngineReplyError, "nan where a number"),
        (reply(200, b"[" * 9_999), EngineReplyError, "not JSON"),
        (reply(200, b'{"error": {"message": "no memory"}}'), EngineReplyError, "no memory"),
        (reply(200, b'{"error": "\\u001b[31m"}'), EngineReplyError, r"\u001b[31m"),
        (reply(200, b"[1]", b"Content-Encoding: gzip"), EngineReplyError, "cannot be unpacked"),
        (
            reply(200, gzip.compress(b"[1]")[:-9], b"Content-Encoding: gzip"),
            EngineReplyError,
            "its end is missing",
        ),
        (
            reply(200, zlib.compress(b"[1]"), b"Content-Encoding: deflate"),
            EngineReplyError,
            "packed by 'deflate', which was not asked for",
        ),
        (
            reply(500, b"\x0b\x02\x80no\x03", b"Content-Encoding: br"),
            EngineServerError,
            "status 500: ''",
        ),
        (reply(200, b"x" * 50)[:-20], EngineConnectionError, "server"),
        (b"not HTTP at all\r\n\r\n", EngineConnectionError, "server"),
        (b"", EngineConnectionError, "server"),
        (RESET, EngineConnectionError, "server"),
    ],
)
async def test_each_fault_has_its_error_with_server_and_request(
    answer: bytes, error: type[EngineError], says: str
) -> None:
    async with raw_server(answer) as (_, client):
        with pytest.raises(EngineError) as caught:
            await client.post("/generate", {"input_ids": [1, 2, 3]})
    message = str(caught.value)
    assert type(caught.value) is error
    assert client.url in message
    assert "a-model" in message
    assert "POST /generate, 21 bytes" in message
    assert says in message
    assert KEY not in message


async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends, in pieces, as long as anybody reads."""
    writer.write(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n")
    try:
        while True:
            writer.write(b"100000\r\n" + b"1" * 2**20 + b"\r\n")
            await writer.drain()
    except ConnectionError:
        writer.close()


async def test_a_reply_without_end_is_left() -> None:
    server = await asyncio.start_server(endless, "127.0.0.1", 0)
    client = HttpClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "a-model")
    with pytest.raises(EngineReplyError, match=r"longer than 5,000 bytes.*'1111"):
        await client.post("/generate", {}, most_bytes=5_000)
    with pytest.raises(EngineReplyError, match=rf"longer than {MOST_BYTES:,} bytes"):
        await client.get("/metrics")
    await client.aclose()
    server.close()


BOMB = gzip.compress(b"[" + b"1," * 5_000_000 + b"1]")
"""Ten kilobytes, and ten megabytes unpacked."""


@pytest.mark.parametrize("packed", [True, False])
async def test_the_limit_of_a_reply_is_that_of_the_unpacked_one(packed: bool) -> None:
    header = [b"Content-Encoding: gzip"] if packed else []
    body, whole = b"[" + b" " * 997 + b"7]", b"[7" + b" " * 999 + b"]"
    answers = [gzip.compress(each) if packed else each for each in (body, whole)]
    async with raw_server(*(reply(200, each, *header) for each in answers)) as (raw, client):
        assert await client.post("/generate", {}, most_bytes=1_000) == [7]
        with pytest.raises(EngineReplyError, match="longer than 1,000 bytes"):
            await client.post("/generate", {}, most_bytes=1_000)
        assert b"Accept-Encoding: gzip\r\n" in raw.heads[0]


async def test_a_bomb_is_unpacked_no_further_than_the_limit() -> None:
    async with raw_server(reply(200, BOMB, b"Content-Encoding: gzip")) as (_, client):
        tracemalloc.start()
        with pytest.raises(EngineReplyError, match="longer than 100,000 bytes"):
            await client.post("/generate", {}, most_bytes=100_000)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 2_000_000


async def test_of_a_long_error_only_the_beginning_is_read() -> None:
    async with raw_server(reply(500, b"no! " * 1_000_000)) as (_, client):
        with pytest.raises(EngineServerError, match=r"'no! no! .*\.\.\.'"):
            await client.post("/generate", {})


async def test_nobody_there_is_a_connection_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = HttpClient(f"http://127.0.0.1:{unused.getsockname()[1]}", "a-model")
        with pytest.raises(EngineConnectionError, match="is the server running"):
            await client.get("/v1/models")
    await client.aclose()


async def test_too_many_open_files_are_not_blamed_on_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_more(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(socket, "socket", no_more)
    async with aclosing(HttpClient("http://127.0.0.1:9", "m")) as client:
        with pytest.raises(EngineConnectionError, match="this process, and not the server") as told:
            await client.post("/generate", {})
    assert "is the server running" not in str(told.value)


async def test_a_server_that_hangs_is_given_up() -> None:
    async with raw_server(None) as (raw, client):
        with pytest.raises(EngineTimeoutError, match=r"no reply within 0\.05 s"):
            await client.post("/generate", {}, timeout_seconds=0.05)
        await asyncio.wait_for(raw.closed_by_client.wait(), 10)


async def test_cancelling_closes_the_connection() -> None:
    async with raw_server(None) as (raw, client):
        task = asyncio.create_task(client.post("/generate", {}))
        while not raw.heads:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(raw.closed_by_client.wait(), 10)


@pytest.mark.parametrize("end", [b"", RESET])
async def test_an_idle_connection_that_the_server_closed_is_replaced_once(end: bytes) -> None:
    async with raw_server(end, reply(200, b"[1]")) as (raw, client):
        assert await client.post("/generate", {}) == [1]
        assert len(raw.heads) == 2


async def test_a_second_idle_connection_that_the_server_closed_is_not_tried() -> None:
    asked: list[int] = []
    serving: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Ends each connection at its second request, before which all are open."""
        serving.append(asyncio.current_task())
        number = 0
        with suppress(asyncio.IncompleteReadError):
            while number < 2:
                await reader.readuntil(b"{}")
                number += 1
                asked.append(number)
                while len(asked) < 3:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                if number == 1:
                    writer.write(reply(200, b"[1]"))
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = HttpClient(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", "m")
    await asyncio.gather(*(client.post("/generate", {}) for _ in range(3)))
    assert (client.connections, asked) == (3, [1, 1, 1])
    assert await client.post("/generate", {}) == [1]
    assert (client.connections, asked) == (4, [1, 1, 1, 2, 1])
    await client.aclose()
    await asyncio.wait([task for task in serving if task])
    listening.close()


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(b"Retry-After: 7", 7.0), (b"Retry-After: later", None), (b"X-Other: 1", None)],
)
async def test_retry_after_comes_with_the_error(header: bytes, seconds: float | None) -> None:
    async with raw_server(reply(503, b"", header)) as (_, client):
        with pytest.raises(EngineUnavailableError) as caught:
            await client.post("/generate", {})
    assert caught.value.retry_after == seconds


@given(st.text() | st.from_regex(r"Wed, 21 Oct \d+ 07:28:00 [+-]?\d+", fullmatch=True))
def test_any_retry_after_is_a_time_to_wait_or_none(header: str) -> None:
    seconds = seconds_to_wait(header)
    assert seconds is None or 0.0 <= seconds < float("inf")


async def test_new_connections_are_counted() -> None:
    async with raw_server(reply(200, b"[1]")) as (_, client):
        for count in (1, 2):
            await client.get("/v1/models")
            assert client.connections == count


async def test_the_api_key_is_sent_and_an_empty_reply_is_none() -> None:
    async with raw_server(reply(200, b"")) as (raw, client):
        assert await client.get("/health") is None
        assert f"Authorization: Bearer {KEY}".encode() in raw.heads[0]


async def test_closing_fails_what_is_in_flight() -> None:
    async with raw_server(None) as (raw, client):
        task = asyncio.create_task(client.post("/generate", {}))
        while not raw.heads:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await client.aclose()
        with pytest.raises(EngineError, match="closed"):
            await task
        with pytest.raises(EngineError, match="closed"):
            await client.get("/v1/models")


def test_a_known_route_at_the_end_of_an_address_is_cut_off() -> None:
    assert HttpClient("http://host:1/v1/chat/completions", "a-model").url == "http://host:1"


@pytest.mark.parametrize("url", ["127.0.0.1:40000", "ftp://host", "", "http://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="http://HOST:PORT"):
        HttpClient(url, "a-model")


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="api_key_env") as caught:
        HttpClient(f"http://me:{KEY}@host:1", "a-model")
    assert KEY not in str(caught.value)
