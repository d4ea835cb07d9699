"""Servers forget what earlier runs left in their caches, so that times can be compared."""

import logging
from collections.abc import Collection, Iterable
from pathlib import Path

from atts.config import Config
from atts.engines.base import emptied
from atts.engines.loading import remote_engines
from atts.engines.replicas import Replicas
from atts.engines.servers.lifecycle import started_here
from atts.engines.servers.placed import placed_at, placed_urls
from atts.engines.servers.plan import MODULES
from atts.errors import ServerError
from atts.methods.chain import Models
from atts.types import Author

_log = logging.getLogger(__name__)


async def empty_caches(
    config: Config,
    models: Models | None,
    authors: Iterable[Author],
    folders: Collection[Path],
) -> dict[Author, bool]:
    """Have servers forget what they cached: those that are ours, or all where that is asked for.

    Ours are those that were started on this machine or placed on a cluster from here: nobody else
    uses them. A server that works meanwhile refuses, so nothing is taken from another's request.

    Args:
        config: ``limits.empty_caches`` asks for all.
        models: those that are open; None: they are elsewhere, and their servers are told from here.
        authors: of the models.
        folders: where servers may have been started.

    Returns:
        Whether each of those that were told did.
    """
    found: dict[Author, bool] = {}
    for author in authors:
        options = config.options_of(author)
        is_served = options.engine in MODULES
        if not config.limits.empty_caches and not (is_served and _is_ours(config, author, folders)):
            continue
        if models is not None:
            found[author] = await emptied(models[author].engine)
        elif is_served:
            replicas = Replicas(remote_engines(options))
            try:
                found[author] = await emptied(replicas)
            finally:
                await replicas.aclose()
        else:
            found[author] = False
    return found


def _is_ours(config: Config, author: Author, folders: Collection[Path]) -> bool:
    options = config.options_of(author)
    try:
        placed = not options.urls and bool(placed_urls(options))
        return placed or any(
            started_here(options, author, folder) or placed_at(folder, author) == options.urls != ()
            for folder in folders
        )
    except ServerError as error:
        _log.warning("whether the %s's servers were started here cannot be told: %s", author, error)
        return False
