"""An engine that serves nothing is waited for, instead of failing one chain after the other."""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from typing import Protocol

from atts.engines.base import Engine, Metered
from atts.errors import (
    EngineConnectionError,
    EngineError,
    EngineGoneError,
    EngineReplyError,
    EngineUnavailableError,
)

IN_A_ROW = 5
"""So many requests that fail in a passing way, one after the other, are an outage."""
FIRST_LOOK_SECONDS = 1.0
LONGEST_LOOK_SECONDS = 30.0
"""Whether the server is there again is looked at after these; the wait doubles in between."""
FOLLOW_SECONDS = 5.0
"""The first request after an outage goes alone. Once it has been under way for so long the others
follow: it may be a long one."""
PATIENCE_SECONDS = 600.0

_log = logging.getLogger(__name__)


class Waited(Protocol):
    """An engine of which is known whether it serves; see ``Outage``."""

    name: str

    @property
    def is_on(self) -> bool:
        """Whether it serves nothing."""
        ...

    def patience_left(self, now: float) -> float | None:
        """Seconds for which it is still waited for; None if it serves."""
        ...

    async def ends_within(self, seconds: float) -> None:
        """Wait so long, or until it serves."""
        ...


class Outage:
    """Whether an engine serves, by what became of its requests.

    While it does not, whoever wants to send a request waits in ``over``. One of them at a time
    looks whether the engine is there again: it asks for the load, where the engine tells one, and
    then sends its own request. An outage ends with the first result, but not with one that was
    asked for before the last connection failed: a server that is being stopped still writes what
    it has begun, and takes nothing new. One that has lasted for the patience makes all who wait
    give up; whoever asks later begins anew.
    """

    def __init__(
        self, engine: Engine, patience_seconds: float = PATIENCE_SECONDS, name: str = "model"
    ) -> None:
        """``name`` is that of the model that it serves, for messages."""
        self.name = name
        self.tell: Callable[[str], None] = _log.warning
        """Is told when an outage begins and when it ends."""
        self.waited_in_vain = 0
        """How often the patience came to its end."""
        self._engine = engine
        self._patience = patience_seconds
        self._failures = 0  # in a row
        self._lost = -math.inf  # when a connection failed last
        self._since: float | None = None  # the beginning, if there was no result after it
        self._error: EngineError | None = None
        self._looks = 0
        self._is_told = False
        self._is_led = False  # a request is under way to see whether it is over
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()

    @property
    def is_on(self) -> bool:
        """Whether the engine serves nothing, as far as is known."""
        return self._failures >= IN_A_ROW

    def patience_left(self, now: float) -> float | None:
        """Seconds until all give up, at a moment of the loop's clock; None without an outage."""
        since = self._since  # once, as another thread may ask
        if since is None or not self.is_on:
            return None
        return max(0.0, since + self._patience - now)

    def failed(self, error: EngineUnavailableError, went_first: bool = False) -> None:
        """A request has failed in a passing way; ``went_first`` is what ``over`` said of it."""
        self._failures += 1
        self._error = error
        now = asyncio.get_running_loop().time()
        if isinstance(error, EngineConnectionError):
            self._lost = now
        if self.is_on and self._since is None:
            self._since = now
        if went_first:
            self._still_on(error)
            self._is_led = False
            self._changed.set()

    def _still_on(self, error: EngineError) -> None:
        """Who looked whether it is over has met this error."""
        self._error = error
        if not self._is_told:  # and not before: a few requests may fail while others are served
            self._is_told = True
            self.tell(
                f"the {self.name}'s engine serves no request, and is waited for, for "
                f"{self._patience:g} s at most (limits.patience_seconds): {error}"
            )

    def answered(self, sent: float, went_first: bool = False) -> None:
        """A request that was sent then was served, or refused for its own sake."""
        if sent < self._lost and not went_first:
            return
        if self._is_told:
            self.tell(f"the {self.name}'s engine serves again")
        self._failures = self._looks = 0
        self._since, self._is_led, self._is_told = None, False, False
        self._changed.set()
        self._ended.set()

    async def ends_within(self, seconds: float) -> None:
        """Wait so long, or until requests are sent again; for who has none, and only watches."""
        self._ended.clear()
        # Not wait_for, which may swallow a cancellation in Python 3.11.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()

    async def over(self, waited_in_vain: int) -> bool:
        """Wait until a request may be sent; whether it goes first, to see whether it is served.

        ``waited_in_vain`` is what that was when the request was asked for.

        Raises:
            EngineGoneError: the patience is at its end, or was since then.
        """
        while self.is_on and waited_in_vain == self.waited_in_vain:
            async with self._turn:
                if self.is_on and waited_in_vain == self.waited_in_vain and await self._look():
                    self._is_led = True
                    return True
        if waited_in_vain != self.waited_in_vain:
            raise self._gone()
        return False

    def _gone(self) -> EngineGoneError:
        return EngineGoneError(
            f"the {self.name}'s engine served no request for {self._patience:g} s "
            f"(limits.patience_seconds): {self._error}\nThe finished chains are kept; once it is "
            "there again, the same command goes on from here"
        )

    async def _look(self) -> bool:
        """Whether the engine is there, as far as it can be asked; after a wait."""
        loop = asyncio.get_running_loop()
        if self._is_led:
            if not await self._turns_out_within(FOLLOW_SECONDS):
                self._failures, self._is_led = IN_A_ROW - 1, False  # one that fails is enough
                self._ended.set()
            return False
        left = self.patience_left(loop.time())
        if not left:
            # For all who wait by now. Who comes later finds out for itself.
            self.waited_in_vain += 1
            self._failures, self._since, self._looks = IN_A_ROW - 1, None, 0
            self._ended.set()
            return False
        wait = min(FIRST_LOOK_SECONDS * 2.0**self._looks, LONGEST_LOOK_SECONDS, left)
        self._looks += 1
        if await self._turns_out_within(wait):
            return False
        try:
            if isinstance(self._engine, Metered):
                await self._engine.meter()
        except EngineReplyError:
            return True  # it answers, if with figures that are none
        except EngineError as error:
            self._still_on(error)
            return False
        return True

    async def _turns_out_within(self, seconds: float) -> bool:
        """Wait so long, or until something is served or what went first fails; whether it did."""
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True
