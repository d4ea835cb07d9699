"""Where workers find a place."""

import pytest

from atts.cluster.places import Node, check_addresses, in_process, places, shared_out
from atts.config import parse_config
from atts.errors import ConfigError

SERVED = {
    "draft": {"engine": "vllm", "model": "bundled/draft", "urls": ["http://127.0.0.1:1"]},
    "target": {"engine": "vllm", "model": "bundled/target", "urls": ["http://10.0.0.1:1"]},
    "limits": {"draft_requests": 100, "target_requests": 7},
}


def told(node: str, address: str, alive: bool = True, **resources: float) -> dict[str, object]:
    return {"NodeID": node, "NodeManagerAddress": address, "Alive": alive, "Resources": resources}


def test_what_is_left_of_a_living_node_counts() -> None:
    nodes = [
        told("a", "10.0.0.1", CPU=4.0),
        told("b", "10.0.0.2", alive=False, CPU=4.0),
        told("c", "10.0.0.3", CPU=4.0, GPU=2.0),
        told("d", "10.0.0.4"),
    ]
    found = Node.living(nodes, {"a": {"CPU": 1.0}})
    assert [(each.id, each.cpus, each.gpus, each.is_free) for each in found] == [
        ("a", 1, 0, False),
        ("c", 4, 2, True),
        ("d", 0, 0, True),
    ]
    assert len(places(found, in_process=False, most=100)) == 5
    assert [(each.node.id, each.gpus) for each in places(found, True, 100)] == [
        ("a", 0),
        ("c", 1),
        ("c", 1),
    ]


def test_a_loopback_address_is_refused_where_there_are_several_machines() -> None:
    config = parse_config(SERVED, "a test")
    one, two = Node("a", "10.0.0.1", 1, 0), Node("b", "10.0.0.2", 1, 0)
    with pytest.raises(ConfigError, match=r"draft's server is at http://127\.0\.0\.1:1"):
        check_addresses(config, ["draft", "target"], [one, two])
    check_addresses(config, ["draft", "target"], [one, one._replace(id="c")])
    check_addresses(config, ["target"], [one, two])
    check_addresses(parse_config({}, "a test"), ["draft", "target"], [one, two])


def test_workers_share_the_limits_of_servers_alone() -> None:
    limits = shared_out(parse_config(SERVED, "a test"), ["draft", "target"], 8).limits
    assert (limits.draft_requests, limits.target_requests) == (13, 1)
    own = parse_config({}, "a test")
    assert shared_out(own, ["draft", "target"], 8) == own
    assert in_process(own, ["draft"])
    assert not in_process(parse_config(SERVED, "a test"), ["draft", "target"])
