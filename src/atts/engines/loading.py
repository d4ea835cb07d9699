"""From a model's configuration to the engine that serves it."""

import asyncio
import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

from atts.config import ModelOptions
from atts.config.secrets import key_in
from atts.engines.base import Engine
from atts.engines.servers.placed import placed_urls
from atts.errors import ConfigError, EngineUnavailableError
from atts.models.model_files import (
    context_length,
    end_of_sequence_ids,
    model_path,
    vocabulary_size,
)
from atts.models.prompts import Tokenizer
from atts.package import install

if TYPE_CHECKING:
    from atts.engines.remote import RemoteEngine
    from atts.engines.replicas import Replicas

_log = logging.getLogger(__name__)


async def load_engine(options: ModelOptions, neighbours: int = 0, scores: bool = False) -> Engine:
    """Load a model into this process, or connect to its servers.

    ``neighbours`` other models run in this process, and share its cores. ``scores`` says that it
    will be asked for log-probabilities of given texts.

    Raises:
        ConfigError: the model cannot be loaded, or a server serves another one or cannot score.
        EngineError: no server answers, or one refuses.
    """
    if options.engine == "inprocess":
        return _load_in_process(options, neighbours)
    if options.engine == "llamacpp":
        return _load_llamacpp(options, neighbours)
    from atts.engines.replicas import Replicas

    engines = remote_engines(options)
    replicas = Replicas(engines)
    try:
        await _connect(options, engines, replicas)
    except BaseException:
        await replicas.aclose()
        raise
    unfit = next((engine for engine in engines if engine.cannot_score), None)
    if scores and unfit:
        await replicas.aclose()
        raise ConfigError(
            f"{unfit.client.url} ({options.model}) cannot be the target of this method, which asks "
            f"for log-probabilities of given texts: {unfit.cannot_score}"
        )
    return engines[0] if len(engines) == 1 else replicas


async def _connect(
    options: ModelOptions, engines: "list[RemoteEngine]", replicas: "Replicas"
) -> None:
    """Connect to all that can be reached; one must, the others may come back later."""
    results = await asyncio.gather(
        *(engine.connect() for engine in engines), return_exceptions=True
    )
    errors = [error for error in results if isinstance(error, BaseException)]
    for number, result in enumerate(results):
        if not isinstance(result, BaseException):
            for remark in result.remarks:
                _log.warning("the server of %s: %s", options.model, remark)
        elif isinstance(result, EngineUnavailableError) and len(errors) < len(engines):
            replicas.mark_down(number)
            _log.warning("a replica is down: %s", result)
        else:
            raise result


def remote_engines(options: ModelOptions) -> "list[RemoteEngine]":
    """The engine of each server of a model; nothing is sent yet.

    Raises:
        ConfigError: an address is none, the API key is not set, or the model is unknown.
    """
    from atts.engines.http import HttpClient
    from atts.engines.openai import OpenAIEngine
    from atts.engines.sglang import SGLangEngine
    from atts.engines.vllm import VllmEngine

    key = api_key(options)
    size, end_ids = vocabulary_size(options.model), end_of_sequence_ids(options.model)
    clients = [
        HttpClient(url, options.model, key, options.timeout_seconds) for url in server_urls(options)
    ]
    if options.engine == "openai":
        if not options.urls:
            raise ConfigError(
                f"{options.model}: engine: openai needs urls, where its server answers"
            )
        codec, length = Tokenizer.load(options), context_length(options.model)
        return [OpenAIEngine(client, options, size, end_ids, codec, length) for client in clients]
    kind = {"sglang": SGLangEngine, "vllm": VllmEngine}[options.engine]
    return [kind(client, options, size, end_ids) for client in clients]


def api_key(options: ModelOptions) -> str | None:
    """The key for a model's servers; see ``api_key_env``.

    Raises:
        ConfigError: the variable that it is in is not set, or holds what cannot be a key.
    """
    name = options.api_key_env
    if not name:
        return None
    if (key := key_in(name)) is None:
        raise ConfigError(
            f"{options.model}: the environment variable {name} of api_key_env is not set",
            mend=f"export {name}=KEY, or leave api_key_env out if the server asks for none",
        )
    return key


def server_urls(options: ModelOptions) -> tuple[str, ...]:
    """Where a model's servers answer: as configured, or else where they were started: on the nodes
    of a cluster, if any were placed there from this folder, or on this machine.

    Raises:
        ServerError: what is written down of servers on a cluster cannot be read.
    """
    return options.urls or placed_urls(options) or (local_url(options),)


def local_url(options: ModelOptions) -> str:
    """Where a model's server answers that is started on this machine.

    >>> local_url(ModelOptions(model="m", engine="vllm"))
    'http://127.0.0.1:40000'
    """
    host = "127.0.0.1" if options.server.host == "0.0.0.0" else options.server.host  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{options.server.port}"


def require_in_process() -> None:
    """Whether models can be loaded into this process, without the time that loading PyTorch takes.

    Raises:
        ConfigError: packages that it needs are not installed.
    """
    missing = [name for name in ("torch", "transformers", "safetensors") if find_spec(name) is None]
    if missing:
        names = ", ".join(missing)
        raise ConfigError(f"the in-process engine needs {names}: {install('inprocess')}")


def _load_in_process(options: ModelOptions, neighbours: int) -> Engine:
    require_in_process()
    from atts.engines.inprocess.engine import InProcessEngine

    return InProcessEngine.load(options, model_path(options.model), neighbours)


def _load_llamacpp(options: ModelOptions, neighbours: int) -> Engine:
    from atts.engines.llamacpp import LlamaCppEngine

    try:
        return LlamaCppEngine.load(options, neighbours)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"engine: llamacpp needs llama-cpp-python: {install('llamacpp')}, which compiles "
            "it with your C++ compiler"
        ) from error
