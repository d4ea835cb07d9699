"""The life of the servers of a configuration: up, all of them at once, warm, and down."""

import asyncio
import itertools
import os
import random
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from atts.config import Config, ModelOptions
from atts.config.secrets import key_in
from atts.engines.base import Engine, GenerateRequest, Sampling, ScoreRequest
from atts.engines.http import HttpClient
from atts.engines.loading import remote_engines, server_urls
from atts.engines.servers.placed import settings_of
from atts.engines.servers.plan import MODULES, ServerPlan, plan_servers, secrets_of
from atts.engines.servers.processes import (
    Running,
    ServerRecord,
    Tell,
    first_error,
    forget,
    processes,
    read_record,
    run_leashed,
    start,
    stop,
    tail,
)
from atts.errors import EngineError, ServerError
from atts.types import Author

AUTHORS: tuple[Author, ...] = ("draft", "target")
FOLDER = "servers"
"""The folder with what is kept of servers, where nothing else is said."""
POLL_SECONDS = 0.5
LOG_LINES = 25
"""How much of the end of its log tells why a server died."""

Progress = Callable[[Author, str, float], None]
"""Is told, now and then: whose server, what it is doing, and for how many seconds."""


async def up(
    config: Config,
    authors: Collection[Author],
    directory: Path,
    progress: Progress,
    go_on: bool = False,
) -> list[ServerRecord]:
    """Start servers, in parallel, and wait until all of them answer.

    If one fails, or this is cancelled, all of them are ended again.

    Args:
        config: of the models.
        authors: whose servers.
        directory: of their records and logs.
        progress: is told what they are doing.
        go_on: whether servers of this directory that still run are waited for, too. Those that
            were started with other settings are ended and started anew.

    Raises:
        ConfigError: something stands in the way; see ``plan_servers``. Nothing was started.
        ServerError: a server died or did not answer in time, with the end of its log.
    """
    running: list[Running] = []
    try:
        if go_on:
            running += await asyncio.to_thread(_left_running, config, authors, directory)
        there = [server.record.author for server in running]
        missing = [author for author in authors if author not in there]
        if missing or not running:
            for plan in await asyncio.to_thread(plan_servers, config, missing):
                running.append(start(plan, directory))
        async with asyncio.TaskGroup() as waiting:
            for server in running:
                options = config.options_of(server.record.author)
                waiting.create_task(_until_it_answers(options, server, progress))
    except BaseException as error:
        await asyncio.to_thread(down, directory, [server.record.author for server in running])
        if isinstance(error, BaseExceptionGroup):
            raise error.exceptions[0] from None
        raise
    return [server.record for server in running]


def _left_running(config: Config, authors: Collection[Author], directory: Path) -> list[Running]:
    """The servers of a directory that run as they would be started now; others are ended."""
    found = []
    for author in authors:
        record = read_record(directory, author)
        if record and processes(record):
            if record.settings == settings_of(config.options_of(author)):
                found.append(Running(record))
            else:
                down(directory, [author])
    return found


def down(
    directory: Path, authors: Collection[Author] = AUTHORS, tell: Tell | None = None
) -> list[ServerRecord]:
    """End the servers that were started in ``directory``, their children too; gives those that ran.

    ``tell`` hears what is waited for.

    Raises:
        ServerError: a record cannot be read, or a process does not end.
    """
    records = [record for author in authors if (record := read_record(directory, author))]
    ended = stop(records, tell)
    for record in records:
        forget(directory, record.author)
    return ended


def is_running(directory: Path, author: Author) -> bool:
    """Whether something of the server that was started in ``directory`` lives.

    Raises:
        ServerError: its record cannot be read.
    """
    record = read_record(directory, author)
    return record is not None and bool(processes(record))


def started_here(options: ModelOptions, author: Author, directory: Path) -> bool:
    """Whether a model's server is one that was started in ``directory`` and still lives.

    Raises:
        ServerError: its record cannot be read.
    """
    record = read_record(directory, author)
    return record is not None and server_urls(options) == (record.url,) and bool(processes(record))


async def answers(url: str, model: str, api_key_env: str | None = None) -> bool:
    """Whether a server is ready for requests."""
    key = key_in(api_key_env) if api_key_env else None
    client = HttpClient(url, model, key, timeout_seconds=10.0)
    try:
        await client.get("/health")
        await client.get("/v1/models")
    except EngineError:
        return False
    finally:
        await client.aclose()
    return True


async def _until_it_answers(options: ModelOptions, server: Running, progress: Progress) -> None:
    began = time.monotonic()
    author, log, secrets = server.record.author, server.record.log, secrets_of(options)
    while not await answers(server.record.url, options.model, options.api_key_env):
        seconds = time.monotonic() - began
        status = server.exit_status()
        if status is not None:
            cause = first_error(log, secrets)
            raise ServerError(
                f"the {author}'s server ended while starting, with status {status}"
                + (f", the first error is: {cause}" if cause else "")
                + f"\nThe end of {log}:\n{tail(log, LOG_LINES, secrets)}"
            )
        if seconds > options.server.start_seconds:
            raise ServerError(
                f"the {author}'s server does not answer after {seconds:.0f} s; raise "
                f"server.start_seconds if it only needs longer. The end of {log}:\n"
                f"{tail(log, LOG_LINES, secrets)}"
            )
        last = tail(log, 1, secrets).strip()
        progress(author, last, seconds)
        await asyncio.sleep(POLL_SECONDS)
    progress(author, "answers", time.monotonic() - began)


AT_ONCE = (1, 4, 16, 64, 128)
LENGTHS = (16, 256, 1024)
DEEP_GEMM = "sglang.compile_deep_gemm"


async def warm_up(options: ModelOptions, chains: int) -> float:
    """Send a model's servers what a run sends: to write, to score, alone and many at once.

    With more and more at once, up to the ``chains`` of the run, or 128.

    SGLang, FlashInfer, Triton and torch.compile keep what they compile on disk, per model, GPU and
    version; much of it is compiled only at the first request of a new kind or size. So the first
    run does not pay for it.

    Returns:
        The seconds that it took.

    Raises:
        EngineError: a request failed.
    """
    began = time.monotonic()
    for engine in remote_engines(options):
        try:
            facts = await engine.connect()
            for length, at_once in _sizes(facts.context_length, chains):
                await asyncio.gather(
                    *(_turn(engine, length, engine.vocab_size, seed) for seed in range(at_once))
                )
        finally:
            await engine.aclose()
    return time.monotonic() - began


def compile_deep_gemm(plan: ServerPlan, directory: Path) -> float:
    """Have SGLang compile DeepGEMM's kernels for a server, in every shape; its GPUs must be free.

    Returns:
        The seconds that it took.

    Raises:
        ServerError: it failed, with the end of its log.
    """
    began = time.monotonic()
    command = [DEEP_GEMM if word == MODULES["sglang"] else word for word in plan.command]
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / f"{plan.author}-deep-gemm.log"
    status = run_leashed(command, os.environ | plan.environment, log)
    if status:
        raise ServerError(
            f"{DEEP_GEMM} for the {plan.author} ended with status {status}; what it had "
            f"compiled is kept, so it may be run again. The end of {log}:\n"
            f"{tail(log, LOG_LINES, secrets_of(plan.options))}"
        )
    return time.monotonic() - began


def _sizes(context_length: int, chains: int) -> Iterator[tuple[int, int]]:
    lengths = [length for length in LENGTHS if length + 64 < context_length] or [4]
    return itertools.product(lengths, [count for count in AT_ONCE if count <= chains])


async def _turn(engine: Engine, length: int, vocab_size: int, seed: int) -> None:
    """A turn of a chain of random tokens, which no prefix cache holds."""
    random_ids = random.Random(f"{length} {seed}")  # noqa: S311 - not a secret
    chain = [random_ids.randrange(vocab_size) for _ in range(length)]
    sampling = Sampling(max_tokens=8, temperature=0.8, top_p=1.0, seed=seed)
    completion = await engine.generate(GenerateRequest(chain, sampling))
    chain += [*completion.token_ids, 1]
    await engine.score(ScoreRequest(chain, length))
