"""The driver's part of a run on a cluster: who gets which chain, and what comes back."""

import asyncio
import copy
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from atts.cluster.crew import Crew, Member
from atts.cluster.decider import ControlActor, restored
from atts.cluster.engines import FarOutage
from atts.cluster.messages import Held, Report, Share, Work
from atts.errors import AttsError
from atts.files import to_jsonl
from atts.runs.making import Job
from atts.runs.setup import PlannedChain
from atts.types import Author, Chain, ChainKey

SAID_SECONDS = 60.0
"""What several workers say is said once in this time."""


class HandingOut:
    """Hands the chains of one job to the workers; see ``Following`` for what it is told of them."""

    def __init__(self, crew: Crew, job: Job, number: int, authors: Collection[Author]) -> None:
        self.outages = [FarOutage(author, crew) for author in authors]
        self._crew = crew
        self._job = job
        self._number = number
        self._setup = job.setup
        self._together = job.setup.method.together
        self._problems = ray.put(to_jsonl(job.setup.problems).encode())
        self._waiting: dict[ChainKey, asyncio.Future[Chain]] = {}
        self._queue: list[ChainKey] = []
        self._is_due = False  # whether the queue will be handed out in this turn of the loop
        self._made: dict[ChainKey, Chain] = {}  # since the job began
        self._settled: list[str] = []
        self._said: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready: set[Member] = set()
        control = job.setup.control
        self._learns = control is not None and control.learns
        self._decider: Any = None
        self._deciders = 0
        self._is_stale = False
        self._renewing = asyncio.Lock()

    async def begin(self) -> None:
        """Let the workers begin with the job."""
        self._crew.check()
        job = self._job
        if job.stopping:
            known = (problem.id for problem in self._setup.problems)
            self._settled = [name for name in known if job.stopping.is_settled(name)]
            job.stopping.tell = self._settle
        if job.activity:
            method = self._setup.method
            job.activity.outages = self.outages
            job.activity.has_barriers = method.together
            job.activity.takes_over = method.takes_over
        if self._learns:
            await self._renew_decider()
        self._crew.follow(self)
        await asyncio.gather(*(self._join(member) for member in list(self._crew.members)))

    async def end(self) -> None:
        """Let the workers leave the job, and its decider end."""
        self._crew.follow(None)
        for task in self._tasks:
            task.cancel()
        members = list(self._crew.members)
        await self._crew.tell(members, lambda member: member.handle.leave.remote())
        for member in members:
            self._count(member, None)
            member.keys.clear()
            member.report = None
        if self._decider:
            ray.kill(self._decider)

    async def solve(self, planned: PlannedChain) -> Chain:
        """Have a worker solve a chain, and others if it is lost.

        Raises:
            ConfigError, EngineGoneError: see ``run_chains``.
        """
        future: asyncio.Future[Chain] = asyncio.get_running_loop().create_future()
        self._waiting[planned.key] = future
        self._queue.append(planned.key)
        self._hand_out_soon()
        try:
            return await future
        finally:
            self._waiting.pop(planned.key, None)

    async def _join(self, member: Member) -> None:
        await self._crew.tell([member], lambda _: self.joined(member))

    async def joined(self, member: Member) -> None:
        """A worker can take chains from now on."""
        async with self._renewing:  # and the decider is as it will be
            control = None if self._learns else self._setup.control
            work = Work(
                self._number,
                self._setup.config,
                self._setup.stream,
                control,
                self._job.clock(),
                self._settled,
            )
            await member.handle.begin.remote(work, self._problems)
            if self._decider:
                await member.handle.ask_of.remote(self._deciders, self._decider)
            self._ready.add(member)
        self._hand_out_soon()

    def heard(self, member: Member, report: Report) -> None:
        """Take what has ended, and count."""
        for message in report.messages:
            self._say_once(message, member)
        if report.job != self._number:
            return
        self._count(member, report)
        for line in report.chains:
            chain = Chain.model_validate_json(line)
            member.keys.discard(chain.key)
            future = self._waiting.get(chain.key)
            if future and not future.done():
                self._made[chain.key] = chain
                self._crew.lost_in_a_row = 0
                future.set_result(chain)
        if report.failure:
            self.fail(report.failure.error(member.name))
        if report.lost_decider == self._deciders:
            self._crew.check_losses("the decider")
            self._say_once("the decider has ended; another takes up what is on record", member)
            self._renew_soon()
        if report.chains:
            self._hand_out_soon()

    def lost(self, member: Member) -> None:
        """Have its chains done again, and decided as if they had never been begun."""
        self._ready.discard(member)
        self._count(member, None)
        keys = [key for key in member.keys if key in self._waiting]
        self._queue[:0] = sorted(keys)
        if self._learns and keys:
            self._renew_soon()
        self._hand_out_soon()

    def fail(self, error: AttsError) -> None:
        """End the job: by one of its chains, as where it is made in one process."""
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error)
                return

    def warn(self, message: str) -> None:
        """Say something."""
        if self._job.warn:
            self._job.warn(message)

    def _say_once(self, message: str, member: Member) -> None:
        now = time.monotonic()
        if now - self._said.get(message, -SAID_SECONDS) >= SAID_SECONDS:
            self._said[message] = now
            self.warn(f"{message} ({member.name})")

    def _settle(self, problem_id: str) -> None:
        self._settled.append(problem_id)
        for member in self._ready:
            self._do(member, member.handle.settle.remote(problem_id))

    def _hand_out_soon(self) -> None:
        """At the end of this turn of the loop, when all that begin together are there."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._hand_out)

    def _hand_out(self) -> None:
        self._is_due = False
        queue, self._queue = self._queue, []
        shares: dict[Member, list[Share]] = defaultdict(list)
        for group in self._groups(key for key in queue if key in self._waiting):
            member = self._freest(len(group))
            if member is None:
                self._queue += group
                continue
            member.keys.update(group)
            problem_id = group[0].problem_id
            samples = [key.sample for key in group]
            shares[member].append(Share(problem_id, samples, self._finished(problem_id)))
        for member, given in shares.items():
            self._do(member, member.handle.add.remote(given))

    def _groups(self, keys: Iterable[ChainKey]) -> Iterator[list[ChainKey]]:
        """Chains that must be with one worker."""
        if self._together:
            ordered = sorted(keys)
            return (list(group) for _, group in groupby(ordered, key=lambda key: key.problem_id))
        return ([key] for key in keys)

    def _freest(self, count: int) -> Member | None:
        """The worker with the fewest chains, if it has room for so many, or none at all."""
        member = min(self._ready, key=lambda member: len(member.keys), default=None)
        if member and (not member.keys or len(member.keys) + count <= member.room):
            return member
        return None

    def _finished(self, problem_id: str) -> Sequence[bytes]:
        """Records of a problem's chains, for those that are ranked with them."""
        if not self._together:
            return ()
        keys = [ChainKey(problem_id, sample) for sample in range(self._setup.config.samples)]
        found = [self._made.get(key) or self._job.done.get(key) for key in keys]
        return [to_jsonl([chain]).encode() for chain in found if chain]

    def _do(self, member: Member, call: Any) -> None:  # noqa: ANN401 - Ray's reference
        """Let a call fail by the loss of its worker, and by nothing else."""

        async def called() -> None:
            with suppress(RayActorError):
                await call

        self._keep(asyncio.create_task(self._crew.watched(called(), member.name)))

    def _keep(self, task: "asyncio.Task[None]") -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _count(self, member: Member, report: Report | None) -> None:
        """Let the counters of the run show what a worker does now, and has done since."""
        activity = self._job.activity
        before, member.counted = member.counted, report
        if not activity:
            return
        for sign, each in ((-1, before), (1, report)):
            if each:
                activity.in_flight += sign * each.in_flight
                for work, requests in each.at_work.items():
                    activity.at_work[work] += sign * requests
        if report:
            for author, tokens in report.written.items():
                activity.written[author] += tokens
            activity.turns += report.turns
            for take_over in report.decided:
                activity.decided(take_over)

    def _renew_soon(self) -> None:
        if not self._is_stale:
            self._is_stale = True
            self._keep(asyncio.create_task(self._crew.watched(self._renew_decider())))

    async def _renew_decider(self) -> None:
        """A decider with the state that the records give, and the chains that are in flight.

        What the chains of lost workers had decided is left out: they are done again, and count
        once. Nothing is decided meanwhile.
        """
        async with self._renewing:
            self._is_stale = False
            self._deciders += 1
            members = list(self._ready)
            held = await self._crew.tell(members, lambda member: member.handle.hold.remote())
            if self._decider:
                ray.kill(self._decider)
            control = copy.deepcopy(self._setup.control)
            assert control, "only a control has a decider"  # noqa: S101
            actor = ray.remote(ControlActor).options(
                num_cpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(
                    ray.get_runtime_context().get_node_id(), soft=True
                ),
            )
            self._decider = actor.remote(restored(control, self._made.values(), self._open(held)))
            await self._crew.tell(
                members,
                lambda member: member.handle.ask_of.remote(self._deciders, self._decider),
            )

    def _open(self, held: Iterable[Held]) -> list[Held]:
        """What is held of chains that are not on record."""
        return [
            each._replace(decided=[one for one in each.decided if one.key not in self._made])
            for each in held
        ]
