"""The HTTP client of the engines: JSON to one server, and one typed error for each fault.

orjson, because a chain of thousands of token ids crosses with every request.
"""

import errno
import math
import re
import zlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import orjson

from atts.config.addresses import server_address
from atts.config.secrets import hide
from atts.engines.base import ChainMark
from atts.engines.connections import (
    MOST_OF_AN_ERROR,
    BrokenReplyError,
    Connections,
    DisconnectedError,
    Reply,
)
from atts.errors import (
    ConfigError,
    ContextLengthError,
    EngineBusyError,
    EngineConnectionError,
    EngineError,
    EngineReplyError,
    EngineServerError,
    EngineTimeoutError,
    RequestRefusedError,
)

Json: TypeAlias = Any
"""Parsed JSON, of which nothing is known yet."""

MOST_BYTES = 4 * 2**20
"""Of a reply, unpacked, unless a request says otherwise."""

NO_JSON_NUMBER = "Out of range float values"
"""What a server in Python says, with a status of 400 or 500, that would have sent NaN."""

_FAILED_ARITHMETIC = (
    "the model's arithmetic failed on the server; look at its precision (--dtype), its weights and "
    "its log"
)

_TOO_LONG = (
    "context length",
    "longer than",
    "max_model_len",
    "maximum model length",
    "context size",
)
"""What SGLang and vLLM say, with a status of 400, of a chain that does not fit."""

_QUOTED = 300
"""Characters of a server's own words that a message quotes."""

_NUMBER = re.compile(r"-?(?:nan|inf(?:inity)?|[0-9][0-9.e+]*)", re.IGNORECASE)


class HttpClient:
    """Sends JSON requests to one server; any number of them at a time.

    Cancelling the task that awaits a request closes its connection.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key: str | None = None,
        timeout_seconds: float = 900.0,
    ) -> None:
        """Prepare for a server; nothing is sent yet.

        Args:
            url: of the server, such as ``http://127.0.0.1:40000``.
            model: named in messages.
            api_key: sent as a bearer token, and never part of a message.
            timeout_seconds: a request fails that has no whole reply by then.

        Raises:
            ConfigError: ``url`` is not one.
        """
        try:
            self.url = server_address(url)
        except ValueError as error:
            raise ConfigError(f"{model}: {error}") from None
        self._model = model
        self._secrets = (api_key,) if api_key else ()
        parts = urlsplit(self.url)
        self._prefix = parts.path
        headers = {
            "Host": parts.netloc.encode("idna").decode()
            if not parts.netloc.isascii()
            else parts.netloc,
            "Accept": "*/*",
            # Whatever else a server may pack by would have to be unpacked with an eye on the size.
            "Accept-Encoding": "gzip",
            "Content-Type": "application/json",
            "User-Agent": "atts",
        }
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._timeout_seconds = timeout_seconds
        self._connections: Connections | None = None
        self._closed = False

    @property
    def connections(self) -> int:
        """How many were opened so far that may lead to another server than those before."""
        return self._connections.opened if self._connections else 0

    async def get(self, path: str, timeout_seconds: float | None = None) -> Json:
        """What a GET request brings back, parsed; None if it is empty. Raises as ``post`` does."""
        return self._parsed(f"GET {path}", await self._request("GET", path, None, timeout_seconds))

    async def get_text(self, path: str, timeout_seconds: float | None = None) -> str:
        """What a GET request brings back, as text. Raises as ``post`` does."""
        return (await self._request("GET", path, None, timeout_seconds)).decode(errors="replace")

    async def post(
        self,
        path: str,
        body: dict[str, Any],
        timeout_seconds: float | None = None,
        chain: ChainMark | None = None,
        most_bytes: int = MOST_BYTES,
    ) -> Json:
        """What a POST request brings back, parsed; None if it is empty.

        ``chain`` is what it belongs to, for a router in front of several servers. Of a reply that
        is longer than ``most_bytes``, unpacked, no more than that is ever held.

        Raises:
            EngineConnectionError: no server is there, or the connection broke.
            EngineTimeoutError: no whole reply came in time.
            EngineBusyError: status 429 or 503; with ``retry_after`` where the server says it.
            EngineServerError: any other status of 500 or above.
            ContextLengthError: the server says that the chain is too long for it.
            RequestRefusedError: any other status that is not a success.
            EngineReplyError: the reply is not JSON, for NaN or otherwise, too long, or an error
                with status 200.
        """
        content = orjson.dumps(body)
        reply = await self._request("POST", path, content, timeout_seconds, chain, most_bytes)
        return self._parsed(f"POST {path}, {len(content):,} bytes", reply)

    async def aclose(self) -> None:
        """Close every connection; requests that are in flight fail."""
        self._closed = True
        if self._connections:
            await self._connections.aclose()

    async def _request(
        self,
        method: str,
        path: str,
        body: bytes | None,
        timeout_seconds: float | None,
        chain: ChainMark | None = None,
        most_bytes: int = MOST_BYTES,
    ) -> bytes:
        what = f"{method} {path}" + ("" if body is None else f", {len(body):,} bytes")
        seconds = timeout_seconds or self._timeout_seconds
        request = self._head(method, path, body, chain) + (body or b"")
        fresh = False
        while True:
            if self._closed:
                raise EngineError(f"{self._at()}: the engine is closed")
            if self._connections is None:  # here, because they belong to the loop that runs them
                self._connections = Connections(self.url)
            try:
                reply = await self._connections.send(request, most_bytes, seconds, fresh)
                break
            except (DisconnectedError, ConnectionResetError, BrokenPipeError) as error:
                # Most often an idle connection that the server closed at this very moment, or
                # while this process was busy, so that the request never reached it. The others
                # that are idle may be no better. The failure of a new one is a real one.
                if self._closed or fresh:
                    raise self._broken(what, error) from error
                fresh = True
            except TimeoutError as error:
                raise EngineTimeoutError(
                    f"{self._at()}: {what}: no reply within {seconds:g} s; does the server hang? "
                    "Look at its log, or raise timeout_seconds"
                ) from error
            except (BrokenReplyError, OSError) as error:
                raise self._broken(what, error) from error
        return self._content(what, reply, most_bytes)

    def _head(self, method: str, path: str, body: bytes | None, chain: ChainMark | None) -> bytes:
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        headers = f"{self._headers}{_headers(chain)}{length}"
        return f"{method} {self._prefix}{path} HTTP/1.1\r\n{headers}\r\n".encode()

    def _content(self, what: str, reply: Reply, most_bytes: int) -> bytes:
        if reply.status != 200:
            try:
                content, _ = _unpacked(reply, MOST_OF_AN_ERROR)
            except _PackedError:
                content = b""
            raise self._refused(what, reply.status, reply.headers, content)
        try:
            content, is_whole = _unpacked(reply, most_bytes)
        except _PackedError as error:
            raise EngineReplyError(
                f"{self._at()}: {what}: the reply {error}; does a proxy in between pack it?"
            ) from error
        if not is_whole:
            raise EngineReplyError(
                f"{self._at()}: {what}: the reply is longer than {most_bytes:,} bytes, and what "
                f"was asked for is not: {quoted(content, self._secrets)}; is this the server of "
                "that model?"
            )
        return content

    def _parsed(self, what: str, content: bytes) -> Json:
        if not content:
            return None
        try:
            tree = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            words = f"{self._at()}: {what}: the reply"
            if number := _no_number(error):
                raise EngineReplyError(
                    f"{words} holds {number} where a number should be: {_FAILED_ARITHMETIC}"
                ) from error
            raise EngineReplyError(
                f"{words} is not JSON ({error}): {quoted(content, self._secrets)}; is this a model "
                "server, and not a proxy's error page?"
            ) from error
        if isinstance(tree, dict) and tree.get("error"):
            words = quoted(orjson.dumps(tree["error"]), self._secrets)
            raise EngineReplyError(
                f"{self._at()}: {what}: status 200, and yet an error: {words}; look at the "
                "server's log"
            )
        return tree

    def _at(self) -> str:
        return f"{self.url} ({self._model})"

    def _broken(self, what: str, error: BaseException) -> EngineError:
        if self._closed:
            return EngineError(f"{self._at()}: {what}: the engine is closed")
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
            return EngineConnectionError(
                f"{self._at()}: {what}: this process, and not the server, has too many open files: "
                "raise the limit (ulimit -n), or lower limits.chains"
            )
        return EngineConnectionError(
            f"{self._at()}: {what}: {str(error) or type(error).__name__}; is the server running? "
            "atts servers status and atts doctor tell"
        )

    def _refused(
        self, what: str, status: int, headers: Mapping[str, str], content: bytes
    ) -> EngineError:
        words = f"{self._at()}: {what}: status {status}: {quoted(content, self._secrets)}"
        if NO_JSON_NUMBER.encode() in content:
            return EngineReplyError(f"{words}; that is NaN or an infinity: {_FAILED_ARITHMETIC}")
        if status in (429, 503):
            error = EngineBusyError(
                f"{words}; the server has no capacity now: lower limits.*_requests"
            )
            error.retry_after = seconds_to_wait(headers.get("retry-after"))
            return error
        if status >= 500:
            return EngineServerError(f"{words}; look at the server's log")
        if status in (401, 403):
            return RequestRefusedError(
                f"{words}; name the environment variable with the API key in api_key_env"
            )
        if 300 <= status < 400:
            target = quoted(headers.get("location", ""), self._secrets)
            return RequestRefusedError(
                f"{words}; it redirects to {target}, which is not followed: give the address "
                "that the server itself answers at"
            )
        if status == 404:
            return RequestRefusedError(f"{words}; is the address that of the right server?")
        if any(sign in content.decode(errors="replace").lower() for sign in _TOO_LONG):
            return ContextLengthError(words)
        return RequestRefusedError(words)


def seconds_to_wait(retry_after: str | None) -> float | None:
    """What a Retry-After header asks for (RFC 9110, 10.2.3): seconds, or a date.

    >>> seconds_to_wait("120"), seconds_to_wait("soon"), seconds_to_wait(None)
    (120.0, None, None)
    >>> seconds_to_wait("Wed, 21 Oct 2015 07:28:00 GMT")
    0.0
    """
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            date = parsedate_to_datetime(retry_after)
        except (ValueError, OverflowError):
            return None
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        seconds = (date - datetime.now(UTC)).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _headers(chain: ChainMark | None) -> str:
    """What tells a router in front of several servers which chain a request belongs to.

    The first is read by vLLM's router, the second by SGLang's with ``--policy consistent_hashing``
    or ``manual``; a server passes over both.
    """
    if chain is None:
        return ""
    return f"X-Session-ID: {chain.name}\r\nX-SMG-Routing-Key: {chain.name}\r\n"


class _PackedError(Exception):
    """A body cannot be unpacked."""


def _unpacked(reply: Reply, most_bytes: int) -> tuple[bytes, bool]:
    """Of a body, unpacked, no more than so many bytes, and whether that is all."""
    content, is_whole = reply.body, reply.is_whole
    packing = reply.headers.get("content-encoding", "identity").lower()
    if packing == "gzip" and content:
        unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            unpacked = unpacker.decompress(content, most_bytes + 1)
        except zlib.error as error:
            raise _PackedError(f"cannot be unpacked ({error})") from error
        if is_whole and len(unpacked) <= most_bytes and not unpacker.eof:
            raise _PackedError("cannot be unpacked (its end is missing)")
        content = unpacked
    elif packing not in ("identity", "gzip"):
        raise _PackedError(f"is packed by {packing[:_QUOTED]!r}, which was not asked for")
    return content[:most_bytes], is_whole and len(content) <= most_bytes


def _no_number(error: orjson.JSONDecodeError) -> str | None:
    """NaN, an infinity or a number beyond all bounds, if that is what JSON does not know here."""
    found = _NUMBER.match(error.doc, error.pos)
    try:
        is_one = found is None or math.isfinite(float(found[0]))
    except ValueError:
        is_one = True
    return None if is_one or found is None else found[0][:20]


def quoted(value: Json, secrets: Iterable[str] = ()) -> str:
    """A server's own words or values for a message: bounded, in one line, escaped, and without
    ``secrets``: some servers repeat the key that they refuse.
    """
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    text = " ".join((value if isinstance(value, str) else repr(value)).split())
    text = hide(text[: 4 * _QUOTED], secrets)  # before the cut, which may go through a secret
    return repr(text if len(text) <= _QUOTED else text[:_QUOTED] + "...")
