"""The life of the servers of a configuration: up, all of them at once, and down."""

import asyncio
import os
import time
from collections.abc import Callable, Collection
from pathlib import Path

from atts.config import Config
from atts.engines.http import HttpClient
from atts.engines.servers.plan import ServerPlan, answers_at, plan_servers
from atts.engines.servers.processes import (
    Running,
    ServerRecord,
    first_error,
    forget,
    read_record,
    start,
    stop,
    tail,
)
from atts.errors import EngineError, ServerError
from atts.types import Author

AUTHORS: tuple[Author, ...] = ("draft", "target")
POLL_SECONDS = 0.5
LOG_LINES = 25
"""How much of the end of its log tells why a server died."""

Progress = Callable[[Author, str, float], None]
"""Is told, now and then: whose server, what it is doing, and for how many seconds."""


async def up(
    config: Config, authors: Collection[Author], directory: Path, progress: Progress
) -> list[ServerRecord]:
    """Start servers, in parallel, and wait until all of them answer.

    If one fails, or this is cancelled, all that were started here are ended again.

    Raises:
        ConfigError: something stands in the way; see ``plan_servers``. Nothing was started.
        ServerError: a server died or did not answer in time, with the end of its log.
    """
    plans = await asyncio.to_thread(plan_servers, config, authors)
    running: list[Running] = []
    try:
        for plan in plans:
            running.append(start(plan, directory))  # noqa: PERF401 - those before must be known
        async with asyncio.TaskGroup() as waiting:
            for plan, server in zip(plans, running, strict=True):
                waiting.create_task(_until_it_answers(plan, server, progress))
    except BaseException as error:
        await asyncio.to_thread(down, directory, [server.record.author for server in running])
        if isinstance(error, BaseExceptionGroup):
            raise error.exceptions[0] from None
        raise
    return [server.record for server in running]


def down(directory: Path, authors: Collection[Author] = AUTHORS) -> list[ServerRecord]:
    """End the servers that were started in ``directory``, their children too; gives those that ran.

    Raises:
        ServerError: a record cannot be read, or a process does not end.
    """
    records = [record for author in authors if (record := read_record(directory, author))]
    ended = stop(records)
    for record in records:
        forget(directory, record.author)
    return ended


async def answers(url: str, model: str, api_key_env: str | None = None) -> bool:
    """Whether a server is ready for requests."""
    key = os.environ.get(api_key_env) if api_key_env else None
    client = HttpClient(url, model, key, timeout_seconds=10.0)
    try:
        await client.get("/health")
        await client.get("/v1/models")
    except EngineError:
        return False
    finally:
        await client.aclose()
    return True


async def _until_it_answers(plan: ServerPlan, server: Running, progress: Progress) -> None:
    began = time.monotonic()
    log = server.record.log
    while not await answers(answers_at(plan), plan.options.model, plan.options.api_key_env):
        seconds = time.monotonic() - began
        status = server.exit_status()
        if status is not None:
            cause = first_error(log)
            raise ServerError(
                f"the {plan.author}'s server ended while starting, with status {status}"
                + (f", the first error is: {cause}" if cause else "")
                + f"\nThe end of {log}:\n{tail(log, LOG_LINES)}"
            )
        if seconds > plan.options.server.start_seconds:
            raise ServerError(
                f"the {plan.author}'s server does not answer after {seconds:.0f} s; raise "
                f"server.start_seconds if it only needs longer. The end of {log}:\n"
                f"{tail(log, LOG_LINES)}"
            )
        last = tail(log, 1).strip()
        progress(plan.author, last, seconds)
        await asyncio.sleep(POLL_SECONDS)
    progress(plan.author, "answers", time.monotonic() - began)
