"""What is written down of servers on the nodes of a cluster, by which runs find them.

``AUTHOR.cluster.json``, beside the records of servers on this machine.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from atts.config import Config, EngineName, ModelOptions
from atts.errors import ServerError
from atts.files import atomic_write, read_plain
from atts.types import Author

DEFAULT = Path("runs") / "servers"
"""The folder of the records, where nothing else is said."""

_LARGEST = 1 << 20


class PlacedServer(BaseModel):
    """A server on a node."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Of the actor that keeps it."""
    node: str
    """Empty until it is known."""
    url: str
    """Empty until it is known."""


class Placement(BaseModel):
    """The servers of a model on a cluster."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    author: Author
    engine: EngineName
    model: str
    settings: str
    """See ``settings_of``."""
    cluster: str
    """The address at which the cluster is found."""
    group: str
    """The name under which the cluster holds what they need."""
    servers: tuple[PlacedServer, ...]

    @property
    def urls(self) -> tuple[str, ...]:
        """Where they answer, as far as that is known."""
        return tuple(server.url for server in self.servers if server.url)


def settings_of(options: ModelOptions) -> str:
    """A digest of what a server is started with; none of it can be read from it."""
    started_with = options.model_dump_json(include={"engine", "model", "server"})
    return hashlib.sha256(started_with.encode()).hexdigest()[:16]


def path_of(directory: Path, author: Author) -> Path:
    """The file with a model's placement."""
    return directory / f"{author}.cluster.json"


def read_placement(directory: Path, author: Author) -> Placement | None:
    """What is written down of a model's servers on a cluster, or None.

    Raises:
        ServerError: the file cannot be read.
    """
    path = path_of(directory, author)
    try:
        return Placement.model_validate_json(read_plain(path, _LARGEST))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ServerError(f"cannot read {path}: {error.strerror or error}") from error
    except ValidationError:
        raise ServerError(
            f"{path} is not what atts servers up --ray writes; if no server of this folder runs, "
            "remove the file"
        ) from None


def write_placement(directory: Path, placement: Placement) -> None:
    """Write down where a model's servers are.

    Raises:
        StoreError: it cannot be written.
    """
    text = placement.model_dump_json(indent=1) + "\n"
    atomic_write(path_of(directory, placement.author), text)


def forget_placement(directory: Path, author: Author) -> None:
    """Drop the record of servers that have ended."""
    path_of(directory, author).unlink(missing_ok=True)


def placed_at(directory: Path, author: Author) -> tuple[str, ...]:
    """Where a model's servers answer that were placed from a folder; none if none was.

    Raises:
        ServerError: what is written down cannot be read.
    """
    placement = read_placement(directory, author)
    return placement.urls if placement else ()


def placed_urls(options: ModelOptions) -> tuple[str, ...]:
    """Where a model's servers answer that were placed from this folder with these very settings.

    Raises:
        ServerError: what is written down cannot be read.
    """
    for author in ("draft", "target"):
        placement = read_placement(DEFAULT, author)
        if placement and placement.settings == settings_of(options):
            return placement.urls
    return ()


def located(config: Config) -> Config:
    """The configuration with the addresses of servers that were placed on a cluster: for processes
    elsewhere, which have no records.

    Raises:
        ServerError: what is written down cannot be read.
    """
    models: dict[Author, ModelOptions] = {"draft": config.draft, "target": config.target}
    return with_urls(
        config,
        {
            author: urls
            for author, options in models.items()
            if not options.urls and (urls := placed_urls(options))
        },
    )


def with_urls(config: Config, urls: Mapping[Author, tuple[str, ...]]) -> Config:
    """The configuration with models that are reached there; of those that are not named nothing
    changes.
    """
    models: dict[Author, ModelOptions] = {"draft": config.draft, "target": config.target}
    found: dict[str, ModelOptions] = {
        author: models[author].model_copy(update={"urls": where}) for author, where in urls.items()
    }
    return config.model_copy(update=found)
