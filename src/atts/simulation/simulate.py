"""One method over a workload, in virtual time: a run like any other, on simulated engines."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import numpy as np

from atts import registry
from atts.config import Config, MethodName
from atts.conformal.calibration import Calibration
from atts.engines.base import Engine
from atts.engines.replicas import Replicas
from atts.errors import AttsError, ConfigError
from atts.methods import METHODS
from atts.methods.chain import Model, Models
from atts.runs.pool import Clock, make_chains
from atts.runs.setup import limited, set_up
from atts.simulation.deployment import Hardware, SimulatedMethod, make_servers
from atts.simulation.engine import Script, ScriptTokenizer, SimulatedClient, SimulatedEngine
from atts.simulation.workload import Workload
from atts.types import Author, Chain, Problem, Record

Result = TypeVar("Result")


class _Selector(selectors.DefaultSelector):
    """Looks for input as always, but lets virtual time pass instead of waiting for it."""

    now = 0.0
    error: BaseException | None = None
    """What a callback has died of, which no task awaits."""

    def select(self, timeout: float | None = None) -> Any:  # noqa: ANN401  (an internal type)
        if timeout is None:
            raise RuntimeError(
                "nothing is left that could happen: every task waits for another"
            ) from self.error
        self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits: its time starts at 0 and jumps from timer to timer.

    So hours of waiting take as long as the work in between, and nothing depends on how fast the
    machine is. ``async-solipsism`` does the same, but its licence (GPL) would bind all of atts.

    >>> async def wait() -> float:
    ...     await asyncio.sleep(3600)
    ...     return asyncio.get_running_loop().time()
    >>> run_virtually(wait())
    3600.0
    """

    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Report an error as always, and as the cause if nothing happens after it."""
        self._clock.error = context.get("exception") or self._clock.error
        super().call_exception_handler(context)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._clock.now


def run_virtually(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end in virtual time, as ``asyncio.run`` does in real time.

    Raises:
        RuntimeError: everything waits for something that nothing will bring about.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


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
    """Requests that lost their cache to others, and were computed again."""


class SimulationOutcome(Record):
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
    kept_tokens: int
    """Of both, that became part of a chain."""
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
    contender: SimulatedMethod,
    config: Config,
    workload: Workload,
    hardware: Hardware,
    chains_in_flight: int,
    problems: int,
    target_only_ratio: float = 1.0,
    finished: Callable[[Chain], None] = lambda _: None,
) -> SimulationOutcome:
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
    run = _Run(contender, config, workload, hardware, chains_in_flight, problems, target_only_ratio)
    return run_virtually(run.outcome(finished))


def calibration_for(config: Config, workload: Workload, problems: int) -> Calibration | None:
    """The calibration that a run decides by, from the recorded scores.

    Raises:
        ConfigError: the score cannot be played back.
    """
    options = config.take_over
    if not METHODS[config.method].needs_calibration:
        return None
    kind = options.score.kind
    score = registry.SCORES.found[kind]
    if kind == "unlikely-share" or score.needs_draft or score.needs_top:
        raise ConfigError(
            f"take_over.score.kind={kind} cannot be simulated: of a recorded segment only the mean "
            "is played back, or what surprised the target; take mean or largest-surprise"
        )
    return None if options.control in ("online", "coin") else workload.calibration(config, problems)


class _Run:
    """A run like any other, but for what serves its models, and the time."""

    def __init__(
        self,
        contender: SimulatedMethod,
        config: Config,
        workload: Workload,
        hardware: Hardware,
        chains_in_flight: int,
        problems: int,
        target_only_ratio: float,
    ) -> None:
        config = contender.config(config, chains_in_flight)
        if METHODS[config.method].together and config.limits.chains < config.samples:
            raise ConfigError(
                f"--chains {chains_in_flight}: with {contender.method} all {config.samples} "
                "chains of a problem wait for each other, so at least as many must be in flight"
            )
        self.contender = contender
        self.workload = workload
        self.hardware = hardware
        self.chains_in_flight = chains_in_flight
        self.target_only_ratio = target_only_ratio
        self.setup = set_up(
            config,
            [workload.problem(number) for number in range(problems)],
            calibration_for(config, workload, problems),
        )
        self.numbers = {problem.id: n for n, problem in enumerate(self.setup.problems)}
        self.scripts: dict[int, Script] = {}
        self.servers = make_servers(config, self.setup.method.authors, hardware)
        self.engines: dict[Author, Engine] = {}
        client = SimulatedClient(hardware.client_seconds)
        for author, servers in self.servers.items():
            copies: list[Engine] = [
                SimulatedEngine(author, server, self.scripts, client) for server in servers
            ]
            engine = copies[0] if len(copies) == 1 else Replicas(copies)
            self.engines[author] = limited(engine, author, config.limits)

    async def outcome(self, finished: Callable[[Chain], None]) -> SimulationOutcome:
        tally = _Tally()

        def done(chain: Chain) -> None:
            self.scripts.pop(self._script_number(chain.problem_id, chain.sample), None)
            tally.add(chain)
            finished(chain)

        clock = Clock(now=asyncio.get_running_loop().time)
        setup = self.setup
        parts = [setup]
        if self.contender.by_problem:
            parts = [setup.of_problems([problem]) for problem in setup.problems]
        for part in parts:
            await make_chains(
                part.groups(self._models),
                part.method,
                part.config,
                list(self.engines.values()),
                clock,
                done,
            )
        return self._outcome(tally, clock())

    def _models(self, problem: Problem, sample: int) -> Models:
        """The models of a chain, which follows a script of its own."""
        number, config = self.numbers[problem.id], self.setup.config
        script = self.workload.script(number, sample, config, self.target_only_ratio)
        self.scripts[script.number] = script
        tokenizer = ScriptTokenizer(script)
        return {author: Model(engine, tokenizer) for author, engine in self.engines.items()}

    def _script_number(self, problem_id: str, sample: int) -> int:
        return self.numbers[problem_id] * self.setup.config.samples + sample

    def _outcome(self, tally: "_Tally", wall: float) -> SimulationOutcome:
        chains = tally.chains
        written = tally.tokens["draft"] + tally.tokens["target"]
        return SimulationOutcome(
            name=self.contender.name,
            method=self.contender.method,
            chains_in_flight=self.chains_in_flight,
            problems=len(self.setup.problems),
            chains=chains,
            failed=tally.failed,
            first_error=tally.first_error,
            wall_seconds=wall,
            draft_tokens=tally.tokens["draft"],
            target_tokens=tally.tokens["target"],
            kept_tokens=tally.kept,
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
        capacity = self.servers[author][0].options.cache_tokens
        requests = sum(usage.requests for usage in usages)
        cached = sum(usage.cached_tokens for usage in usages)
        inputs = cached + sum(usage.computed_tokens for usage in usages)
        busy = float(np.mean([usage.busy_seconds for usage in usages]))
        return ModelUse(
            gpus=self.hardware.of(author).gpus,
            busy=busy / wall if wall else 0.0,
            cache_tokens=capacity,
            peak_cache=max(usage.peak_cache_tokens for usage in usages) / capacity,
            cached=cached / inputs if inputs else 0.0,
            queued_seconds=sum(usage.queued_seconds for usage in usages) / max(requests, 1),
            peak_running=max(usage.peak_running for usage in usages),
            put_back=sum(usage.put_back for usage in usages),
        )


class _Tally:
    """Sums over finished chains, which are many."""

    def __init__(self) -> None:
        self.chains = self.failed = self.take_overs = self.decisions = 0
        self.scored = self.kept = 0
        self.tokens: dict[Author, int] = {"draft": 0, "target": 0}
        self.waited = self.seconds = 0.0
        self.first_error: str | None = None

    def add(self, chain: Chain) -> None:
        self.chains += 1
        self.seconds += chain.seconds
        self.waited += chain.waited_seconds
        if chain.end == "failed":
            self.failed += 1
            self.first_error = self.first_error or chain.error
        for author in self.tokens:
            self.tokens[author] += chain.written(author)
            self.kept += chain.kept(author)
        self.scored += chain.scored_tokens
        for _, decision in chain.decisions:
            self.decisions += 1
            self.take_overs += decision.take_over


def check(outcome: SimulationOutcome) -> None:
    """Refuse an outcome whose chains failed: its times would mean nothing.

    Raises:
        AttsError: chains failed.
    """
    if outcome.failed:
        raise AttsError(
            f"{outcome.failed} of {outcome.chains} simulated chains failed; the first: "
            f"{outcome.first_error}"
        )
