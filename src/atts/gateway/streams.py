"""Replies that end when the client goes away, and server-sent events."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from atts.errors import RequestError
from atts.gateway.replies import (
    END_OF_STREAM,
    KEEP_ALIVE,
    error_body,
    error_response,
    event,
    told,
)

KEEP_ALIVE_SECONDS = 5.0
"""A stream that has nothing to say for so long says that it lives."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # a proxy that collects pieces would undo the streaming
]


class ClientGoneError(Exception):
    """Nobody waits for the reply any more."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T:
    """The result of ``work``, which is cancelled if the client goes away.

    Raises:
        ClientGoneError: it went away.
        RequestError: this was cancelled, as the server does at its end with what is left.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    except asyncio.CancelledError:
        raise RequestError(
            "the server ends; ask again once it is back",
            status=503,
            kind="server_error",
            code="server_ends",
        ) from None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait([working, leaving])
        with contextlib.suppress(asyncio.CancelledError):
            working.exception()  # looked at: where nobody waits for it, it is not worth a word


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


Events = AsyncGenerator[object, None]


class EventStream(Response):
    """A stream of server-sent events, closed as soon as the client is gone.

    An error before the first event becomes a plain reply with its status; a later one an event.
    """

    def __init__(self, events: Events) -> None:
        """``events`` gives what becomes JSON; it is closed whatever happens."""
        self.background = None
        self._events = events
        self._began = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self._stream(send))
        except ClientGoneError:
            return
        except Exception as error:
            failure = told(error)
            if failure.status == 500:
                _log.exception("a reply failed")
            if not self._began:
                await error_response(failure)(scope, receive, send)
                return
            await self._say(send, event(error_body(failure)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _stream(self, send: Send) -> None:
        async with aclosing(_with_pauses(self._events)) as events:
            async for each in events:
                await self._say(send, KEEP_ALIVE if each is None else event(each))
        await self._say(send, END_OF_STREAM)

    async def _say(self, send: Send, content: bytes) -> None:
        if not self._began:
            self._began = True
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": content, "more_body": True})


async def _with_pauses(events: Events) -> Events:
    """The events, and None wherever there is none for ``KEEP_ALIVE_SECONDS``."""
    coming: asyncio.Task[object] | None = None
    async with aclosing(events):
        try:
            while True:
                coming = coming or asyncio.create_task(_next(events))
                await asyncio.wait([coming], timeout=KEEP_ALIVE_SECONDS)
                if not coming.done():
                    yield None
                elif (each := coming.result()) is _END:
                    return
                else:
                    coming = None
                    yield each
        finally:
            if coming and not coming.done():
                coming.cancel()
                await asyncio.wait([coming])


_END = object()


async def _next(events: Events) -> object:
    return await anext(events, _END)
