"""Where workers find a place: on which nodes, how many, and with what of it."""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from atts.config import IN_THIS_PROCESS, Config
from atts.errors import ConfigError
from atts.types import Author


class Node(NamedTuple):
    """A machine of the cluster, or a part of one."""

    id: str
    address: str
    cpus: int
    """That nobody has taken."""
    gpus: int
    is_free: bool = True
    """Whether nobody has taken anything of it."""

    @classmethod
    def living(
        cls, told: Iterable[Mapping[str, Any]], free: Mapping[str, Mapping[str, float]]
    ) -> "list[Node]":
        """The nodes that are there, of what Ray tells of them and of what is left of each."""
        found = []
        for each in told:
            if each["Alive"]:
                has = [each["Resources"].get(kind, 0.0) for kind in ("CPU", "GPU")]
                left = free.get(each["NodeID"], each["Resources"])
                has_left = [left.get(kind, 0.0) for kind in ("CPU", "GPU")]
                cpus, gpus = map(int, has_left)
                address = each["NodeManagerAddress"]
                found.append(cls(each["NodeID"], address, cpus, gpus, has == has_left))
        return found


class Place(NamedTuple):
    """What a worker takes of a node."""

    node: Node
    cpus: int
    gpus: int


def places(nodes: Sequence[Node], in_process: bool, most: int) -> list[Place]:
    """A place for each worker, at most so many, the nodes in turn.

    A worker that asks servers keeps one core busy, so there is one for each core. One with models
    of its own takes a GPU, or all cores of a node that has none.

    >>> nodes = [Node("a", "10.0.0.1", 2, 0), Node("b", "10.0.0.2", 8, 1)]
    >>> [(place.node.id, place.cpus, place.gpus) for place in places(nodes, False, most=4)]
    [('a', 1, 0), ('b', 1, 0), ('a', 1, 0), ('b', 1, 0)]
    >>> [(place.node.id, place.cpus, place.gpus) for place in places(nodes, True, most=4)]
    [('a', 2, 0), ('b', 1, 1)]
    """
    of_each = [_on(node, in_process) for node in nodes]
    longest = max(map(len, of_each), default=0)
    found = [on[n] for n in range(longest) for on in of_each if n < len(on)]
    return found[:most]


def _on(node: Node, in_process: bool) -> list[Place]:
    if not in_process:
        return [Place(node, 1, 0)] * node.cpus
    if node.gpus:
        return [Place(node, min(1, node.cpus), 1)] * node.gpus
    return [Place(node, node.cpus, 0)] if node.cpus else []


def in_process(config: Config, authors: Iterable[Author]) -> bool:
    """Whether a worker has one of these models in itself."""
    return any(config.options_of(author).engine in IN_THIS_PROCESS for author in authors)


def check_addresses(config: Config, authors: Iterable[Author], nodes: Iterable[Node]) -> None:
    """Refuse servers at a loopback address, if workers are to ask them from several machines.

    Raises:
        ConfigError: another machine would look for them in itself.
    """
    machines = {node.address for node in nodes}
    if len(machines) < 2:
        return
    from atts.engines.loading import server_urls

    for author in authors:
        options = config.options_of(author)
        if options.engine in IN_THIS_PROCESS:
            continue
        for url in server_urls(options):
            if _is_loopback(urlsplit(url).hostname or ""):
                raise ConfigError(
                    f"the {author}'s server is at {url}, which on each of the {len(machines)} "
                    f"machines of the cluster is another one: give {author}.urls an address that "
                    "all of them reach, and let the server listen there"
                )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def shared_out(config: Config, authors: Iterable[Author], workers: int) -> Config:
    """The configuration of one of several workers that ask the same servers.

    The limits on requests in flight are those of the servers, so each worker has its part of them;
    for a model of its own it has all.
    """
    limits = config.limits
    changed = {
        f"{author}_requests": -(-getattr(limits, f"{author}_requests") // workers)
        for author in authors
        if config.options_of(author).engine not in IN_THIS_PROCESS
    }
    return config.model_copy(update={"limits": limits.model_copy(update=changed)})
