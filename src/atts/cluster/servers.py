"""Servers on the nodes of a Ray cluster: up, all of them at once, and down.

Each server has a detached actor, which keeps it (``engines/servers/keeper.py``) and ends with it,
in a placement group that holds its GPUs on one node. Ray starts the actor again where it dies with
its node; everything else that a server can die of, the keeper mends.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from atts.cluster.connection import LOCAL, connected, knock
from atts.cluster.placement_plan import PlacementPlan, plan_placements
from atts.config import Config, ModelOptions
from atts.engines.servers.keeper import Keeper, Kept
from atts.engines.servers.lifecycle import AUTHORS, Progress, is_running
from atts.engines.servers.placed import (
    PlacedServer,
    Placement,
    forget_placement,
    path_of,
    read_placement,
    settings_of,
    write_placement,
)
from atts.engines.servers.processes import CHILD_SECONDS, TERMINATE_SECONDS, Tell
from atts.errors import ConfigError, ServerError
from atts.types import Author

NAMESPACE = "atts"
POLL_SECONDS = 0.5
QUIET_SECONDS = 3.0
"""Room that is there is given within it."""
REPLY_SECONDS = 60.0
"""An actor that does not reply for so long is on a node that is gone, or hangs."""
END_SECONDS = 2 * TERMINATE_SECONDS + CHILD_SECONDS + 5.0


class PlacedKeeper(Keeper):
    """The actor of a server."""

    def __init__(
        self, name: str, author: Author, options: ModelOptions, is_alone: bool, key: str | None
    ) -> None:
        """``is_alone``: the cluster is one machine, which nobody else need reach."""
        import ray

        host = "127.0.0.1" if is_alone else ray.util.get_node_ip_address()
        super().__init__(name, author, options, host, key)


async def up(
    config: Config, authors: Collection[Author], directory: Path, address: str, progress: Progress
) -> list[Placement]:
    """Place servers on the nodes of a cluster, and wait until all of them answer.

    If one fails, or this is cancelled, all of them are ended again.

    Args:
        config: of the models.
        authors: whose servers.
        directory: of the records.
        address: of the cluster; see ``connected``.
        progress: is told what they are doing.

    Raises:
        ConfigError: there is no such cluster, or something stands in the way; nothing was started.
        ServerError: there is no room, or a server died or did not answer in time.
    """
    if address == LOCAL:
        raise ConfigError(
            "--ray local: that cluster ends with the command, and servers are to go on; leave "
            "--ray out on one machine"
        )
    with connected(address) as ray:
        for author in authors:
            if _are_placed(ray, directory, author) or is_running(directory, author):
                raise ServerError(
                    f"the {author}'s servers of {directory} are up already; end them with atts "
                    "servers down"
                )
        alone = _is_alone(ray)
        plans = plan_placements(config, authors, alone, ray.cluster_resources().get("GPU", 0.0) > 0)
        placed: list[Placement] = []
        try:
            for plan in plans:
                settings = settings_of(config.options_of(plan.author))
                placed.append(_placement(plan, ray.get_runtime_context().gcs_address, settings))
                write_placement(directory, placed[-1])
            began = time.monotonic()
            async with asyncio.TaskGroup() as waiting:
                tasks = [
                    waiting.create_task(_started(ray, *each, alone, progress, began))
                    for each in zip(plans, placed, strict=True)
                ]
            placed = [task.result() for task in tasks]
            for placement in placed:
                write_placement(directory, placement)
        except BaseException as error:
            await asyncio.to_thread(_end, ray, placed, directory, None)
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None
            raise
    return placed


def _placement(plan: PlacementPlan, cluster: str, settings: str) -> Placement:
    group = f"atts-{plan.author}-{secrets.token_hex(4)}"
    numbers = range(plan.options.server.replicas)
    return Placement(
        author=plan.author,
        engine=plan.options.engine,
        model=plan.options.model,
        settings=settings,
        cluster=cluster,
        group=group,
        servers=tuple(PlacedServer(name=f"{group}-{n}", node="", url="") for n in numbers),
    )


def _are_placed(ray: ModuleType, directory: Path, author: Author) -> bool:
    """Whether servers were placed from a folder and may still run: not where their cluster is gone,
    as after a batch job that was ended.
    """
    placement = read_placement(directory, author)
    if placement is None:
        return False
    if placement.cluster != ray.get_runtime_context().gcs_address:
        try:
            knock(placement.cluster)
        except ConfigError:
            return False
        return True
    return any(_actor(ray, server.name) for server in placement.servers)


async def _started(
    ray: ModuleType,
    plan: PlacementPlan,
    placement: Placement,
    alone: bool,
    progress: Progress,
    began: float,
) -> Placement:
    """Start the servers of a model; their addresses once all of them answer."""
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    # It advises against what is meant here: the group is detached, too, and ends after its actors.
    logging.getLogger("ray.actor").setLevel(logging.ERROR)
    limit = plan.options.server.start_seconds
    # A bundle is always on one node, so tensor parallelism stays within it.
    bundle = {"CPU": 1, **({"GPU": plan.gpus} if plan.gpus else {})}
    group = placement_group(
        [bundle] * len(placement.servers),
        strategy="PACK",
        name=placement.group,
        lifetime="detached",
    )
    need = f"{len(placement.servers)} x {plan.gpus} GPUs and a CPU"
    while not await asyncio.to_thread(group.wait, POLL_SECONDS):
        seconds = time.monotonic() - began
        free = ray.available_resources()
        room = f"{free.get('GPU', 0):g} GPUs and {free.get('CPU', 0):g} CPUs are free"
        if seconds > limit:
            raise ServerError(
                f"the cluster has no room for the {plan.author}'s servers after {seconds:.0f} s: "
                f"they need {need}, each on one node; {room}"
            )
        if seconds > QUIET_SECONDS:
            progress(plan.author, f"waits for room: {need}; {room}", seconds)
    actors = [
        ray.remote(PlacedKeeper)
        .options(
            name=server.name,
            namespace=NAMESPACE,
            lifetime="detached",
            num_cpus=1,
            num_gpus=plan.gpus,
            max_restarts=-1,
            max_concurrency=4,  # it replies while its server is ended
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                group, placement_group_bundle_index=number
            ),
        )
        .remote(server.name, plan.author, plan.options, alone, plan.key)
        for number, server in enumerate(placement.servers)
    ]
    while True:
        kept: list[Kept] = await asyncio.to_thread(_ask, ray, actors)
        seconds = time.monotonic() - began
        if failed := next((each for each in kept if each.failure), None):
            raise ServerError(f"the {plan.author}'s server on {failed.node}: {failed.failure}")
        waited = [each for each in kept if not each.is_answering]
        if not waited:
            progress(plan.author, "answers", seconds)
            return _located(placement, kept)
        if seconds > limit:
            raise ServerError(
                f"the {plan.author}'s server on {waited[0].node} does not answer after "
                f"{seconds:.0f} s; raise server.start_seconds if it only needs longer. The last "
                f"line of its log: {waited[0].doing}"
            )
        progress(plan.author, f"{waited[0].node}: {waited[0].doing}", seconds)
        await asyncio.sleep(POLL_SECONDS)


def _ask(ray: ModuleType, actors: list[Any]) -> list[Kept]:
    try:
        kept: list[Kept] = ray.get([actor.kept.remote() for actor in actors], timeout=REPLY_SECONDS)
    except ray.exceptions.RayError as error:
        raise ServerError(f"a server's actor does not reply: {_first_line(error)}") from None
    return kept


def _located(placement: Placement, kept: Sequence[Kept | None]) -> Placement:
    """With the addresses at which its servers are now."""
    servers = tuple(
        server.model_copy(update={"node": now.node, "url": now.url}) if now else server
        for server, now in zip(placement.servers, kept, strict=True)
    )
    return placement.model_copy(update={"servers": servers})


def status(directory: Path, author: Author) -> list[tuple[PlacedServer, Kept | None]]:
    """A model's servers on a cluster and how each is now, None for one that does not reply; none
    if none was placed. Where they have moved, their new addresses are written down.

    Raises:
        ServerError: the record cannot be read, or the cluster cannot be reached.
    """
    placement = read_placement(directory, author)
    if placement is None:
        return []
    with _reached(placement, directory) as ray:
        kept = [
            _reply(ray, server.name, lambda actor: actor.kept.remote(), REPLY_SECONDS)
            for server in placement.servers
        ]
    now = _located(placement, kept)
    if now != placement:
        write_placement(directory, now)
    return list(zip(now.servers, kept, strict=True))


def logs(directory: Path, author: Author, lines: int) -> list[tuple[PlacedServer, str]]:
    """The ends of the logs of a model's servers on a cluster; none if none was placed.

    Raises:
        ServerError: the record cannot be read, or the cluster cannot be reached.
    """
    placement = read_placement(directory, author)
    if placement is None:
        return []
    with _reached(placement, directory) as ray:
        return [
            (server, _reply(ray, server.name, lambda a: a.tail.remote(lines), REPLY_SECONDS) or "")
            for server in placement.servers
        ]


def down(
    directory: Path, authors: Collection[Author] = AUTHORS, tell: Tell | None = None
) -> list[Placement]:
    """End the servers that were placed on clusters from ``directory``; gives those.

    ``tell`` hears what is waited for.

    Raises:
        ServerError: a record cannot be read, or a cluster cannot be reached.
    """
    placed = [found for author in authors if (found := read_placement(directory, author))]
    for placement in placed:
        with _reached(placement, directory) as ray:
            _end(ray, [placement], directory, tell)
    return placed


def _end(
    ray: ModuleType, placed: Collection[Placement], directory: Path, tell: Tell | None
) -> None:
    from ray.util.placement_group import get_placement_group, remove_placement_group

    actors = {
        server.name: actor
        for placement in placed
        for server in placement.servers
        if (actor := _actor(ray, server.name))
    }
    if tell:
        for placement in placed:
            where = f"{placement.model}, on {placement.cluster}"
            tell(f"Ending the {placement.author}'s servers, {where}")
    # All at once: each has a while to end by itself before it is killed.
    if ends := [actor.end.remote() for actor in actors.values()]:
        ray.wait(ends, num_returns=len(ends), timeout=END_SECONDS)
    for actor in actors.values():  # a server ends with its actor, if it has not ended yet
        ray.kill(actor, no_restart=True)
    for placement in placed:
        with suppress(ValueError):  # it was never made, or is gone
            remove_placement_group(get_placement_group(placement.group))
        forget_placement(directory, placement.author)


def _actor(ray: ModuleType, name: str) -> Any:  # noqa: ANN401 - an actor's methods are not typed
    """An actor by its name; None if there is none any more."""
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None


def _reply(ray: ModuleType, name: str, ask: Callable[[Any], Any], seconds: float) -> Any:  # noqa: ANN401
    """What an actor replies; None if it does not."""
    actor = _actor(ray, name)
    try:
        return None if actor is None else ray.get(ask(actor), timeout=seconds)
    except ray.exceptions.RayError:
        return None


def _is_alone(ray: ModuleType) -> bool:
    """Whether all of a cluster is this machine."""
    addresses = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    return addresses == {ray.util.get_node_ip_address()}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _reached(placement: Placement, directory: Path) -> Iterator[ModuleType]:
    """Connect to the cluster of a placement.

    Raises:
        ServerError: it cannot be reached.
    """
    with ExitStack() as stack:
        try:
            ray = stack.enter_context(connected(placement.cluster))
        except ConfigError as error:
            raise ServerError(
                f"the {placement.author}'s servers were placed on the Ray cluster at "
                f"{placement.cluster}, which does not answer. If that cluster has ended, so have "
                f"they: remove {path_of(directory, placement.author)}"
            ) from error
        yield ray
