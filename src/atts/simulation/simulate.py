"""One method over a workload, in virtual time: the project's own runner on simulated engines."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import numpy as np

from atts.config import Config, MethodName
from atts.conformal.factory import make_control
from atts.engines.base import Engine
from atts.engines.limits import LimitedEngine
from atts.engines.replicas import Replicas
from atts.errors import AttsError, ConfigError
from atts.methods import METHODS
from atts.methods.chain import Model, OpenChain
from atts.methods.decider import Decider, Siblings
from atts.runs.admission import adapting_room
from atts.runs.pool import Clock, collected_seldom, run_chains
from atts.simulation.clock import run_virtually
from atts.simulation.contender import Contender
from atts.simulation.deployment import Hardware, make_servers
from atts.simulation.engine import Script, ScriptTokenizer, SimulatedEngine
from atts.simulation.workload import Workload
from atts.types import Author, Chain, Record


class ModelUse(Record):
    """How one model's GPUs were used. Shares are of the run's wall time, over all copies."""

    gpus: int
    busy: float
    """Share of the time in which there was a request to work on."""
    cache_tokens: int
    """Of one copy."""
    peak_cache: float
    """Largest share of a copy's cache that running requests took."""
    cached: float
    """Share of the input tokens that were found in the prefix cache."""
    queued_seconds: float
    """Mean over requests, from their arrival to their prefill."""
    peak_running: int
    put_back: int
    """Requests that had to make room, and were computed again."""


class Outcome(Record):
    """What a simulated run took."""

    name: str
    method: MethodName
    chains_in_flight: int
    problems: int
    chains: int
    failed: int
    first_error: str | None
    wall_seconds: float
    draft_tokens: int
    target_tokens: int
    scored_tokens: int
    vain_tokens: int
    """Of the draft's, that were written ahead and thrown away; they count nowhere else."""
    tokens_per_second: float
    """Written by either model."""
    take_over_rate: float | None
    waited_seconds: float
    """Mean over chains of the time spent waiting for other chains."""
    chain_seconds: float
    """Mean over chains, from start to end."""
    draft: ModelUse | None
    target: ModelUse | None


def simulate(
    contender: Contender,
    config: Config,
    workload: Workload,
    hardware: Hardware,
    chains_in_flight: int,
    problems: int,
    target_only_ratio: float = 1.0,
    finished: Callable[[Chain], None] = lambda _: None,
) -> Outcome:
    """Run a contender's method over the first ``problems`` problems of a workload.

    Args:
        contender: what to run.
        config: of the run; where the models are served does not matter.
        workload: what the chains do.
        hardware: what serves the models.
        chains_in_flight: also the most requests in flight on each model.
        problems: past the last recorded one they come again.
        target_only_ratio: tokens of a chain that the target writes alone, as a multiple of those
            that both models wrote in the recording.
        finished: takes finished chains.

    Raises:
        ConfigError: a setting is wrong, or a model does not fit its GPUs.
        CalibrationError: the control needs what it is not given.
    """
    run = _Run(contender, config, workload, hardware, chains_in_flight, problems)
    run.target_only_ratio = target_only_ratio
    return run_virtually(run.outcome(finished))


class _Run:
    def __init__(
        self,
        contender: Contender,
        config: Config,
        workload: Workload,
        hardware: Hardware,
        chains_in_flight: int,
        problems: int,
    ) -> None:
        self.contender = contender
        self.config = contender.config(config, chains_in_flight)
        self.method = METHODS[contender.method]
        self.workload = workload
        self.hardware = hardware
        self.problems = problems
        self.chains_in_flight = chains_in_flight
        if self.method.together and self.config.limits.chains < self.config.samples:
            raise ConfigError(
                f"--chains {chains_in_flight}: with {contender.method} all {self.config.samples} "
                "chains of a problem wait for each other, so at least as many must be in flight"
            )
        self.target_only_ratio = 1.0
        self.scripts: dict[int, Script] = {}
        self.servers = make_servers(self.config, self.method.authors, hardware)
        self.control = None
        if self.method.needs_calibration:
            options = self.config.take_over
            if options.score.kind == "unlikely-share":
                raise ConfigError(
                    "take_over.score.kind=unlikely-share cannot be simulated: of a recorded "
                    "segment only the mean is played back; take mean"
                )
            calibration = None
            if options.control != "online":
                calibration = workload.calibration(self.config, problems)
            self.control = make_control(options, calibration)

    async def outcome(self, finished: Callable[[Chain], None]) -> Outcome:
        limits = self.config.limits
        in_flight = {"draft": limits.draft_requests, "target": limits.target_requests}
        engines = {}
        for author, servers in self.servers.items():
            copies: list[Engine] = [
                SimulatedEngine(author, server, self.scripts) for server in servers
            ]
            engine = copies[0] if len(copies) == 1 else Replicas(copies)
            engines[author] = LimitedEngine(
                engine, in_flight[author], limits.attempts, limits.backoff_seconds
            )
        tally = _Tally()
        numbers: dict[str, int] = {}  # of the problems

        def done(chain: Chain) -> None:
            del self.scripts[numbers[chain.problem_id] * self.config.samples + chain.sample]
            tally.add(chain)
            finished(chain)

        def opened(number: int, sample: int, decider: Decider | None) -> OpenChain:
            problem = self.workload.problem(number)
            script = self.workload.script(number, sample, self.config, self.target_only_ratio)
            self.scripts[script.number] = script
            tokenizer = ScriptTokenizer(script)
            models = {author: Model(engine, tokenizer) for author, engine in engines.items()}
            return OpenChain(problem, sample, models, self.config, decider)

        def chains(some: Iterable[int]) -> Iterator[Sequence[Callable[[], OpenChain]]]:
            samples = range(self.config.samples)
            for number in some:
                problem_id = self.workload.problem(number).id
                numbers[problem_id] = number
                decider = None
                if self.method.decider:
                    siblings = Siblings(problem_id, self.config, self.control, samples)
                    decider = self.method.decider(siblings)
                group = [partial(opened, number, sample, decider) for sample in samples]
                if self.method.together:
                    yield group
                else:
                    yield from ([chain] for chain in group)

        clock = Clock(now=asyncio.get_running_loop().time)
        everything = range(self.problems)
        parts = [[n] for n in everything] if self.contender.by_problem else [everything]
        with collected_seldom():
            for part in parts:
                async with adapting_room(self.config, list(engines.values()), None) as room:
                    await run_chains(chains(part), self.method, room, clock, done)
        return self._outcome(tally, clock())

    def _outcome(self, tally: "_Tally", wall: float) -> Outcome:
        chains = tally.chains
        written = tally.tokens["draft"] + tally.tokens["target"]
        return Outcome(
            name=self.contender.name,
            method=self.contender.method,
            chains_in_flight=self.chains_in_flight,
            problems=self.problems,
            chains=chains,
            failed=tally.failed,
            first_error=tally.first_error,
            wall_seconds=wall,
            draft_tokens=tally.tokens["draft"],
            target_tokens=tally.tokens["target"],
            scored_tokens=tally.scored,
            vain_tokens=self._written("draft") - tally.tokens["draft"],
            tokens_per_second=written / wall if wall else 0.0,
            take_over_rate=tally.take_overs / tally.decisions if tally.decisions else None,
            waited_seconds=tally.waited / chains,
            chain_seconds=tally.seconds / chains,
            draft=self._use("draft", wall),
            target=self._use("target", wall),
        )

    def _written(self, author: Author) -> int:
        """Tokens that the servers of a model wrote, whatever became of them."""
        return sum(server.usage.written_tokens for server in self.servers.get(author, []))

    def _use(self, author: Author, wall: float) -> ModelUse | None:
        if author not in self.servers:
            return None
        usages = [server.usage for server in self.servers[author]]
        room = self.servers[author][0].options.cache_tokens
        requests = sum(usage.requests for usage in usages)
        cached = sum(usage.cached_tokens for usage in usages)
        inputs = cached + sum(usage.computed_tokens for usage in usages)
        busy = float(np.mean([usage.busy_seconds for usage in usages]))
        return ModelUse(
            gpus=self.hardware.of(author).gpus,
            busy=busy / wall if wall else 0.0,
            cache_tokens=room,
            peak_cache=max(usage.peak_cache_tokens for usage in usages) / room,
            cached=cached / inputs if inputs else 0.0,
            queued_seconds=sum(usage.queued_seconds for usage in usages) / max(requests, 1),
            peak_running=max(usage.peak_running for usage in usages),
            put_back=sum(usage.put_back for usage in usages),
        )


class _Tally:
    """Sums over finished chains, which are many."""

    def __init__(self) -> None:
        self.chains = self.failed = self.scored = self.take_overs = self.decisions = 0
        self.tokens: Counter[Author] = Counter()
        self.waited = self.seconds = 0.0
        self.first_error: str | None = None

    def add(self, chain: Chain) -> None:
        self.chains += 1
        self.seconds += chain.done - chain.started
        if chain.end == "failed":
            self.failed += 1
            self.first_error = self.first_error or chain.error
        for turn in chain.turns:
            self.waited += turn.waited_seconds
            for segment in turn.segments:
                self.tokens[segment.author] += segment.tokens
            if turn.decision:
                self.scored += turn.decision.scored_tokens
                self.decisions += 1
                self.take_overs += turn.decision.take_over


def check(outcome: Outcome) -> None:
    """Refuse an outcome whose chains failed: its times would mean nothing.

    Raises:
        AttsError: chains failed.
    """
    if outcome.failed:
        raise AttsError(
            f"{outcome.failed} of {outcome.chains} simulated chains failed; the first: "
            f"{outcome.first_error}"
        )
