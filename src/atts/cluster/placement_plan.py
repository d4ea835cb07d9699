"""What would be placed on a cluster for a configuration, checked before anything is."""

import os
from collections.abc import Collection
from typing import NamedTuple

from pydantic import SecretStr

from atts.config import Config, ModelOptions
from atts.engines.loading import api_key
from atts.engines.servers.plan import MODULES, is_loopback
from atts.errors import ConfigError
from atts.types import Author

_EVERYWHERE = "0.0.0.0"  # noqa: S104 - only compared with


class PlacementPlan(NamedTuple):
    """The servers of one model."""

    author: Author
    options: ModelOptions
    gpus: int
    """That each server needs."""
    key: str | None


def plan_placements(
    config: Config, authors: Collection[Author], alone: bool, has_gpus: bool
) -> list[PlacementPlan]:
    """What would be placed of the models of ``authors``; what only a node can tell is not checked.

    Args:
        config: of the models.
        authors: whose servers.
        alone: whether the cluster is this machine alone, where servers listen on the loopback
            address.
        has_gpus: whether it has any GPUs; where it has none, a server gets none.

    Raises:
        ConfigError: there is nothing to place, or naming every reason why it could not be.
    """
    plans, faults = [], []
    for author in authors:
        options = config.options_of(author)
        server = options.server
        if options.engine not in MODULES:
            continue
        needed = len(server.gpus) or (server.tensor_parallel if has_gpus else 0)
        try:
            plans.append(
                PlacementPlan(author, _with_environment(options), needed, api_key(options))
            )
        except ConfigError as error:
            faults.append(f"{author}: {error}")
        if options.urls:
            faults.append(f"{author}: leave {author}.urls empty to start its servers here")
        if 0 < len(server.gpus) < server.tensor_parallel:
            faults.append(
                f"{author}: tensor_parallel is {server.tensor_parallel}, but server.gpus has only "
                f"{len(server.gpus)}"
            )
        if server.host != _EVERYWHERE and not is_loopback(server.host):
            faults.append(
                f"{author}: server.host {server.host} is one machine's address; leave it out, and "
                "each server listens at that of its node"
            )
        if not options.api_key_env and not (alone and is_loopback(server.host)):
            faults.append(
                f"{author}: its servers listen at the addresses of their nodes, where others reach "
                "them; set api_key_env"
            )
    if faults:
        raise ConfigError("the servers cannot be placed:\n  " + "\n  ".join(faults))
    if not plans:
        raise ConfigError(
            f"there is no server to start: draft.engine is {config.draft.engine} and target.engine "
            f"{config.target.engine}; set them to sglang or vllm"
        )
    return plans


def _with_environment(options: ModelOptions) -> ModelOptions:
    """With the values that ``server.environment`` takes from this process, for other machines."""
    given: dict[str, SecretStr | None] = {}
    for name, value in options.server.environment.items():
        if value is None and name not in os.environ:
            raise ConfigError(
                f"server.environment.{name} has no value here, and the environment of atts has no "
                f"{name}; put it in again, or set that"
            )
        given[name] = SecretStr(os.environ[name]) if value is None else value
    server = options.server.model_copy(update={"environment": given})
    return options.model_copy(update={"server": server})
