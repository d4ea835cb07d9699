"""``atts view``: the report of runs that go on, in a browser of this machine."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from atts.analysis.report import read_reports
from atts.errors import AttsError
from atts.gateway.access import Access
from atts.gateway.listening import listen, serve_on
from atts.grading.grader import Grader, VerdictCache
from atts.reports.html import render_page, render_waiting
from atts.store.folders import find_runs

RESTS = 4.0
"""Times as long as a page took to make, before the next one is made."""
DRAIN_SECONDS = 5.0
_RECORDS = {".json", ".jsonl", ".yaml"}


class _Made(NamedTuple):
    version: str
    page: str


class GrowingReport:
    """The page of some runs, made anew when one of them has changed, or another has come."""

    def __init__(self, paths: Sequence[Path], grader: Grader) -> None:
        """``paths``: run directories, or folders of such."""
        self._paths = paths
        self._grader = grader
        self._made: _Made | None = None
        self._rests_until = 0.0
        self._making = asyncio.Lock()

    def version(self) -> str:
        """Differs from that of the page where another page is worth asking for."""
        if self._made and time.monotonic() < self._rests_until:
            return self._made.version
        return self._found()

    def _found(self) -> str:
        """A digest of what the runs' files are."""
        seen = []
        with suppress(AttsError, OSError):
            for directory in find_runs(self._paths).runs:
                for path in sorted(directory.iterdir()):
                    if path.suffix in _RECORDS:
                        found = path.stat()
                        seen.append((str(path), found.st_size, found.st_mtime_ns))
        return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]

    async def page(self) -> str:
        """As of now, or of the last time that the runs could be read. Before that a page that says
        why they cannot, and waits.
        """
        async with self._making:
            version = self.version()
            if self._made and self._made.version == version:
                return self._made.page
            began = time.monotonic()
            try:
                page = await asyncio.to_thread(self._make, version)
            except (AttsError, OSError) as error:
                page = self._made.page if self._made else render_waiting(str(error))
            else:
                self._made = _Made(version, page)
            # The cores are the run's own, mostly.
            self._rests_until = time.monotonic() + RESTS * (time.monotonic() - began)
            return page

    def _make(self, version: str) -> str:
        reports = read_reports(find_runs(self._paths).runs, self._grader)
        return render_page(reports, version=version)


def application(growing: GrowingReport) -> ASGIApp:
    """The page at ``/`` and what its script asks for, to requests of this machine alone."""
    unkept = {"Cache-Control": "no-store"}

    async def page(_: Request) -> HTMLResponse:
        return HTMLResponse(await growing.page(), headers=unkept)

    async def version(_: Request) -> PlainTextResponse:
        return PlainTextResponse(await asyncio.to_thread(growing.version), headers=unkept)

    return Access(Starlette(routes=[Route("/", page), Route("/version", version)]), None)


async def view(paths: Sequence[Path], host: str, port: int, started: Callable[[str], None]) -> None:
    """Serve the report of runs until SIGTERM or SIGINT, to this machine alone.

    Args:
        paths: run directories, or folders of such, in which more may come.
        host: an address of this machine's own.
        port: 0 takes a free one.
        started: is told the address.

    Raises:
        ConfigError: it cannot listen there.
    """
    with Grader(cache=VerdictCache()) as grader, listen(host, port) as listener:
        await serve_on(listener, application(GrowingReport(paths, grader)), DRAIN_SECONDS, started)
