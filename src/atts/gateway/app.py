"""The routes: OpenAI's API over a solver."""

import logging
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atts.errors import AttsError, BusyError, RequestError, StoreError
from atts.gateway import replies
from atts.gateway.access import Access
from atts.gateway.metrics import Metrics
from atts.gateway.recording import Recorder
from atts.gateway.replies import Head, error_response, failure_of, json_response, told
from atts.gateway.requests import ChatRequest, parse
from atts.gateway.served import Served
from atts.gateway.streams import ClientGoneError, Events, EventStream, unless_gone
from atts.methods import METHODS, authors_of
from atts.package import DISTRIBUTION
from atts.solving.listening import ChainDone, Event, Piece
from atts.solving.question import Question, as_problem, question_id, with_overrides
from atts.solving.solution import Solution
from atts.solving.solver import Asked, Solver

LARGEST_BODY = 2**20
"""Bytes of a request: a context of some 200,000 tokens."""

LONGEST_RETRY_AFTER = 60.0
CLIENT_GONE = 499
"""The status of a reply that nobody waits for, in logs and metrics."""

_SEEDS = 2**53

Figures = Callable[[], Awaitable[bytes]]
"""Gives what ``/metrics`` shows, in Prometheus's format."""

_log = logging.getLogger(__name__)


class Job(NamedTuple):
    """What a client has asked for, checked."""

    head: Head
    question: Question
    prompt_tokens: int
    with_usage: bool
    """Whether a stream ends with the usage."""


class _Asking:
    """A question on its way, and the chains of it that have ended."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.ended: list[ChainDone] = []

    async def __aiter__(self) -> AsyncGenerator[Event, None]:
        async for event in self.asked:
            if isinstance(event, ChainDone):
                self.ended.append(event)
            yield event


class Gateway:
    """Answers clients by a solver, which is open already."""

    def __init__(
        self,
        solver: Solver,
        served: Served,
        metrics: Metrics,
        recorder: Recorder | None = None,
        figures: Figures | None = None,
    ) -> None:
        self._solver = solver
        self._served = served
        self._metrics = metrics
        self._recorder = recorder
        self._figures = figures
        self._created = int(time.time())
        self._chain_seconds = 1.0  # smoothed

    def app(self, key: str | None) -> ASGIApp:
        """The application; ``key`` is as of ``Access``."""
        routes = [
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{name:path}", self.model, methods=["GET"]),
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.measured, methods=["GET"]),
        ]
        paths = {route.path for route in routes if "{" not in route.path}
        starlette = Starlette(
            routes=routes,
            exception_handlers={HTTPException: _no_route, AttsError: _refused, Exception: _failed},
        )
        return _Counted(Access(starlette, key), self._metrics, paths)

    async def models(self, request: Request) -> Response:  # noqa: ARG002
        """``GET /v1/models``."""
        return json_response({"object": "list", "data": [*map(self._model, self._served.names)]})

    async def model(self, request: Request) -> Response:
        """``GET /v1/models/NAME``."""
        name = request.path_params["name"]
        self._served.offer(name)
        return json_response(self._model(name))

    def _model(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created, "owned_by": "atts"}

    async def health(self, request: Request) -> Response:  # noqa: ARG002
        """``GET /health``."""
        return json_response({"status": "ok", "version": version(DISTRIBUTION)})

    async def measured(self, request: Request) -> Response:  # noqa: ARG002
        """``GET /metrics``."""
        text = await self._figures() if self._figures else self._metrics.text()
        return Response(text, media_type="text/plain; version=0.0.4")

    async def chat(self, request: Request) -> Response:
        """``POST /v1/chat/completions``."""
        try:
            asked = parse(ChatRequest, await _body(request), request.headers.items())
            job = self._job(asked)
            if asked.stream:
                return EventStream(self._voted(job) if asked.atts.vote else self._pieces(job))
            reply = self._vote(job) if asked.atts.vote else self._choices(job)
            return json_response(await unless_gone(request.receive, reply))
        except (ClientGoneError, ClientDisconnect):
            return Response(status_code=CLIENT_GONE)

    def _job(self, asked: ChatRequest) -> Job:
        """Check everything that can be checked before a chain begins.

        Raises:
            RequestError: a parameter is wrong.
            ConfigError, ProblemError: the question cannot be asked.
        """
        own, digest = self._served.offer(asked.model, asked.atts.method)
        if asked.atts.take_over_rate is not None and not METHODS[own.method].aims_at_rate:
            raise RequestError(
                f"atts.take_over_rate: the method {own.method} keeps to none; leave it out",
                param="atts.take_over_rate",
                code="invalid_value",
            )
        samples = asked.chains(own.samples)
        if samples > self._solver.config.limits.chains:
            raise RequestError(
                f"n: {samples} chains, where {self._solver.config.limits.chains} may be in flight",
                param="n",
                code="invalid_value",
            )
        config = with_overrides(
            own,
            samples=samples,
            take_over_rate=asked.atts.take_over_rate,
            temperature=asked.temperature,
            top_p=asked.top_p,
            stop=asked.stop or None,
            seed=secrets.randbelow(_SEEDS) if asked.seed is None else asked.seed,
        )
        messages = [message.as_prompted() for message in asked.messages]
        head = Head(asked.model, f"atts-{digest}")
        problem = as_problem(messages).model_copy(update={"id": head.id})
        question = Question(
            problem=problem,
            config=config,
            vote=asked.atts.vote,
            max_tokens=asked.most_tokens,
            # The same question with the same seed is answered alike.
            drawn_as=question_id(messages),
        )
        first = self._solver.models[authors_of(config)[0]].tokenizer
        prompt = first.prompt(problem, config.prompt)
        options = asked.stream_options
        return Job(head, question, len(prompt), bool(options and options.include_usage))

    async def _choices(self, job: Job) -> dict[str, Any]:
        """Every chain as a choice."""
        async with self._asking(job) as asked:
            async for event in asked:
                _raise_failure(event)
            chains = sorted(asked.ended, key=lambda done: done.sample)
        return replies.reply(job.head, chains, self._usage(job, chains))

    async def _pieces(self, job: Job) -> Events:
        """The same, piece by piece."""
        begun: set[int] = set()
        async with self._asking(job) as asked:
            async for event in asked:
                _raise_failure(event)
                if event.sample not in begun:
                    begun.add(event.sample)
                    yield replies.first_chunk(job.head, event.sample)
                if isinstance(event, Piece):
                    yield replies.piece_chunk(job.head, event.sample, event)
                else:
                    yield replies.last_chunk(job.head, event.sample, event)
        if job.with_usage:
            yield replies.usage_chunk(job.head, self._usage(job, asked.ended))

    async def _vote(self, job: Job) -> dict[str, Any]:
        """The chains voted to one choice."""
        solution, chosen = await self._solved(job)
        reply = replies.reply(job.head, [chosen], self._usage(job, solution.done))
        return reply | {"atts": replies.of_vote(solution)}

    async def _voted(self, job: Job) -> Events:
        """The same; before the vote nothing of it is decided, so it comes at once, at the end."""
        solution, chosen = await self._solved(job)
        yield replies.first_chunk(job.head, 0)
        for chunk in replies.text_chunks(job.head, chosen):
            yield chunk
        yield replies.last_chunk(job.head, 0, chosen) | {"atts": replies.of_vote(solution)}
        if job.with_usage:
            yield replies.usage_chunk(job.head, self._usage(job, solution.done))

    async def _solved(self, job: Job) -> tuple[Solution, ChainDone]:
        async with self._asking(job) as asked:
            async for _ in asked:
                pass
            solution = await asked.asked.solution()
        if (chosen := solution.chosen) is None:
            failures = [failure_of(done.chain) for done in solution.done]
            raise next(filter(None, failures), RequestError("no chain has ended", status=502))
        if failure := failure_of(chosen.chain):
            raise failure
        return solution, chosen

    @asynccontextmanager
    async def _asking(self, job: Job) -> AsyncGenerator["_Asking", None]:
        """The question on its way; what is left of it is aborted on leaving.

        Raises:
            RequestError: as much waits already as may.
        """
        try:
            question = self._solver.ask(job.question)
        except BusyError as error:
            pool = self._solver
            seconds = self._chain_seconds * (1 + pool.waiting) / max(1, pool.capacity)
            raise RequestError(
                str(error),
                status=429,
                kind="rate_limit_error",
                code="rate_limit_exceeded",
                retry_after=min(seconds, LONGEST_RETRY_AFTER),
            ) from None
        async with question:
            asking = _Asking(question)
            try:
                yield asking
            finally:
                self._metrics.aborted(question.left)
                chains = [done.chain for done in asking.ended]
                for chain in chains:
                    self._chain_seconds += 0.1 * (chain.seconds - self._chain_seconds)
                if self._recorder and chains:
                    seed = self._solver.config.seed
                    try:
                        self._recorder.add(job.question, question.variant, seed, chains)
                    except StoreError as error:  # the answer is there all the same
                        _log.error("%s", error)

    @staticmethod
    def _usage(job: Job, chains: Iterable[ChainDone]) -> dict[str, Any]:
        return replies.usage(job.prompt_tokens, [done.chain for done in chains])


def _raise_failure(event: Event) -> None:
    if isinstance(event, ChainDone) and (failure := failure_of(event.chain)):
        raise failure


async def _body(request: Request) -> bytes:
    """The body of a request.

    Raises:
        RequestError: it is not JSON by its type, or too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # A page in a browser can send other types without asking whether it may.
        raise RequestError("the header Content-Type must be application/json", status=415)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_BODY:
            raise RequestError(f"the body is larger than {LARGEST_BODY} bytes", status=413)
    return bytes(body)


async def _no_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 404:
        return error_response(
            RequestError(f"there is no {request.url.path[:200]} here", status=404, code="not_found")
        )
    return error_response(
        RequestError(f"{request.method[:20]} is not what is served here", status=status)
    )


async def _refused(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return error_response(told(error))


async def _failed(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return error_response(told(error))  # Starlette raises it again: it comes into the log


class _Counted:
    """Counts replies by path and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: set[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if scope["path"] in self._paths else "other"
                self._metrics.requests.labels(path, message["status"]).inc()
            await send(message)

        await self._app(scope, receive, counting)
