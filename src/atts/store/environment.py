"""Where a run ran: ``environment.json``, an entry for each time that it was started.

Nothing in it changes a result, and nothing in it names a person or a machine.
"""

import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from pydantic import Field, TypeAdapter, ValidationError

from atts.config import Config
from atts.errors import StoreError
from atts.files import atomic_write, read_plain
from atts.methods import authors_of
from atts.package import DISTRIBUTION
from atts.types import Author, Record, Speculation

ENVIRONMENT = "environment.json"
_PACKAGES = (DISTRIBUTION, "torch", "transformers", "tokenizers", "numpy", "httptools", "pydantic")


class Environment(Record):
    """The software and the machine of one start of a run."""

    python: str
    platform: str
    processor: str
    cpus: int
    """That this process may use."""
    memory_bytes: int
    gpus: tuple[str, ...] = ()
    """Those that PyTorch saw, if it was loaded by then."""
    packages: dict[str, str]
    engines: dict[str, str]
    """Author -> what served its model, for the models that the method needs."""
    speculation: dict[Author, Speculation] = Field(default_factory=dict)
    """How speculative decoding went, where a server did; empty where the start was broken off. Of
    a vLLM server it is that of all its requests meanwhile, whoever made them."""
    caches_emptied: dict[Author, bool] = Field(default_factory=dict)
    """Whether the engines forgot what they had cached before this start; empty: not asked to."""

    @classmethod
    def now(cls, config: Config) -> "Environment":
        """That of this process."""
        options = {"draft": config.draft, "target": config.target}
        return cls(
            python=platform.python_version(),
            platform=f"{platform.system()} {platform.release()} {platform.machine()}",
            processor=_processor(),
            cpus=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
            memory_bytes=psutil.virtual_memory().total,
            gpus=_gpus(),
            packages=_packages(),
            engines={
                author: f"{options[author].engine}: {options[author].model}"
                for author in authors_of(config)
            },
        )


_LIST = TypeAdapter(tuple[Environment, ...])


def record_environment(directory: Path, config: Config) -> None:
    """Add an entry for this process.

    Raises:
        StoreError: the file is corrupt, or cannot be written.
    """
    write_environments(directory, [*read_environments(directory), Environment.now(config)])


def write_environments(directory: Path, entries: Sequence[Environment]) -> None:
    """Write the entries of a run directory, the first start first.

    Raises:
        StoreError: the file cannot be written.
    """
    text = json.dumps([entry.model_dump(mode="json") for entry in entries], indent=1)
    atomic_write(directory / ENVIRONMENT, text + "\n")


def record_speculation(directory: Path, speculation: Mapping[Author, Speculation]) -> None:
    """Add to the newest entry how the servers' speculative decoding went.

    Raises:
        StoreError: the file is corrupt, or cannot be written.
    """
    if speculation:
        *earlier, newest = read_environments(directory)
        told = newest.model_copy(update={"speculation": dict(speculation)})
        write_environments(directory, [*earlier, told])


def record_emptied(directory: Path, emptied: Mapping[Author, bool]) -> None:
    """Add to the newest entry whose caches were emptied.

    Raises:
        StoreError: the file is corrupt, or cannot be written.
    """
    if emptied:
        *earlier, newest = read_environments(directory)
        told = newest.model_copy(update={"caches_emptied": dict(emptied)})
        write_environments(directory, [*earlier, told])


def read_speculation(directory: Path) -> dict[Author, Speculation]:
    """How it went over all starts of a run that came to their end.

    Raises:
        StoreError: see ``read_environments``.
    """
    found: dict[Author, Speculation] = {}
    for entry in read_environments(directory):
        for author, told in entry.speculation.items():
            found[author] = found.get(author, Speculation()) + told
    return found


def read_environments(directory: Path) -> tuple[Environment, ...]:
    """The entries of a run directory, the first start first; none if it has no such file.

    Raises:
        StoreError: the file is corrupt, or cannot be read.
    """
    path = directory / ENVIRONMENT
    try:
        return _LIST.validate_json(read_plain(path))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error
    except ValidationError:
        raise StoreError(f"{path} is corrupt; remove it: no result depends on it") from None


def _packages() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """The processor's name where the system tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _gpus() -> tuple[str, ...]:
    torch = sys.modules.get("torch")  # importing it for this alone would take seconds
    if torch is None or not torch.cuda.is_available():
        return ()
    return tuple(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
