"""The two jobs: calibrate, and run a method over a problem set. Both resume."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from atts.analysis.graded_run import GradedRun, grade_run
from atts.analysis.summary import Summary, drift_alarm, summarise
from atts.config import Config
from atts.conformal.calibration import Calibration
from atts.conformal.factory import calibrating_control
from atts.conformal.split import rounds
from atts.engines.base import speculation_of
from atts.engines.servers.placed import DEFAULT
from atts.files import atomic_write
from atts.grading.grader import Grader, Progress, VerdictCache
from atts.methods import authors_of
from atts.methods.chain import Models
from atts.runs.emptying import empty_caches
from atts.runs.events import telling
from atts.runs.making import Here, Job, Maker
from atts.runs.observer import Observe, Observer
from atts.runs.pool import Clock
from atts.runs.setup import Setup, prepare_calibration, prepare_run
from atts.runs.stopping import Stopping
from atts.store.contents import CALIBRATION
from atts.store.environment import (
    read_speculation,
    record_emptied,
    record_environment,
    record_speculation,
)
from atts.store.grades import read_grades
from atts.store.run_directory import RecordedRun, RunStore
from atts.types import Author, Chain, ChainKey, Speculation


class MadeRun(NamedTuple):
    """A run whose chains are all there."""

    graded: GradedRun
    summary: Summary


async def run(
    config: Config | Setup,
    models: Models | Maker,
    directory: Path | str,
    observer: Observer | None = None,
    retry_failed: bool = False,
) -> Summary:
    """Make the chains that ``directory`` still lacks, and sum the run up.

    Args:
        config: of the run; or what ``prepare_run`` made of it, for this one call.
        models: those that its method needs; or what makes its chains elsewhere.
        directory: of the run.
        observer: is told what happens.
        retry_failed: whether chains that failed are made again, and not only those that are
            lost (``Chain.is_lost``).

    Raises:
        ProblemError, CalibrationError: see ``prepare_run``.
        ConfigError: the directory holds another run; the differing keys are named.
        StoreError: the directory cannot be read or written.
        EngineGoneError: a model's server was waited for in vain.
    """
    setup = config if isinstance(config, Setup) else prepare_run(config)
    with Grader(cache=VerdictCache()) as grader:
        made = await make_run(setup, models, Path(directory), grader, observer, retry_failed)
    return made.summary


async def make_run(
    setup: Setup,
    models: Models | Maker,
    directory: Path,
    grader: Grader,
    observer: Observer | None = None,
    retry_failed: bool = True,
    folders: Collection[Path] = (),
) -> MadeRun:
    """The same, with the run itself and its grades; for programs that make several runs.

    ``grader`` compares the answers of all of them. Servers that were started in one of ``folders``
    forget first what they cached, so that the times of the runs can be compared.
    """
    parts = (setup.config, setup.problems, setup.calibration)
    async with AsyncExitStack() as stack:
        store = stack.enter_context(RunStore.open(directory, *parts, shard=setup.shard))
        told = await stack.enter_async_context(telling(directory, setup.config, observer))
        record_environment(directory, setup.config)
        if setup.certificate:
            store.write_certificate(setup.certificate)
        record_emptied(directory, await _emptied(setup.config, models, folders))
        before = await _speculation(models)
        await _make_missing(setup, models, store, grader, told, retry_failed)
        record_speculation(directory, await _speculation(models, before))
        chains = tuple(store.chains.values())
        recorded = RecordedRun(
            setup.config,
            tuple(setup.problems),
            chains,
            setup.calibration,
            setup.certificate,
            read_grades(directory, chains),
            read_speculation(directory),
        )
        with _telling(grader, told.grading):
            graded = grade_run(recorded, grader)
        summary = summarise(graded)
        store.write_summary(summary)
        told.summary = summary
    return MadeRun(graded, summary)


async def _emptied(
    config: Config, models: Models | Maker, folders: Collection[Path]
) -> dict[Author, bool]:
    """See ``empty_caches``."""
    if isinstance(models, dict):
        return await empty_caches(config, models, models, folders)
    return await empty_caches(config, None, authors_of(config), folders)


async def _speculation(
    models: Models | Maker, before: Mapping[Author, Speculation] = MappingProxyType({})
) -> dict[Author, Speculation]:
    """How the engines' speculative decoding went since ``before``, where there is any; engines
    elsewhere are not asked.
    """
    found: dict[Author, Speculation] = {}
    for author, model in models.items() if isinstance(models, dict) else ():
        if told := await speculation_of(model.engine):
            found[author] = told.since(before.get(author, Speculation()))
    return found


async def complete(
    setup: Setup,
    models: Models | Maker,
    directory: Path,
    grader: Grader,
    observe: Observe,
    name: str,
    folders: Collection[Path] = (DEFAULT,),
) -> MadeRun:
    """Make the calibration that a run lacks, and then the run's chains.

    What is there already is not made again, except for chains that failed. The caches of servers
    that were started here are emptied before each of the two.

    Args:
        setup: of the run, for this one call.
        models: those that its method needs; or what makes its chains elsewhere.
        directory: of the run.
        grader: see ``make_run``.
        observe: gives an observer for a named job.
        name: of the run, to be shown.
        folders: where servers may have been started.

    Raises:
        ProblemError, CalibrationError, ConfigError, StoreError: see ``run`` and ``calibrate``.
    """
    if setup.lacking:
        calibrating, folder = setup.lacking
        # One that is complete does nothing here but give the scores again.
        told = observe(f"{name}: calibration")
        calibration = await calibrate(calibrating, models, folder, told, folders)
        setup = setup.calibrated(calibration, folder / CALIBRATION)
    return await make_run(setup, models, directory, grader, observe(name), folders=folders)


async def calibrate(
    config: Config | Setup,
    models: Models | Maker,
    directory: Path | str,
    observer: Observer | None = None,
    folders: Collection[Path] = (DEFAULT,),
) -> Calibration:
    """Make the calibration chains that ``directory`` still lacks, and ``calibration.json``.

    The chains are made in two rounds, of which the first decides for the second; see
    ``atts.conformal.split``. Servers that were started here forget first what they cached.

    Args:
        config: of the run; or what ``prepare_calibration`` made of it, for this one call.
        models: the draft and the target; or what makes the chains elsewhere.
        directory: where to.
        observer: is told what happens.
        folders: where servers may have been started.

    Raises:
        ProblemError: see ``prepare_calibration``.
        ConfigError: the directory holds another run; the differing keys are named.
        StoreError: the directory cannot be read or written.
        CalibrationError: the chains gave no scores.
        EngineGoneError: a model's server was waited for in vain.
    """
    setup = config if isinstance(config, Setup) else prepare_calibration(config)
    config, directory = setup.config, Path(directory)
    # More chains would make the first round another one, by which the second has decided.
    with RunStore.open(directory, config, setup.problems, None, may_grow=False) as store:
        already = sum(chain.end != "failed" for chain in store.chains.values())
        if observer:
            observer.started(len(setup.keys), already)
        if already < len(setup.keys):
            record_environment(directory, config)
            record_emptied(directory, await _emptied(config, models, folders))
        earlier: set[ChainKey] = set()
        for keys in rounds([problem.id for problem in setup.problems], config.samples):
            made = [store.chains[key] for key in earlier]
            scored = [c for c in made if c.end != "failed" and any(c.decisions)]
            before = Calibration.from_chains(scored, config) if scored else None
            deciding = setup.deciding_by(calibrating_control(config.take_over, before))
            await _make_missing(deciding, models, store, None, observer, True, set(keys))
            earlier.update(keys)
        calibration = Calibration.from_chains(store.chains.values(), config)
        atomic_write(directory / CALIBRATION, calibration.to_json())
    return calibration


async def _make_missing(
    setup: Setup,
    models: Models | Maker,
    store: RunStore,
    grader: Grader | None,
    observer: Observer | None,
    retry_failed: bool,
    only: Collection[ChainKey] | None = None,
) -> None:
    """Make the chains that are missing: all of the setup's, or, for a part of it, ``only`` these.

    ``grader`` counts the votes of a run that ends chains by them; a calibration needs every score.
    """
    config, control = setup.config, setup.control
    if observer:
        observer.activity.nominal = config.take_over.rate if setup.method.aims_at_rate else None
    done = {
        key: chain
        for key, chain in store.chains.items()
        if not (chain.is_lost or (retry_failed and chain.end == "failed"))
    }
    if control:  # a chain that is done again counts once
        control.restore_all(done.values())
    alarm = None
    if control and setup.stream == "run":  # a calibration has nothing to drift away from
        alarm = drift_alarm(config, setup.problems, setup.calibration)
        if alarm:
            for chain in done.values():
                alarm.chain_done(chain)

    def finished(chain: Chain) -> None:
        store.append(chain)
        if observer:
            observer.chain_done(chain)
        if alarm and not alarm.drift.alarm:
            alarm.chain_done(chain)
            holds = config.take_over.control != "split"
            message = alarm.drift.message(setup.calibration is not None, holds)
            if observer and message:
                observer.warned(message)

    if observer and only is None:
        observer.started(len(setup.keys), len(done))
    with ExitStack() as stack:
        stopping = None
        if grader and config.stop.when != "never":
            votes = Stopping(config.stop, config.samples, grader, setup.problems)
            stopping = stack.enter_context(votes)
            await stopping.chains_done(done.values())
        maker = Here(models) if isinstance(models, dict) else models
        await maker.make(
            Job(
                setup,
                done,
                only,
                Clock(max((chain.done for chain in store.chains.values()), default=0.0)),
                finished,
                stopping,
                observer.activity if observer else None,
                observer.warned if observer else None,
            )
        )


@contextmanager
def _telling(grader: Grader, progress: Progress | None) -> Iterator[None]:
    """Inside, the grader tells somebody else how far it is."""
    before, grader.progress = grader.progress, progress
    try:
        yield
    finally:
        grader.progress = before
