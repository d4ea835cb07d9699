"""The servers of a suite's pairs, on the nodes of a cluster."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from atts.cluster import servers
from atts.config import Config
from atts.engines.servers import lifecycle
from atts.engines.servers.placed import (
    forget_placement,
    read_placement,
    settings_of,
    with_urls,
)
from atts.errors import ServerError
from atts.runs.suite import Say, described, warm
from atts.types import Author


class PlacedServers:
    """As ``atts servers up --ray`` places them; see ``PairServers``."""

    def __init__(self, address: str) -> None:
        """``address``: of the cluster; see ``connected``."""
        self._address = address

    async def up(
        self, pair: str, config: Config, authors: Sequence[Author], folder: Path, say: Say
    ) -> Config:
        """Place them; their addresses are in the configuration."""
        urls: dict[Author, tuple[str, ...]] = {}
        for author in described(config, authors):
            urls[author] = await asyncio.to_thread(_left, config, author, folder)
            if urls[author]:
                say(f"{pair}: the {author}'s servers are still up, which this suite placed before")
        if ours := [author for author, found in urls.items() if not found]:
            began = time.monotonic()
            say(f"{pair}: placing the servers of {' and '.join(ours)} on the cluster")
            for placed in await servers.up(config, ours, folder, self._address, lambda *_: None):
                urls[placed.author] = placed.urls
            say(f"{pair}: they answer after {time.monotonic() - began:.0f} s")
        reached = with_urls(config, urls)
        await warm(pair, reached, ours, say)
        return reached

    def down(self, folder: Path, say: Say | None = None) -> object:
        """End them, and what a start of the suite without a cluster has left on this machine."""
        servers.down(folder, tell=say)
        return lifecycle.down(folder, tell=say)


def _left(config: Config, author: Author, folder: Path) -> tuple[str, ...]:
    """Where a model's servers answer that an earlier start has placed; others of it are ended."""
    lifecycle.down(folder, (author,))  # of a start without a cluster
    placement = read_placement(folder, author)
    if placement is None:
        return ()
    try:
        found = servers.status(folder, author)
        if placement.settings == settings_of(config.options_of(author)) and all(
            kept and kept.is_answering for _, kept in found
        ):
            return tuple(server.url for server, _ in found)
        servers.down(folder, (author,))
    except ServerError:  # the cluster has ended, and they with it
        forget_placement(folder, author)
    return ()
