"""What ``atts advise`` does, as a function."""

from collections.abc import Sequence
from pathlib import Path

from atts.advice.advice import Advice
from atts.advice.advising import (
    advise_on_runs,
    check_bound,
    measure,
    prepare_advice,
    read_advice,
    recommended,
)
from atts.advice.pilot import usual_ways
from atts.advice.probe import LEVELS
from atts.analysis.comparison import NamedRun
from atts.analysis.labels import run_names
from atts.api.solve import Configuration, configuration
from atts.errors import ConfigError
from atts.files import atomic_write
from atts.grading.grader import Grader, VerdictCache
from atts.runs.observer import SilentObserver
from atts.store.run_directory import config_yaml, read_run

LOSS = 0.02
"""Accuracy of a chain that may be lost."""
PROBLEMS, SAMPLES = 16, 4
"""Of the pilot."""
SECONDS = 90.0
"""Most for the probe."""

Where = str | Path


async def advise(
    config: Configuration | None = None,
    runs: Sequence[Where] = (),
    *,
    settings: Sequence[str] = (),
    ways: Sequence[str] = (),
    directory: Where | None = None,
    problems: int = PROBLEMS,
    samples: int = SAMPLES,
    in_flight: Sequence[int] = LEVELS,
    loss: float = LOSS,
    seconds: float = SECONDS,
    costs: tuple[float, float] | None = None,
    prices: Where | None = None,
    write: Where | None = None,
) -> Advice:
    """Measure a pair and its engines for some minutes, and say whether and how ATTS pays.

    Args:
        config: of the run that is planned.
        runs: run directories, which are taken as they stand, in place of a pilot and a probe.
        settings: as of ``--set``.
        ways: to try, as ``compare`` takes them; none: several rates, modes and lengths.
        directory: where the pilot and the advice are kept; None: ``runs/advise-DIGEST``.
        problems, samples: of the pilot, which takes calibration problems.
        in_flight: numbers of chains in flight to measure and to predict.
        loss: accuracy of a chain that may be lost.
        seconds: about the most for the probe.
        costs: with ``runs``: d and s, in place of their own times.
        prices: with ``runs``: earlier advice whose prices hold, in place of their own times.
        write: a file for the recommended configuration.

    Raises:
        ConfigError, ProblemError, StoreError: an input is wrong.
        EngineError: an engine could not serve a request.
        GradingError: the runs have nothing in common that could be compared.
    """
    made = configuration(config, settings)
    if runs:
        found = recorded_advice(runs, loss, costs, prices, in_flight)
    else:
        if costs or prices:
            raise ConfigError("costs and prices are for stored runs: name their directories")
        place = Path(directory or Path("runs") / f"advise-{made.digest()}")
        tried = list(ways) or usual_ways(made)
        plan = prepare_advice(made, tried, place, problems, samples, in_flight, loss, seconds)
        with Grader(cache=VerdictCache()) as grader:
            found = await measure(plan, grader, lambda _: SilentObserver(), lambda _: None)
    if write:
        atomic_write(Path(write), config_yaml(recommended(made, found)))
    return found


def recorded_advice(
    runs: Sequence[Where],
    loss: float,
    costs: tuple[float, float] | None,
    prices: Where | None,
    in_flight: Sequence[int],
) -> Advice:
    """Advice by stored runs alone; see ``advise``."""
    check_bound(loss)
    if costs and prices:
        raise ConfigError("give d and s, or the prices of earlier advice, not both")
    if costs and not all(0.0 <= cost < float("inf") for cost in costs):
        raise ConfigError("d and s must be 0 or more")
    before = read_advice(Path(prices)) if prices else None
    directories = [Path(run) for run in runs]
    named = [
        NamedRun(name, str(directory), read_run(directory))
        for name, directory in zip(run_names(directories), directories, strict=True)
    ]
    with Grader(cache=VerdictCache()) as grader:
        return advise_on_runs(named, grader, loss, costs, before, in_flight)
