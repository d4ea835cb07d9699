"""What is measured on servers that are up: runs that follow recorded chains, and costs."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from typing import Any, NamedTuple

from following import EndlessSGLang, FollowingEngine, Hits, prompt_ids
from models import VOCABULARY
from servers import Placement, Server

from atts.config import FORMER_DEFAULTS, Config, ModelOptions, parse_config
from atts.engines.base import ChainMark, Engine, GenerateRequest, Sampling, ScoreRequest
from atts.engines.http import HttpClient
from atts.engines.replicas import Replicas
from atts.methods.chain import Model, Models
from atts.runs.pool import Clock, make_chains
from atts.runs.setup import limited, set_up
from atts.simulation.deployment import SimulatedMethod
from atts.simulation.engine import Script, ScriptTokenizer
from atts.simulation.simulate import calibration_for
from atts.simulation.workload import FollowedChain, FollowedProblem, FollowedTurn, Workload
from atts.types import Author, Chain, Problem

SAMPLES = 16
POLL_SECONDS = 0.5
Servers = Mapping[Author, Sequence[EndlessSGLang]]


def configuration(draft: str = "draft", target: str = "target") -> Config:
    """Of a run as the reference made the traces; both models are on servers."""
    tree = {
        "draft": {"engine": "sglang", "model": draft},
        "target": {"engine": "sglang", "model": target},
        "samples": SAMPLES,
    }
    return parse_config(tree, "the benchmark", FORMER_DEFAULTS)


def part_of(workload: Workload, count: int, longest: int, scale: float) -> Workload:
    """So many problems of all lengths: every so many-th, in the order of the tokens of their
    chains; but none with a chain of more than ``longest`` tokens, for which all would wait alike.
    Segments have ``scale`` times the recorded lengths. Where there are too few problems, they come
    again under other names.
    """
    fitting = [p for p in workload.problems if max(chain.tokens for chain in p.chains) <= longest]
    ordered = sorted(fitting, key=lambda p: sum(chain.tokens for chain in p.chains))
    picked = min(count, len(ordered))
    step = len(ordered) / picked
    problems = [ordered[int((number + 0.5) * step)] for number in range(picked)]
    scaled = [_scaled(problem, scale) for problem in problems]
    return Workload(f"{workload.name}, {count} problems", scaled, models_cuts=True)


def _scaled(problem: FollowedProblem, scale: float) -> FollowedProblem:
    def turn(each: FollowedTurn) -> FollowedTurn:
        draft, target, found = each.draft_tokens, each.target_tokens, each.surprises
        if draft:
            draft = max(1, round(draft * scale))
        if target is not None:
            target = max(1, round(target * scale))
        # A token stands for several, of which the most surprising counts; or is one of several.
        ends = [(place + 1) * len(found) // draft for place in range(draft if found else 0)]
        found = tuple(max(found[min(b, e - 1) : e]) for b, e in pairwise([0, *ends]) if e)
        return each._replace(draft_tokens=draft, target_tokens=target, surprises=found)

    chains = (FollowedChain(tuple(map(turn, c.turns)), c.answer) for c in problem.chains)
    return problem._replace(chains=tuple(chains))


@asynccontextmanager
async def connected(ports: Mapping[Server, int]) -> AsyncIterator[Servers]:
    """The servers of both models, with nothing in their caches."""
    servers: dict[Author, list[EndlessSGLang]] = defaultdict(list)
    for server, port in ports.items():
        options = ModelOptions(model=server.model, engine="sglang")
        client = HttpClient(f"http://127.0.0.1:{port}", server.model)
        servers[server.author].append(EndlessSGLang(client, options, VOCABULARY, frozenset()))
    try:
        for each in all_of(servers):
            await each.client.get_text("/flush_cache")
        yield servers
    finally:
        await asyncio.gather(*(each.aclose() for each in all_of(servers)))


def all_of(servers: Servers) -> list[EndlessSGLang]:
    return [each for some in servers.values() for each in some]


async def load_of(server: EndlessSGLang) -> dict[str, Any]:
    found: dict[str, Any] = (await server.client.get("/v1/loads"))["loads"][0]
    return found


async def warm(ports: Mapping[Server, int], most: int) -> None:
    """Meet the shapes of the rows once, so that no kernel is compiled while they are timed."""

    async def one(server: EndlessSGLang) -> None:
        for rows in (1, 8, 64, min(most, 256)):
            prompts = [prompt_ids(10_000 + row, 300) for row in range(rows)]
            await asyncio.gather(*(server.generate(to_write(ids, 8)) for ids in prompts))
            await asyncio.gather(*(server.score(ScoreRequest(ids, 100)) for ids in prompts))

    async with connected(ports) as servers:
        await asyncio.gather(*map(one, all_of(servers)))


def to_write(ids: list[int], tokens: int, chain: ChainMark | None = None) -> GenerateRequest:
    sampling = Sampling(max_tokens=tokens, temperature=0.8, top_p=1.0, seed=0)
    return GenerateRequest(ids, sampling, chain)


class Followed(NamedTuple):
    """A run that follows recorded chains."""

    method: str
    """As of ``atts simulate``."""
    in_flight: int
    waves: int
    longest: int
    scale: float

    @property
    def problems(self) -> int:
        """So that there are so many waves of chains."""
        return -(-self.waves * self.in_flight // SAMPLES)

    async def measure(
        self, _: Placement, ports: Mapping[Server, int], workload: Workload, seconds: float
    ) -> dict[str, Any]:
        """Run it, for ``seconds`` at most."""
        part = part_of(workload, self.problems, self.longest, self.scale)
        async with connected(ports) as servers:
            run = _Run(self, part, servers)
            peaks: dict[Author, int] = defaultdict(int)
            watching = asyncio.create_task(_watch(servers, peaks))
            stopped = True
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await run.make()
                    stopped = False
            watching.cancel()
            facts = {"version": (await all_of(servers)[0].connect()).version}
            for author, some in servers.items():
                room = (await load_of(some[0]))["max_total_num_tokens"]
                facts[f"{author}_cache_tokens"] = room
                facts[f"{author}_peak_cache"] = peaks[author] / room
        return ({"stopped": True} if stopped else {}) | run.summed_up() | facts


class _Run:
    """A run like any other, but for what its chains say; as in ``atts.simulation.simulate``."""

    def __init__(self, row: Followed, workload: Workload, servers: Servers) -> None:
        contender = SimulatedMethod.parse(row.method)
        config = contender.config(configuration(), row.in_flight)
        problems = [workload.problem(number) for number in range(row.problems)]
        calibration = calibration_for(config, workload, row.problems)
        self.contender = contender
        self.workload = workload
        self.setup = set_up(config, problems, calibration)
        self.numbers = {problem.id: n for n, problem in enumerate(problems)}
        self.scripts: dict[int, Script] = {}
        self.hits = {author: (Hits(), Hits()) for author in servers}
        self.engines: dict[Author, Engine] = {}
        written: dict[tuple[int, int], list[int]] = {}
        for author in self.setup.method.authors:
            copies = [
                FollowingEngine(author, server, self.scripts, written, *self.hits[author])
                for server in servers[author]
            ]
            engine = copies[0] if len(copies) == 1 else Replicas(copies)
            self.engines[author] = limited(engine, author, config.limits)
        self.clock = Clock()
        self.wall = 0.0
        self.done: list[Chain] = []

    async def make(self) -> None:
        parts = [self.setup]
        if self.contender.by_problem:
            parts = [self.setup.of_problems([problem]) for problem in self.setup.problems]
        try:
            for part in parts:
                engines = list(self.engines.values())
                groups = part.groups(self._models)
                done = self.done.append
                await make_chains(groups, part.method, part.config, engines, self.clock, done)
        finally:
            self.wall = self.clock()

    def _models(self, problem: Problem, sample: int) -> Models:
        script = self.workload.script(self.numbers[problem.id], sample, self.setup.config, 1.0)
        self.scripts[script.number] = script
        tokenizer = ScriptTokenizer(script)
        return {author: Model(engine, tokenizer) for author, engine in self.engines.items()}

    def summed_up(self) -> dict[str, Any]:
        chains, wall = self.done, self.wall
        decisions = [decision for chain in chains for _, decision in chain.decisions]
        segments = [segment for chain in chains for segment in chain.segments]
        kept = sum(segment.kept_tokens for segment in segments)
        count = max(len(chains), 1)
        return {
            "wall_seconds": wall,
            "chains": len(chains),
            "failed": sum(chain.end == "failed" for chain in chains),
            "first_error": next((chain.error for chain in chains if chain.error), None),
            "kept_tokens": kept,
            "kept_per_second": kept / wall,
            "draft_tokens": sum(chain.written("draft") for chain in chains),
            "target_tokens": sum(chain.written("target") for chain in chains),
            "scored_tokens": sum(decision.scored_tokens for decision in decisions),
            "take_over_rate": sum(d.take_over for d in decisions) / max(len(decisions), 1),
            "waited_seconds": sum(chain.waited_seconds for chain in chains) / count,
            "chain_seconds": sum(chain.seconds for chain in chains) / count,
            "hits": {
                f"{author}, {purpose}": hits.share
                for author, both in self.hits.items()
                for purpose, hits in zip(("writing", "scoring"), both, strict=True)
                if hits.share is not None
            },
        }


async def _watch(servers: Servers, peaks: dict[Author, int]) -> None:
    """Note the most tokens that running requests hold in one server, until cancelled."""
    while True:
        for author, some in servers.items():
            used = [(await load_of(server))["num_used_tokens"] for server in some]
            peaks[author] = max(peaks[author], *used)
        await asyncio.sleep(POLL_SECONDS)
