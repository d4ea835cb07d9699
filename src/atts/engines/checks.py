"""Whether a model can be used as a configuration says: each check by a request of the real kind."""

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal, NamedTuple

from atts.config import IN_THIS_PROCESS, ModelOptions, PromptOptions
from atts.engines.base import Engine, GenerateRequest, Sampling, ScoreRequest
from atts.engines.loading import load_engine, remote_engines
from atts.engines.remote import RemoteEngine, ServerFacts
from atts.errors import AttsError, ConfigError
from atts.models.prompts import Tokenizer
from atts.types import Author, Problem

Verdict = Literal["good", "poor", "broken", "unknown"]
"""``poor`` costs speed or repeatability; ``broken`` makes runs fail or their results wrong."""

ABORT_SECONDS = 10.0
PROBLEM = Problem(id="probe", question="What is 17 + 25?", answer="42")


class Check(NamedTuple):
    """One line of the doctor's table."""

    subject: str
    """The model, and which of its servers."""
    name: str
    verdict: Verdict
    found: str
    mend: str = ""


Finding = tuple[Verdict, str, str]


async def check_model(
    author: Author, options: ModelOptions, prompt: PromptOptions
) -> AsyncIterator[Check]:
    """All checks of one model, on each of its servers, as they are made."""
    try:
        tokenizer = Tokenizer.load(options)
        ids = tokenizer.prompt(PROBLEM, prompt)
        engines: list[Engine] = (
            [await load_engine(options)]
            if options.engine in IN_THIS_PROCESS
            else list(remote_engines(options))
        )
    except AttsError as error:
        found, mend = str(error), "correct the configuration"
        if isinstance(error, ConfigError) and error.mend:
            found, mend = error.found, error.mend
        yield Check(author, "configuration", "broken", found, mend)
        return
    yield Check(author, "tokenizer", "good", f"{tokenizer.name}, prompt of {len(ids)} tokens")
    for number, engine in enumerate(engines):
        subject = author if len(engines) == 1 else f"{author} {number + 1}"
        try:
            async for check in _check_engine(author, subject, engine, tokenizer, ids):
                yield check
        finally:
            await engine.aclose()


async def _check_engine(
    author: Author, subject: str, engine: Engine, tokenizer: Tokenizer, ids: list[int]
) -> AsyncIterator[Check]:
    checks: dict[str, Callable[[], Awaitable[Finding]]] = {
        "writes": lambda: _writes(engine, ids),
        "seeds": lambda: _seeds(engine, ids),
        "log-probabilities": lambda: _logprobs(engine, ids),
        "prefix cache": lambda: _prefix_cache(engine, ids),
    }
    if isinstance(engine, RemoteEngine):
        remote = engine
        try:
            facts = await remote.connect()
        except AttsError as error:
            mend = "start the server (atts servers up), or correct its address"
            yield Check(subject, "server", "broken", str(error), mend)
            return
        found = f"{facts.model}, version {facts.version}, context {facts.context_length:,} tokens"
        yield Check(subject, "server", "good", f"{remote.client.url}: {found}")
        yield _scoring(author, subject, remote, facts)
        if remote.cannot_score:
            del checks["log-probabilities"], checks["prefix cache"]
        for remark in facts.remarks:
            yield Check(subject, "", "poor", remark)
        checks = (
            {
                "round trip": lambda: _round_trip(remote),
                "same tokenizer": lambda: _same_tokenizer(remote, tokenizer),
            }
            | checks
            | {"abort": lambda: _abort(remote, ids)}
        )
    for name, check in checks.items():
        try:
            verdict, found, mend = await check()
        except AttsError as error:
            verdict, found, mend = "broken", str(error), ""
        yield Check(subject, name, verdict, found, mend)


def _scoring(author: Author, subject: str, engine: RemoteEngine, facts: ServerFacts) -> Check:
    if not engine.cannot_score:
        return Check(subject, "scoring", "poor" if facts.remarks else "good", facts.scoring)
    if author == "draft":
        return Check(subject, "scoring", "good", f"{facts.scoring}; a draft needs none")
    mend = "serve the target by SGLang or vLLM, or take a method that does not score"
    return Check(subject, "scoring", "broken", facts.scoring, mend)


async def _round_trip(engine: RemoteEngine) -> Finding:
    seconds = []
    for _ in range(7):
        began = time.perf_counter()
        await engine.client.get("/v1/models")
        seconds.append(time.perf_counter() - began)
    return "good", f"{1000 * statistics.median(seconds):.1f} ms", ""


async def _same_tokenizer(engine: RemoteEngine, tokenizer: Tokenizer) -> Finding:
    text = "Let x = 3.5; then \\boxed{x^2 + 1} is 13.25.\n\nSo: yes."
    theirs = await engine.tokenize(text)
    if theirs is None:
        return "unknown", "the server has no route to ask", ""
    if theirs == tokenizer.encode(text):
        return "good", f"{len(theirs)} ids of a text agree", ""
    return (
        "broken",
        "the server makes other ids of a text",
        "the server must serve the model that the configuration names, or a copy of it",
    )


async def _writes(engine: Engine, ids: list[int]) -> Finding:
    began = time.perf_counter()
    completion = await engine.generate(GenerateRequest(ids, _greedy(32)))
    seconds = time.perf_counter() - began
    return "good", f"{len(completion.token_ids)} tokens in {seconds:.2f} s", ""


async def _seeds(engine: Engine, ids: list[int]) -> Finding:
    sampling = Sampling(max_tokens=16, temperature=1.5, top_p=1.0, seed=7)
    request = GenerateRequest(ids, sampling)
    one, two = [(await engine.generate(request)).token_ids for _ in range(2)]
    if one == two:
        return "good", "the same seed writes the same text", ""
    return (
        "poor",
        "the same seed writes another text: a run cannot be repeated exactly",
        "for SGLang: --enable-deterministic-inference, at some cost in speed",
    )


async def _logprobs(engine: Engine, ids: list[int]) -> Finding:
    own = list((await engine.generate(GenerateRequest(ids, _greedy(24)))).token_ids)
    if not own:
        return "unknown", "the model wrote nothing to score", ""
    noise = random.Random(0).choices(ids, k=len(own))  # noqa: S311 - not a secret
    likely = (await engine.score(ScoreRequest(ids + own, len(ids)))).logprobs.mean()
    unlikely = (await engine.score(ScoreRequest(ids + noise, len(ids)))).logprobs.mean()
    found = f"{likely:.2f} nats per token for its own text, {unlikely:.2f} for noise"
    if likely > unlikely:
        return "good", found, ""
    return "broken", found, "the server's weights or its log-probabilities are not to be trusted"


async def _prefix_cache(engine: Engine, ids: list[int]) -> Finding:
    # A prefix that nobody has sent, long enough for any block size.
    mixed = random.Random(time.time_ns())  # noqa: S311 - not a secret
    chain, new = mixed.choices(ids, k=300), mixed.choices(ids, k=20)
    await engine.score(ScoreRequest(chain, len(chain) - 20))
    scored = await engine.score(ScoreRequest(chain + new, len(chain)))
    found = f"{scored.cached_tokens} of {len(chain)} known tokens were cached when scoring"
    if scored.cached_tokens >= len(chain) // 3:
        return "good", found, ""
    return (
        "poor",
        found + ": every turn computes the whole chain again",
        "for SGLang: without --disable-radix-cache; for vLLM: --enable-prompt-tokens-details and "
        "--enable-prefix-caching, version 0.32 or later",
    )


async def _abort(engine: RemoteEngine, ids: list[int]) -> Finding:
    before = await engine.in_flight()
    if before is None:
        return "unknown", "the server does not tell how many requests it has", ""
    sampling = Sampling(max_tokens=100_000, temperature=2.0, top_p=1.0, seed=1)
    prompts = [random.Random(n).choices(ids, k=32) for n in range(4)]  # noqa: S311
    tasks = [
        asyncio.create_task(engine.generate(GenerateRequest(prompt, sampling)))
        for prompt in prompts
    ]
    seen = before
    while seen <= before and not all(task.done() for task in tasks):
        await asyncio.sleep(0.01)
        seen = await engine.in_flight() or 0
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if seen <= before:
        return "unknown", "the texts ended before they could be aborted", ""
    began = time.perf_counter()
    while time.perf_counter() - began < ABORT_SECONDS:
        if (await engine.in_flight() or 0) <= before:
            return "good", f"gone after {time.perf_counter() - began:.2f} s", ""
        await asyncio.sleep(0.02)
    return (
        "poor",
        f"the server still worked on cancelled requests after {ABORT_SECONDS:.0f} s",
        "an API key that may not abort, a proxy in between, or other users of the server",
    )


def _greedy(max_tokens: int) -> Sampling:
    return Sampling(max_tokens=max_tokens, temperature=0.0, top_p=1.0, seed=0)
