"""The workers of a cluster: hired on its nodes, followed, and hired anew where one is lost."""

import asyncio
import os
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import Any, Protocol

import ray
from ray._private import state  # it has no other way to tell what is left of each node
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from atts.cluster.messages import Failure, Opened, Report
from atts.cluster.places import (
    Node,
    Place,
    check_addresses,
    in_process,
    places,
    shared_out,
)
from atts.cluster.worker import Worker
from atts.config import Config
from atts.errors import AttsError, ConfigError, EngineGoneError, EngineUnavailableError
from atts.package import DISTRIBUTION
from atts.types import Author, ChainKey

START_SECONDS = 60.0
"""Chains begin once all workers are there, or after this time, with those that are."""
FREED_SECONDS = 3.0
"""What is taken of a node after this time stays so."""
GATHER_SECONDS = 0.02
"""The least that a report gathers."""
REPORTS_A_SECOND = 250
"""Most that the driver takes, of all workers together: each costs it about a millisecond, and
mostly as much again for what it hands out then."""
LOOK_SECONDS = 2.0
"""How often new nodes are looked for."""
AGAIN_SECONDS = 1.0
"""Before a lost worker's place is given to another; its node may be gone."""
END_SECONDS = 5.0
"""In which workers abort their requests, before they are ended."""
IN_A_ROW = 10
"""So many workers lost without a chain that has ended between them end the run."""
TELLING = ("Error:", "exit type", "node was terminated", "died because")
"""Words of the line of Ray's messages that says most."""
COPIES = 1024
"""Numbers of workers of a run that are told apart in the order of decisions."""


class Member:
    """A worker, as the driver knows it."""

    def __init__(self, number: int, place: Place, handle: Any) -> None:  # noqa: ANN401 - Ray's
        self.name = f"worker {number} on {place.node.address}"
        self.place = place
        self.handle = handle
        self.room = 0
        """Chains that it can have in flight."""
        self.keys: set[ChainKey] = set()
        """Chains that it has."""
        self.report: Report | None = None
        """The last one."""
        self.counted: Report | None = None
        """The one whose counts are part of the run's."""


class Following(Protocol):
    """Is told what becomes of the workers, while they make chains."""

    async def joined(self, member: Member) -> None:
        """A worker can take chains from now on."""
        ...

    def heard(self, member: Member, report: Report) -> None:
        """A worker has reported."""
        ...

    def lost(self, member: Member) -> None:
        """A worker has ended; what it had is to be done again."""
        ...

    def fail(self, error: AttsError) -> None:
        """Nothing more can be made."""
        ...

    def warn(self, message: str) -> None:
        """Something should be known."""
        ...


class Crew:
    """The workers; an asynchronous context manager, inside which they are there.

    They end with it, and, as actors of Ray, with this process, however that ends.
    """

    def __init__(self, config: Config, authors: Collection[Author]) -> None:
        """Workers with the models of ``authors``."""
        self.members: list[Member] = []
        """Those that can take chains."""
        self.follower: Following | None = None
        self.lost_in_a_row = 0
        """Without a chain that has ended since."""
        self._config = config
        self._authors = authors
        self._own_models = in_process(config, authors)
        self._hired = 0
        self._is_ending = False
        self._homes: set[asyncio.Task[None]] = set()  # one for each place
        self._watching: asyncio.Task[None] | None = None
        self._failure: AttsError | None = None
        self._changed = asyncio.Event()
        names = (config.options_of(author).api_key_env for author in authors)
        self._environment = {
            name: os.environ[name] for name in names if name and name in os.environ
        }
        self._shared = config
        self._untold: list[str] = []

    async def __aenter__(self) -> "Crew":
        """Hire them.

        Raises:
            ConfigError: no node has a place for one, or one cannot open its models.
            EngineError: a model's server does not answer.
        """
        nodes = await self._free_nodes()
        check_addresses(self._config, self._authors, nodes)
        found = places(nodes, self._own_models, self._config.limits.chains)
        if not found:
            raise ConfigError(
                "no node of the cluster has a processor for a worker: all are taken, or there are "
                "none (ray status shows them)"
            )
        self._shared = shared_out(self._config, self._authors, len(found))
        try:
            for place in found:
                self._home(place)
            with suppress(TimeoutError):
                async with asyncio.timeout(START_SECONDS):
                    await self._until(lambda: len(self.members) == len(found))
            if len(self.members) < len(found):
                self._untold.append(
                    f"{len(self.members)} of {len(found)} workers have found a place within "
                    f"{START_SECONDS:g} s; the others join when the cluster has room for them"
                )
            await self._until(lambda: bool(self.members))
        except BaseException:
            await self.__aexit__()
            raise
        known = {node.id for node in nodes}
        self._watching = asyncio.create_task(self.watched(self._watch(known)))
        return self

    async def __aexit__(self, *_exception: object) -> None:
        """End them."""
        self._is_ending = True
        members = list(self.members)
        tasks = list(self._homes)
        if self._watching:
            tasks.append(self._watching)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self.tell(members, lambda member: member.handle.close.remote())
        for member in members:
            ray.kill(member.handle)

    async def tell(self, members: Sequence[Member], call: Callable[[Member], Any]) -> list[Any]:
        """Call all of them, and wait for a while; what those answer that do."""
        if not members:
            return []
        calls = [asyncio.ensure_future(_answer(call(member))) for member in members]
        done, late = await asyncio.wait(calls, timeout=END_SECONDS)
        for each in late:
            each.cancel()
        return [each.result() for each in calls if each in done and each.result() is not None]

    def follow(self, follower: Following | None) -> None:
        """Tell this one from now on."""
        self.follower = follower
        while follower and self._untold:
            follower.warn(self._untold.pop(0))

    def check_losses(self, why: str) -> None:
        """End the run where one worker after the other is lost, and nothing is made."""
        self.lost_in_a_row += 1
        if self.lost_in_a_row >= IN_A_ROW:
            self._fail(
                EngineGoneError(
                    f"{IN_A_ROW} workers in a row have ended before any chain did; the last: {why}"
                    "\nThe finished chains are kept; the same command goes on from here"
                )
            )

    def check(self) -> None:
        """Refuse to go on where nothing more can be made.

        Raises:
            AttsError: why.
        """
        if self._failure:
            raise self._failure

    async def watched(self, job: Coroutine[Any, Any, None], where: str = "the cluster") -> None:
        """Do something beside the run, which ends if that fails."""
        try:
            await job
        except AttsError as error:
            self._fail(error)
        except Exception as error:  # else the run would wait for ever
            self._fail(AttsError(f"{where}: {type(error).__name__}: {error}"))

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self.check()
            self._changed.clear()
            await self._changed.wait()

    def _fail(self, error: AttsError) -> None:
        self._failure = error
        self._changed.set()
        if self.follower:
            self.follower.fail(error)

    def _home(self, place: Place) -> None:
        task = asyncio.create_task(self.watched(self._live(place)))
        self._homes.add(task)
        task.add_done_callback(self._homes.discard)

    async def _live(self, place: Place) -> None:
        """A place on a node: a worker, and another when it is lost, while the node is there."""
        while True:
            try:
                await self._work(place)
            except EngineUnavailableError as error:
                if self._watching is None:
                    raise
                if self.follower:  # which has others, or gives up when it has had none for long
                    self.follower.warn(str(error))
                await asyncio.sleep(LOOK_SECONDS)
            await asyncio.sleep(AGAIN_SECONDS)
            if place.node.id not in {node.id for node in await self._nodes()}:
                return

    async def _work(self, place: Place) -> None:
        """One worker, until it is lost.

        Raises:
            AttsError: it cannot do its work, and no other could.
        """
        number, self._hired = self._hired, self._hired + 1
        member = Member(number, place, None)
        strategy = NodeAffinitySchedulingStrategy(place.node.id, soft=False)
        actor: Any = ray.remote(Worker)
        member.handle = handle = actor.options(
            num_cpus=place.cpus,
            num_gpus=place.gpus,
            max_concurrency=100,
            scheduling_strategy=strategy,
        ).remote(member.name, number % COPIES, COPIES)
        try:
            opened = await handle.open.remote(self._shared, self._authors, self._environment)
            member.room = self._room_of(opened, member)
            if self.follower:
                await self.follower.joined(member)
            self.members.append(member)
            self._changed.set()
            while True:
                gather = max(GATHER_SECONDS, len(self.members) / REPORTS_A_SECOND)
                report = await handle.report.remote(gather)
                member.report = report
                if self.follower:
                    self.follower.heard(member, report)
        except RayTaskError as error:
            raise AttsError(f"{member.name} has failed: {_reason(error)}") from error
        except RayError as error:
            why = f"{member.name} is lost: {_reason(error)}"
            if "creation task" in str(error):
                raise ConfigError(
                    f"{member.name} cannot begin: {_reason(error)}; every node needs atts "
                    f"{version(DISTRIBUTION)} in the environment that Ray was started from"
                ) from None
            self.check_losses(why)
            if self.follower:
                self.follower.warn(f"{why}; its {len(member.keys)} chains are done again")
        finally:
            if member in self.members:
                self.members.remove(member)
                if self.follower:
                    self.follower.lost(member)
            if not self._is_ending or not member.room:
                ray.kill(handle)

    def _room_of(self, opened: Opened | Failure, member: Member) -> int:
        """The room of a worker.

        Raises:
            AttsError: it could not open its models, or is another version of atts.
        """
        if isinstance(opened, Failure):
            raise opened.error(member.name)
        if opened.version != (own := version(DISTRIBUTION)):
            raise ConfigError(
                f"{member.name} has atts {opened.version}, and this command is {own}: install the "
                "same on every node"
            )
        return opened.room

    async def _nodes(self) -> list[Node]:
        return await asyncio.to_thread(
            lambda: Node.living(ray.nodes(), state.available_resources_per_node())
        )

    async def _free_nodes(self) -> list[Node]:
        """The nodes; what has ended just now is waited for, of which Ray tells with a delay."""
        until = asyncio.get_running_loop().time() + FREED_SECONDS
        while True:
            nodes = await self._nodes()
            if all(node.is_free for node in nodes) or asyncio.get_running_loop().time() > until:
                return nodes
            await asyncio.sleep(0.1)

    async def _watch(self, known: set[str]) -> None:
        """Hire on nodes that come, and give up if there is none for too long."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            nodes = await self._nodes()
            new = [node for node in nodes if node.id not in known]
            known |= {node.id for node in new}
            room = self._config.limits.chains - len(self._homes)
            for place in places(new, self._own_models, max(room, 0)):
                self._home(place)
            if self.members:
                last = loop.time()
            elif loop.time() - last > (patience := self._config.limits.patience_seconds):
                self._fail(
                    EngineGoneError(
                        f"the cluster has had no worker for {patience:g} s "
                        "(limits.patience_seconds)\nThe finished chains are kept; the same command "
                        "goes on from here"
                    )
                )


async def _answer(reference: Any) -> Any:  # noqa: ANN401 - whatever the call gives
    """What a call gives, or None if its worker is lost."""
    try:
        return await reference
    except RayError:
        return None


def _reason(error: RayError) -> str:
    """Why a worker is gone, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if any(mark in line for mark in TELLING)]
    told = (telling or lines or [type(error).__name__])[-1]
    return told.partition(" Some common causes")[0].rpartition("exit detail: ")[2][:300]
