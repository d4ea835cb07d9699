"""A gateway over scripted engines: in this process, and behind a real socket."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fakes import FakeEngine, byte_tokenizer
from starlette.types import ASGIApp

from atts.config import Config, parse_config
from atts.engines.base import Completion, GenerateRequest
from atts.gateway.server import ServeOptions, open_gateway
from atts.methods.chain import Model
from atts.solving.solver import Solver
from atts.types import Author

TEXT = "17 and 25 make 42, so the answer is \\boxed{42}."
HERE = "http://127.0.0.1"


def goes_on_with(text: str) -> Callable[[str], str]:
    """Writes a text from where the prompt has come to in it."""
    return lambda prompt: text[len(prompt.rpartition("a:")[2]) :]


class GatedEngine(FakeEngine):
    """Writes only once it is let: each ``let`` lets one request through."""

    def __init__(self, text: str = TEXT) -> None:
        super().__init__(goes_on_with(text))
        self.asked = asyncio.Event()
        self.let = asyncio.Semaphore(0)

    async def generate(self, request: GenerateRequest) -> Completion:
        self.in_flight += 1
        self.asked.set()
        try:
            await self.let.acquire()
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        finally:
            self.in_flight -= 1
        return await super().generate(request)


@dataclass
class Running:
    """A gateway, and what stands behind it."""

    client: httpx.AsyncClient
    solver: Solver
    engines: dict[Author, FakeEngine]
    names: list[str] = field(default_factory=list)
    url: str = HERE

    async def chat(self, **fields: object) -> httpx.Response:
        """Ask; what is not said is a plain question to the method atts."""
        return await self.client.post("/v1/chat/completions", json=body(**fields))


def body(**fields: object) -> dict[str, Any]:
    messages = [{"role": "user", "content": "What is 17 + 25?"}]
    return {"model": "atts", "messages": messages, "seed": 1} | fields


async def until(condition: Callable[[], bool]) -> None:
    """Let the others go on until something holds."""
    while not condition():  # noqa: ASYNC110  (what is waited for has no event)
        await asyncio.sleep(0.001)


Start = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def served_config() -> Config:
    return parse_config(
        {
            "samples": 3,
            "turns": {"max_turns": 20, "draft_tokens": 12, "target_tokens": 8},
            "take_over": {"mode": "continue", "rate": 0.0, "score": {"kind": "mean"}},
            "prompt": {"system": ""},
            "limits": {"chains": 8, "chains_min": 8, "attempts": 1},
        },
        "a test",
    )


@pytest.fixture
def start(tmp_path: Path, served_config: Config) -> Start:
    """Opens a gateway; with ``socket=True`` behind a real one."""

    @asynccontextmanager
    async def opened(
        draft: FakeEngine | None = None,
        target: FakeEngine | None = None,
        config: Config = served_config,
        on_socket: bool = False,
        **options: Any,  # noqa: ANN401  (those of ServeOptions)
    ) -> AsyncIterator[Running]:
        engines: dict[Author, FakeEngine] = {
            "draft": draft or FakeEngine(goes_on_with(TEXT)),
            "target": target or FakeEngine(goes_on_with(TEXT)),
        }
        models = {author: Model(engine, byte_tokenizer()) for author, engine in engines.items()}
        opts = replace(ServeOptions(directory=tmp_path / "serve"), **options)
        async with open_gateway(config, opts, models) as (app, names, solver, _):
            if on_socket:
                async with listening(app) as url, httpx.AsyncClient(base_url=url) as client:
                    yield Running(client, solver, engines, names, url)
            else:
                transport = httpx.ASGITransport(app, raise_app_exceptions=False)
                async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
                    yield Running(client, solver, engines, names)

    return opened


@asynccontextmanager
async def listening(app: ASGIApp) -> AsyncIterator[str]:
    """An application behind a socket of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
        serving = asyncio.create_task(server.serve([listener]))
        try:
            yield f"{HERE}:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving
