"""Efficiencies of real servers, found from the times of a measured run.

Each request of the run is sent to a simulated server at the moment at which it was sent then, with
the prefix that was cached then. The efficiencies are those with which the requests take as long as
they took, in the sense of least squares of the logarithm. Requests of every second problem are left
out of the sum, though they are sent: on these the error is reported.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from atts.config import Config
from atts.engines.limits import Slots
from atts.errors import ConfigError
from atts.files import read_plain
from atts.methods import METHODS
from atts.simulation.deployment import Hardware, ModelHardware, SimulatedMethod, make_servers
from atts.simulation.hardware import Efficiency
from atts.simulation.server import Server, SimulatedRequest
from atts.simulation.simulate import run_virtually, simulate
from atts.simulation.workload import load_workload, prompt_lengths
from atts.store.run_directory import RecordedRun, read_run
from atts.types import Author, Chain, Record

RequestPhase = Literal["draft segment", "score", "target segment"]
Floats = NDArray[np.float64]

_FITTED = ("compute", "bandwidth", "step_seconds", "row_seconds", "request_seconds")
"""What a run can tell apart; the rest of ``Efficiency`` stays as assumed."""
_STEPS = (0.4, 0.15, 0.05)
"""By which the logarithm of a parameter is moved to see what changes, from stage to stage. Large at
first: a simulation is not smooth, because requests meet others in a step or just do not.
"""
_PRIOR = 0.003
"""Weight of what was assumed before, which decides only where the run says nothing."""
_SMALLEST = 1e-7
"""Of a time in seconds, so that it has a logarithm."""


class Measured(NamedTuple):
    """A request of a measured run."""

    author: Author
    phase: RequestPhase
    problem_id: str
    queued: float
    """When it was made, before the limit on requests held it back."""
    seconds: float
    length: int
    """Tokens that were sent."""
    cached: int
    scored_from: int | None
    write: int
    """Tokens written, an end-of-sequence included."""


class PhaseError(Record):
    """How far simulated requests of one kind are off, on problems that the fit did not see."""

    phase: RequestPhase
    requests: int
    measured_seconds: float
    """Mean over the requests."""
    simulated_seconds: float
    ratio: float
    """Median of simulated over measured seconds."""
    low: float
    """A tenth of the ratios are below."""
    high: float
    """A tenth of the ratios are above."""


class Fit(Record):
    """What ``atts simulate --fit`` finds."""

    run: str
    gpu: str
    requests: int
    efficiency: dict[Author, Efficiency]
    phases: tuple[PhaseError, ...]
    measured_wall_seconds: float
    simulated_wall_seconds: float
    """Of the whole run, simulated with the efficiencies found and decisions of its own."""


def read_fit(path: Path) -> dict[Author, Efficiency]:
    """The efficiencies that ``atts simulate --fit`` wrote.

    Raises:
        ConfigError: the file cannot be read, or is something else.
    """
    try:
        return Fit.model_validate_json(read_plain(path)).efficiency
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"{path} holds no efficiencies; atts simulate --fit RUN --out {path} makes it: {error}"
        ) from error


def fit_run(directory: Path, hardware: Hardware) -> Fit:
    """Find the efficiencies of the servers of a run.

    Raises:
        StoreError: there is no run.
        ConfigError: it has no timings, or the hardware does not fit its models.
    """
    run = read_run(directory)
    requests = measured_requests(run)
    if not requests:
        raise ConfigError(f"{directory} has no timings: it was not made here, or has no chains")
    seen = np.array([_seen(request.problem_id) for request in requests])
    if seen.all() or not seen.any():
        raise ConfigError(f"{directory} has too few problems to leave some out of the fit")
    authors = METHODS[run.config.method].authors
    # Servers with GPUs of their own say nothing of each other.
    together = [authors] if hardware.shared else [(author,) for author in authors]
    efficiency: dict[Author, Efficiency] = {}
    for some in together:
        theirs = [request for request in requests if request.author in some]
        efficiency |= _fit(some, theirs, run.config, hardware)
    fitted = with_efficiency(hardware, efficiency)
    return Fit(
        run=directory.resolve().name,
        gpu=hardware.gpu,
        requests=len(requests),
        efficiency=efficiency,
        phases=tuple(_errors(requests, replay(requests, run.config, fitted), ~seen)),
        measured_wall_seconds=max(chain.done for chain in run.chains)
        - min(chain.started for chain in run.chains),
        simulated_wall_seconds=_simulated_wall_seconds(directory, run, fitted),
    )


def _fit(
    authors: Sequence[Author], requests: Sequence[Measured], config: Config, hardware: Hardware
) -> dict[Author, Efficiency]:
    """The efficiencies of the models of ``authors``, from all of their requests."""
    measured = np.array([request.seconds for request in requests])
    seen = np.array([_seen(request.problem_id) for request in requests])

    def residuals(efficiencies: Sequence[Efficiency]) -> Floats:
        found = dict(zip(authors, efficiencies, strict=True))
        seconds = replay(requests, config, with_efficiency(hardware, found))
        return np.log(seconds / measured)[seen]  # type: ignore[no-any-return]

    start = [hardware.of(author).efficiency for author in authors]
    return dict(zip(authors, least_squares(residuals, start), strict=True))


def _simulated_wall_seconds(directory: Path, run: RecordedRun, hardware: Hardware) -> float:
    limits = run.config.limits
    settings = {
        "limits.draft_requests": str(limits.draft_requests),
        "limits.target_requests": str(limits.target_requests),
    }
    contender = SimulatedMethod(run.config.method, run.config.method, settings)
    workload = load_workload(directory)
    return simulate(
        contender, run.config, workload, hardware, limits.chains, len(run.problems)
    ).wall_seconds


def with_efficiency(hardware: Hardware, found: dict[Author, Efficiency]) -> Hardware:
    """The same hardware with other efficiencies."""
    models: dict[str, ModelHardware] = {
        author: hardware.of(author).model_copy(update={"efficiency": efficiency})
        for author, efficiency in found.items()
    }
    return hardware.model_copy(update=models)


def _seen(problem_id: str) -> bool:
    # By a hash, because the problems of a file may be sorted.
    return hashlib.blake2b(problem_id.encode()).digest()[0] % 2 == 0


def least_squares(
    residuals: Callable[[Sequence[Efficiency]], Floats], start: Sequence[Efficiency]
) -> list[Efficiency]:
    """The efficiencies with the least squares of residuals, by the logarithms of the parameters.

    Outliers, such as a first request that has code compiled, weigh less than their square
    (``soft_l1``). Where the residuals do not depend on a parameter it stays near its start.
    """
    from scipy import optimize

    names = _FITTED
    first = np.log([[max(getattr(each, name), _SMALLEST) for name in names] for each in start])

    def efficiencies(x: Floats) -> list[Efficiency]:
        rows = np.exp(x.reshape(first.shape))
        return [
            each.model_copy(update=dict(zip(names, row.tolist(), strict=True)))
            for each, row in zip(start, rows, strict=True)
        ]

    def errors(x: Floats) -> Floats:
        prior = _PRIOR * (x - first.ravel())
        return np.concatenate([residuals(efficiencies(x)), prior])

    best = first.ravel()
    for step in _STEPS:

        def slopes(x: Floats) -> Floats:
            here = errors(x)
            ahead = [errors(x + step * unit) for unit in np.eye(len(x))]  # noqa: B023
            return np.column_stack([(moved - here) / step for moved in ahead])  # noqa: B023

        found = optimize.least_squares(
            errors,
            best,
            slopes,
            bounds=(np.log(_SMALLEST) - 1.0, np.log(100.0)),
            loss="soft_l1",
            f_scale=0.3,
            xtol=1e-4,
            ftol=1e-5,
            max_nfev=25,
        )
        best = found.x
    return efficiencies(best)


def measured_requests(run: RecordedRun) -> list[Measured]:
    """The requests of a run's chains that have timings, in the order in which they were sent."""
    segments = [segment for chain in run.chains for segment in chain.segments]
    tokens = sum(segment.tokens for segment in segments)
    characters = sum(len(segment.text) for segment in segments)
    prompts = prompt_lengths(run, characters / max(tokens, 1))
    requests = [
        request
        for chain in run.chains
        for request in _requests(chain, prompts[chain.problem_id])
        if request.seconds > 0.0
    ]
    return sorted(requests, key=lambda request: request.queued)


def _requests(chain: Chain, prompt_tokens: int) -> list[Measured]:
    """All requests of a chain; those without timings take no time. What came with the segment of
    the turn before is part of that one's request.
    """
    requests: list[Measured] = []
    written = scored = -1  # the last of the draft's requests, and of the scores
    length = prompt_tokens
    for turn in chain.turns:
        for segment in turn.segments:
            write = max(segment.tokens + (segment.finish_reason == "stop"), 1)
            if segment.with_former:
                former = requests[written]
                requests[written] = former._replace(write=former.write + write)
            else:
                written = len(requests)
                requests.append(
                    Measured(
                        author=segment.author,
                        phase="draft segment" if segment.author == "draft" else "target segment",
                        problem_id=chain.problem_id,
                        queued=segment.timings.queued,
                        seconds=segment.timings.done - segment.timings.queued,
                        length=length,
                        cached=min(segment.cached_tokens, length),
                        scored_from=None,
                        write=write,
                    )
                )
            decision = turn.decision if segment.author == "draft" else None
            if decision and decision.with_former:
                requests[scored] = requests[scored]._replace(length=length + decision.scored_tokens)
            elif decision and decision.is_request:
                scored, scored_to = len(requests), length + decision.scored_tokens
                requests.append(
                    Measured(
                        author="target",
                        phase="score",
                        problem_id=chain.problem_id,
                        queued=decision.timings.queued,
                        seconds=decision.timings.done - decision.timings.queued,
                        length=scored_to,
                        cached=min(decision.cached_tokens, scored_to),
                        scored_from=length,
                        write=0,
                    )
                )
            length += segment.kept_tokens
    return requests


def replay(requests: Sequence[Measured], config: Config, hardware: Hardware) -> Floats:
    """Seconds that each request takes if all are made when they were: shape (requests,).

    As in the run they wait where ``limits`` are reached, which is part of their time.
    """
    authors = sorted({request.author for request in requests})
    servers = make_servers(config, authors, hardware)
    limits = config.limits
    capacities: dict[Author, int] = {
        "draft": limits.draft_requests,
        "target": limits.target_requests,
    }
    return run_virtually(_replay(requests, servers, capacities))


async def _replay(
    requests: Sequence[Measured],
    servers: Mapping[Author, Sequence[Server]],
    capacities: Mapping[Author, int],
) -> Floats:
    loop = asyncio.get_running_loop()
    slots = {author: Slots(count) for author, count in capacities.items()}
    zero = requests[0].queued

    async def serve(number: int, each: Measured) -> float:
        asked = loop.time()
        copies = servers[each.author]
        await slots[each.author].take(each.length)
        try:
            request = SimulatedRequest(
                chain=number,
                problem=-1 - number,
                prompt=1,
                ids=range(each.length),
                scored_from=each.scored_from,
                write=each.write,
                max_tokens=max(each.write, 1),
                last_id=-1,
                future=loop.create_future(),
                queued=loop.time(),
                known_cached=each.cached,
            )
            copies[number % len(copies)].submit(request)
            await request.future
        finally:
            slots[each.author].give_back()
        return request.done - asked

    served = []
    for number, each in enumerate(requests):
        # One by one: timers of the same moment would go off in any order.
        if each.queued - zero > loop.time():
            await asyncio.sleep(each.queued - zero - loop.time())
        served.append(asyncio.create_task(serve(number, each)))
    return np.array(await asyncio.gather(*served))


def _errors(
    requests: Sequence[Measured], simulated: Floats, chosen: NDArray[np.bool_]
) -> list[PhaseError]:
    measured = np.array([request.seconds for request in requests])
    phases = np.array([request.phase for request in requests])
    errors = []
    for phase in ("draft segment", "score", "target segment"):
        here = chosen & (phases == phase)
        if here.any():
            low, middle, high = np.quantile(simulated[here] / measured[here], [0.1, 0.5, 0.9])
            errors.append(
                PhaseError(
                    phase=phase,
                    requests=int(here.sum()),
                    measured_seconds=float(measured[here].mean()),
                    simulated_seconds=float(simulated[here].mean()),
                    ratio=float(middle),
                    low=float(low),
                    high=float(high),
                )
            )
    return errors
