"""Kept-open HTTP/1.1 connections to one server, each with one request at a time.

asyncio's transports carry the bytes and llhttp reads them, by httptools: a general client spends
nearly three times the processor time on a request (``benchmarks/client.py``), for redirects,
cookies, proxies, forms and tracing, none of which an engine wants.
"""

import asyncio
import math
import ssl
from collections import deque
from typing import NamedTuple
from urllib.parse import urlsplit

import httptools

CONNECT_SECONDS = 15.0
KEEP_ALIVE_SECONDS = 4.0
"""Idle connections are closed before uvicorn closes them, which is after five seconds."""

SAME_SERVER_SECONDS = 1.0
"""So shortly after a reply the server is the same: none ends and another begins meanwhile."""

MOST_OF_AN_ERROR = 65_536
"""Bytes that are read of a reply with another status than 200."""

_MOST_AROUND = 65_536
"""Bytes of a reply that are not its body: status and headers. As many more are borne as eight
times its body, which may come in very small pieces."""


class DisconnectedError(Exception):
    """The connection ended before a reply began."""


class BrokenReplyError(Exception):
    """A reply is not HTTP, or ended in its middle."""


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    """By their names in lower case."""
    body: bytes
    """As it was sent; where it is longer than what was asked for, its beginning."""
    is_whole: bool


class Connections:
    """Connections to one server; they belong to the event loop in which they are used."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port
        self._tls: ssl.SSLContext | None = None
        if parts.scheme == "https":
            self._tls = ssl.create_default_context()
        self.opened = 0
        """How many were opened so far that may lead to another server than those before: not those
        in place of what was cancelled, as it is with every take-over while the draft writes ahead.
        """
        self.heard = -math.inf
        """When a reply came, if no connection was lost since."""
        self.open: set[_Connection] = set()
        self._cancelled = 0
        self._idle: deque[_Connection] = deque()  # the one that was used last is last
        self._sweep: asyncio.TimerHandle | None = None

    async def send(
        self, request: bytes, most_bytes: int, seconds: float, fresh: bool = False
    ) -> Reply:
        """Send a whole request and wait for the whole reply. Cancelling closes the connection.

        Of a longer reply no more than ``most_bytes``, packed as it comes, is held. ``fresh`` has
        a new connection opened for it.

        Raises:
            TimeoutError: no whole reply came within ``seconds``.
            DisconnectedError: the connection ended before a reply began.
            BrokenReplyError: the reply is not HTTP, or ended in its middle.
            OSError: there is no server, or the connection broke.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        kept = None if fresh else self._take(loop.time())
        connection = kept or await self._connect(until)
        timer = loop.call_at(until, connection.fail, TimeoutError())
        try:
            reply = await connection.exchange(request, most_bytes)
        except BaseException as error:
            connection.close()
            self._cancelled += isinstance(error, asyncio.CancelledError)
            raise
        finally:
            timer.cancel()
        self.heard = loop.time()
        if connection.is_reusable:
            self._put_back(connection, loop)
        else:
            connection.close()
        return reply

    async def aclose(self) -> None:
        """Close all; what is in flight fails."""
        if self._sweep:
            self._sweep.cancel()
        for connection in list(self.open):
            connection.close()
        await asyncio.sleep(0)  # in which the transports let go of their sockets

    def _take(self, now: float) -> "_Connection | None":
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed and now - connection.idle_since < KEEP_ALIVE_SECONDS:
                return connection
            connection.close()
        return None

    async def _connect(self, until: float) -> "_Connection":
        loop = asyncio.get_running_loop()
        # Without happy_eyeballs_delay, by which Python 3.11 loses sockets where it is cancelled.
        async with asyncio.timeout_at(min(until, loop.time() + CONNECT_SECONDS)):
            _, connection = await loop.create_connection(
                lambda: _Connection(self),
                self._host,
                self._port or (443 if self._tls else 80),
                ssl=self._tls,
            )
        replaces = self._cancelled > 0
        self._cancelled -= replaces
        if not replaces or loop.time() - self.heard >= SAME_SERVER_SECONDS:
            self.opened += 1
        return connection

    def _put_back(self, connection: "_Connection", loop: asyncio.AbstractEventLoop) -> None:
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(KEEP_ALIVE_SECONDS, self._close_idle, loop)

    def _close_idle(self, loop: asyncio.AbstractEventLoop) -> None:
        oldest = loop.time() - KEEP_ALIVE_SECONDS
        while self._idle and (self._idle[0].is_closed or self._idle[0].idle_since <= oldest):
            self._idle.popleft().close()
        self._sweep = None
        if self._idle:
            later = self._idle[0].idle_since + KEEP_ALIVE_SECONDS
            self._sweep = loop.call_at(later, self._close_idle, loop)


class _Connection(asyncio.Protocol):
    """One connection. Its methods without a word are called by asyncio and by httptools."""

    def __init__(self, of: Connections) -> None:
        self._of = of
        self.is_closed = False
        self.is_reusable = False
        self.idle_since = 0.0
        self._waiting: asyncio.Future[Reply] | None = None
        self._parser = httptools.HttpResponseParser(self)
        # Some servers echo what they should not; of one reply at a time, nothing else can come.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True
        )
        self._begin(0)

    def _begin(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._size = self._received = self._status = 0

    def exchange(self, request: bytes, most_bytes: int) -> asyncio.Future[Reply]:
        """Send a request; the reply is that of the future."""
        self.is_reusable = False
        self._begin(most_bytes)
        self._waiting = asyncio.get_running_loop().create_future()
        if self.is_closed:
            self.fail(DisconnectedError("the server closed the connection"))
        else:
            self._transport.write(request)
        return self._waiting

    def fail(self, error: Exception) -> None:
        """Let the request fail, if there is one still."""
        if self._waiting and not self._waiting.done():
            self._waiting.set_exception(error)
        self.close()

    def close(self) -> None:
        """At once; what was not sent yet is not sent any more."""
        if not self.is_closed:
            self.is_closed = True
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type
        self._transport = transport
        self._of.open.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.is_closed:  # by the server
            self._of.heard = -math.inf
        self.is_closed = True
        self._of.open.discard(self)
        if not self._waiting or self._waiting.done():
            return
        if not self._status:
            self.fail(error or DisconnectedError("the server closed the connection"))
        elif error is None and not self._headers.keys() & {"content-length", "transfer-encoding"}:
            self._done(is_whole=True)  # a reply of no known length ends with its connection
        else:
            self.fail(BrokenReplyError(f"the reply ended after {self._size:,} bytes"))

    def data_received(self, data: bytes) -> None:
        if not self._waiting or self._waiting.done():
            self.close()  # nothing was asked for
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.fail(BrokenReplyError(f"the reply is not HTTP ({error})"))
        else:
            if self._received > _MOST_AROUND + 9 * self._size and not self._waiting.done():
                self.fail(BrokenReplyError("the reply has too many headers"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode(errors="replace")

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if self._status != 200:
            self._most_bytes = min(self._most_bytes, MOST_OF_AN_ERROR)

    def on_body(self, body: bytes) -> None:
        if self._size <= self._most_bytes:
            self._body.append(body)
            self._size += len(body)
            if self._size > self._most_bytes:
                self._done(is_whole=False)  # the rest is on its way

    def on_message_complete(self) -> None:
        if self._status < 200:  # "wait", before the reply itself
            self._headers.clear()
            self._status = 0
        elif self._size <= self._most_bytes:
            self.is_reusable = self._parser.should_keep_alive() and not self.is_closed
            self._done(is_whole=True)

    def _done(self, *, is_whole: bool) -> None:
        if self._waiting and not self._waiting.done():
            body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            reply = Reply(self._status, self._headers, body[: self._most_bytes], is_whole)
            self._waiting.set_result(reply)
            self._body = []
