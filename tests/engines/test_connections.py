"""Connections to one server: what is reused, what is closed, and where a reply ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from atts.engines import connections
from atts.engines.connections import (
    BrokenReplyError,
    Connections,
    DisconnectedError,
    Reply,
)

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Answers the n-th request with ``replies[n]``, and keeps the connection unless it is told."""

    def __init__(self, replies: list[bytes], closes: bool) -> None:
        self.replies = replies
        self.closes = closes
        self.ended = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while self.replies:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(self.replies.pop(0))
                if self.closes:
                    break
            else:
                await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.ended += 1
            writer.close()


@asynccontextmanager
async def served(
    *replies: bytes, closes: bool = False
) -> AsyncIterator[tuple[Server, Connections]]:
    server = Server(list(replies), closes)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    pool = Connections(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    try:
        yield server, pool
    finally:
        await pool.aclose()
        listening.close()


async def ask(pool: Connections, most_bytes: int = 1_000) -> Reply:
    return await pool.send(GET, most_bytes, 20.0)


async def test_a_connection_is_used_again() -> None:
    async with served(OK, OK, OK) as (_, pool):
        assert [(await ask(pool)).body for _ in range(3)] == [b"ok"] * 3
        assert pool.opened == 1


@pytest.mark.parametrize(
    "first",
    [
        OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"),
        OK + b"and what nobody asked for",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
async def test_a_connection_that_is_to_end_or_says_more_is_not(first: bytes) -> None:
    async with served(first, OK) as (_, pool):
        try:
            assert (await ask(pool)).body == b"ok"
        except BrokenReplyError:
            assert b"nobody asked" in first
        assert (await ask(pool)).body == b"ok"
        assert pool.opened == 2


async def test_idle_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "KEEP_ALIVE_SECONDS", 0.02)
    async with served(OK, OK) as (server, pool):
        await ask(pool)
        async with asyncio.timeout(20):
            while not server.ended:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await ask(pool)
        assert pool.opened == 2


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
    ],
)
async def test_each_way_to_end_a_reply(reply: bytes) -> None:
    async with served(reply, closes=True) as (_, pool):
        found = await ask(pool)
    assert (found.status, found.body, found.is_whole) == (200, b"ok", True)
    assert "link" not in found.headers


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "ended after 2 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "ended after 2"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000, "too many headers"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 30_000, "too many headers"),
    ],
)
async def test_a_reply_that_is_none(reply: bytes, says: str) -> None:
    async with served(reply, closes=True) as (_, pool):
        with pytest.raises(BrokenReplyError, match=says):
            await ask(pool)


async def test_no_reply_at_all() -> None:
    async with served(b"", closes=True) as (_, pool):
        with pytest.raises(DisconnectedError):
            await ask(pool)


async def cancelled(pool: Connections) -> None:
    """A request whose connection is cut while it waits."""
    task = asyncio.create_task(ask(pool))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


NO_REPLY = b""


@pytest.mark.parametrize("seconds", [20.0, 0.0])
async def test_what_takes_the_place_of_a_cancelled_request_goes_to_the_same_server(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """If that was there just now."""
    monkeypatch.setattr(connections, "SAME_SERVER_SECONDS", seconds)
    async with served(OK, NO_REPLY, OK, NO_REPLY, OK) as (_, pool):
        await ask(pool)
        for _ in range(2):
            await cancelled(pool)
            await ask(pool)
        assert pool.opened == (1 if seconds else 3)


async def test_a_connection_takes_the_place_of_one_cancelled_request_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where it was counted, because the server had not been heard for long."""
    async with served(OK, NO_REPLY, OK, OK) as (_, pool):
        await ask(pool)
        await cancelled(pool)
        monkeypatch.setattr(connections, "SAME_SERVER_SECONDS", 0.0)
        await ask(pool)
        monkeypatch.setattr(connections, "SAME_SERVER_SECONDS", 20.0)
        await pool.send(GET, 1_000, 20.0, fresh=True)
        assert pool.opened == 3


async def test_after_a_connection_was_lost_another_server_may_be_there() -> None:
    async with served(OK, NO_REPLY, OK, closes=True) as (server, pool):
        await ask(pool)
        while pool.open:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        server.closes = False
        await cancelled(pool)
        await ask(pool)
        assert pool.opened == 3


async def test_of_a_longer_reply_the_beginning_is_kept_and_the_connection_is_not() -> None:
    async with served(OK, OK) as (_, pool):
        assert await ask(pool, most_bytes=1) == Reply(200, {"content-length": "2"}, b"o", False)
        assert (await ask(pool)).is_whole
        assert pool.opened == 2
