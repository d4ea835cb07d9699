"""How workers are hired and given up, with Ray's part played by the test."""

import asyncio
from importlib.util import find_spec
from typing import Any

import pytest

from atts.config import parse_config
from atts.errors import AttsError, ConfigError, EngineConnectionError, EngineGoneError

if find_spec("ray") is None:
    pytest.skip("Ray is not installed", allow_module_level=True)

from ray.exceptions import RayError

from atts.cluster import crew as module
from atts.cluster.crew import Crew, Member
from atts.cluster.messages import Failure, Opened, Report
from atts.cluster.places import Node, Place

CONFIG = parse_config(
    {
        author: {"engine": "vllm", "model": f"bundled/{author}", "urls": ["http://127.0.0.1:1"]}
        for author in ("draft", "target")
    }
    | {"limits": {"patience_seconds": 0.0}},
    "a test",
)
PLACE = Place(Node("a", "10.0.0.1", 1, 0), 1, 0)


class Following:
    """Hears what becomes of the workers."""

    def __init__(self) -> None:
        self.errors: list[AttsError] = []
        self.said: list[str] = []

    async def joined(self, member: Member) -> None:
        pass

    def heard(self, member: Member, report: Report) -> None:
        pass

    def lost(self, member: Member) -> None:
        pass

    def fail(self, error: AttsError) -> None:
        self.errors.append(error)

    def warn(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Crew:
    for name in ("AGAIN_SECONDS", "LOOK_SECONDS", "FREED_SECONDS"):
        monkeypatch.setattr(module, name, 0.0)
    made = Crew(CONFIG, ("draft", "target"))

    async def nodes() -> list[Node]:
        return [PLACE.node]

    monkeypatch.setattr(made, "_nodes", nodes)
    return made


async def test_a_cluster_without_a_processor_is_refused(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none() -> list[Node]:
        return [PLACE.node._replace(cpus=0, is_free=False)]

    monkeypatch.setattr(crew, "_nodes", none)
    with pytest.raises(ConfigError, match="no node of the cluster has a processor"):
        await crew.__aenter__()


async def test_one_lost_worker_after_the_other_ends_the_run(crew: Crew) -> None:
    follower = Following()
    crew.follow(follower)
    for _ in range(module.IN_A_ROW - 1):
        crew.check_losses("worker 1")
    crew.lost_in_a_row = 0  # a chain has ended
    for _ in range(module.IN_A_ROW):
        crew.check()
        crew.check_losses("worker 7 on 10.0.0.1")
    assert [type(error) for error in follower.errors] == [EngineGoneError]
    with pytest.raises(EngineGoneError, match=r"10 workers in a row .* worker 7 on 10\.0\.0\.1"):
        crew.check()


async def test_a_cluster_without_workers_is_given_up(crew: Crew) -> None:
    follower = Following()
    crew.follow(follower)
    watching = asyncio.create_task(crew.watched(crew._watch({"a"})))
    while not follower.errors:  # noqa: ASYNC110
        await asyncio.sleep(0)
    watching.cancel()
    assert "has had no worker for 0 s" in str(follower.errors[0])


async def test_a_server_that_is_away_stops_only_the_first_workers(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = 0

    async def work(_: Place) -> None:
        nonlocal tried
        tried += 1
        if tried > 3:
            raise ConfigError("enough")
        raise EngineConnectionError("worker 0 on 10.0.0.1: no server there")

    monkeypatch.setattr(crew, "_work", work)
    with pytest.raises(EngineConnectionError):
        await crew._live(PLACE)
    follower = Following()
    crew.follow(follower)
    crew._watching = asyncio.create_task(asyncio.sleep(60))
    with pytest.raises(ConfigError, match="enough"):
        await crew._live(PLACE)
    assert follower.said == ["worker 0 on 10.0.0.1: no server there"] * 2
    crew._watching.cancel()


async def test_what_goes_wrong_beside_the_run_ends_it(crew: Crew) -> None:
    follower = Following()
    crew.follow(follower)

    async def wrong() -> None:
        raise KeyError("x")

    await crew.watched(wrong(), "worker 2 on 10.0.0.1")
    assert str(follower.errors[0]) == "worker 2 on 10.0.0.1: KeyError: 'x'"


@pytest.mark.parametrize(
    ("opened", "error"),
    [
        (Failure("ConfigError", "no such model"), "worker 0 on 10.0.0.1: no such model"),
        (Opened("0.0.1", 8), "worker 0 on 10.0.0.1 has atts 0.0.1"),
    ],
)
def test_a_worker_that_cannot_work_is_named(crew: Crew, opened: Any, error: str) -> None:  # noqa: ANN401
    with pytest.raises(ConfigError, match=error):
        crew._room_of(opened, Member(0, PLACE, None))


def test_the_line_that_says_most_is_told() -> None:
    text = (
        "The actor died.\n\tclass_name: Worker\nThe actor is dead because its worker process has "
        "died. Worker exit type: SYSTEM_ERROR Worker exit detail: End of file. Some common causes "
        "include: many."
    )
    assert module._reason(RayError(text)) == "End of file."
    assert module._reason(RayError("  ValueError: bad\n")) == "ValueError: bad"
