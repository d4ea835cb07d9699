"""The two jobs: calibrate, and run a method over a problem set. Both resume."""

import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from atts.analysis.graded_run import grade_run
from atts.analysis.summary import Summary, drift_alarm, summarise
from atts.config import Config
from atts.conformal.calibration import Calibration
from atts.conformal.calibration_pass import rounds
from atts.conformal.control import Control
from atts.conformal.factory import calibrating_control, make_control
from atts.conformal.risk import Certificate
from atts.engines.limits import LimitedEngine
from atts.engines.loading import load_engine
from atts.errors import CalibrationError, ConfigError
from atts.files import atomic_write
from atts.grading.grader import Grader, VerdictCache
from atts.methods import METHODS, Method, authors_of
from atts.methods.chain import Model, Models, OpenChain
from atts.methods.decider import Siblings
from atts.models.prompts import Tokenizer
from atts.problems import calibration_problems, load_problems
from atts.runs.activity import Activity
from atts.runs.admission import adapting_room
from atts.runs.pool import Clock, collected_seldom, run_chains
from atts.runs.stopping import Stopping
from atts.store.environment import record_environment
from atts.store.grades import read_grades
from atts.store.run_directory import CALIBRATION, RecordedRun, RunStore, check_run
from atts.types import Author, Chain, ChainKey, Problem


class Observer(Protocol):
    """Watches a job, e.g. to show its progress."""

    activity: Activity
    """What the chains are doing: the job counts, the observer looks when it likes."""

    def started(self, total: int, done: int) -> None:
        """The job has ``total`` chains, of which ``done`` were there before."""
        ...

    def chain_done(self, chain: Chain) -> None:
        """A chain has ended and is written down."""
        ...

    def warned(self, message: str) -> None:
        """Something should be known while the job goes on."""
        ...

    def grading(self, done: int, total: int) -> None:
        """So many answers that need algebra are compared; the chains are all there."""
        ...


class Job(NamedTuple):
    """Chains to be made, all of whose inputs are known to be good."""

    config: Config
    problems: Sequence[Problem]
    calibration: Calibration | None
    control: Control | None
    stream: str
    certificate: Certificate | None = None


def prepare_run(config: Config) -> Job:
    """Check everything that a run needs, before any model is loaded.

    Raises:
        ProblemError: the problems cannot be read.
        CalibrationError: the calibration is missing, corrupt, or was made for something else.
        ConfigError: the control's options exclude each other, a problem's chains must be under
            way together and may not, or chains may be ended that the method needs.
    """
    if METHODS[config.method].together and config.limits.chains < config.samples:
        raise ConfigError(
            f"limits.chains={config.limits.chains} is below samples={config.samples}, but with "
            f"method={config.method} all chains of a problem wait for each other, so they must be "
            "in flight together: raise limits.chains, or lower samples"
        )
    if config.stop.when != "never" and METHODS[config.method].needs_all_chains:
        raise ConfigError(
            f"stop.when={config.stop.when} ends chains by votes, but method={config.method} "
            "selects by rating and needs them all: leave one of the two out"
        )
    problems = load_problems(config.problems)
    if not METHODS[config.method].needs_calibration:
        return Job(config, problems, None, None, "run")
    problem_ids = [problem.id for problem in problems]
    calibration = certificate = None
    if path := config.take_over.calibration:
        calibration = Calibration.from_json(_read_text(path, "calibration"), str(path))
        calibration.check(config, problem_ids)
    if path := config.take_over.certificate:
        certificate = Certificate.from_json(_read_text(path, "certificate"), str(path))
        certificate.check(config, calibration, problem_ids)
    control = make_control(config.take_over, calibration)
    return Job(config, problems, calibration, control, "run", certificate)


def _read_text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"cannot read the {what} {path}: {error}") from error


def prepare_calibration(config: Config) -> Job:
    """Check everything that a calibration needs, before any model is loaded.

    Marginal calibration takes the configuration's calibration problems; conditional takes the
    run's own problems, but other chains, and never their answers.

    Raises:
        ProblemError: the problems cannot be read.
    """
    conditional = config.take_over.coverage == "conditional"
    options = config.problems if conditional else calibration_problems(config)
    config = config.model_copy(
        update={"method": "atts", "problems": options, "samples": config.calibration.samples}
    )
    control = calibrating_control(config.take_over, None)
    return Job(config, load_problems(options), None, control, "calibration")


def check_directory(job: Job, directory: Path) -> None:
    """Check that a directory can take a job, before any model is loaded.

    Raises:
        ConfigError: it holds another run; the differing keys are named.
        StoreError: it is no run directory, another process works in it, or it cannot be read.
    """
    is_run = job.stream == "run"
    check_run(directory, job.config, job.problems, job.calibration, may_grow=is_run)


async def run(
    config: Config,
    models: Models,
    directory: Path,
    observer: Observer | None = None,
    retry_failed: bool = False,
) -> Summary:
    """Make the chains that ``directory`` still lacks, and sum the run up.

    Raises:
        ProblemError, CalibrationError: see ``prepare_run``.
        ConfigError: the directory holds another run; the differing keys are named.
        StoreError: the directory cannot be read or written.
    """
    job = prepare_run(config)
    with RunStore.open(directory, job.config, job.problems, job.calibration) as store:
        record_environment(directory, job.config)
        if job.certificate:
            store.write_certificate(job.certificate)
        await _make_chains(job, models, store, observer, retry_failed)
        chains = tuple(store.chains.values())
        recorded = RecordedRun(
            job.config,
            tuple(job.problems),
            chains,
            job.calibration,
            job.certificate,
            read_grades(directory, chains),
        )
        progress = observer.grading if observer else None
        with Grader(cache=VerdictCache(), progress=progress) as grader:
            summary = summarise(grade_run(recorded, grader))
        store.write_summary(summary)
    return summary


async def calibrate(
    config: Config, models: Models, directory: Path, observer: Observer | None = None
) -> Calibration:
    """Make the calibration chains that ``directory`` still lacks, and ``calibration.json``.

    The chains are made in two rounds, of which the first decides for the second; see
    ``atts.conformal.calibration_pass``.

    Raises:
        ProblemError: see ``prepare_calibration``.
        ConfigError: the directory holds another run; the differing keys are named.
        StoreError: the directory cannot be read or written.
        CalibrationError: the chains gave no scores.
    """
    job = prepare_calibration(config)
    # More chains would make the first round another one, by which the second has decided.
    with RunStore.open(directory, job.config, job.problems, None, may_grow=False) as store:
        if observer:
            already = sum(chain.end != "failed" for chain in store.chains.values())
            observer.started(len(job.problems) * job.config.samples, already)
        earlier: set[ChainKey] = set()
        for keys in rounds([problem.id for problem in job.problems], job.config.samples):
            made = [store.chains[key] for key in earlier]
            scored = [c for c in made if c.end != "failed" and any(c.decisions)]
            before = Calibration.from_chains(scored, job.config) if scored else None
            control = calibrating_control(job.config.take_over, before)
            await _make_chains(
                job._replace(control=control), models, store, observer, True, set(keys)
            )
            earlier.update(keys)
        calibration = Calibration.from_chains(store.chains.values(), job.config)
        atomic_write(directory / CALIBRATION, calibration.to_json())
    return calibration


async def _make_chains(
    job: Job,
    models: Models,
    store: RunStore,
    observer: Observer | None,
    retry_failed: bool,
    only: Collection[ChainKey] | None = None,
) -> None:
    """Make the chains that are missing: all of the job's, or, for a part of it, ``only`` these."""
    method, engines = METHODS[job.config.method], [model.engine for model in models.values()]
    if observer:
        activity = observer.activity
        activity.nominal = job.config.take_over.rate if method.aims_at_rate else None
        models, method = activity.watched_models(models), activity.watched_method(method)
    done = {
        key: chain
        for key, chain in store.chains.items()
        if not (retry_failed and chain.end == "failed")
    }
    if job.control:  # a chain that is done again counts once
        job.control.restore_all(done.values())
    alarm = None
    if job.control and job.stream == "run":  # a calibration has nothing to drift away from
        alarm = drift_alarm(job.config, job.problems, job.calibration)
        for chain in done.values():
            alarm.chain_done(chain)

    def finished(chain: Chain) -> None:
        store.append(chain)
        if observer:
            observer.chain_done(chain)
        if alarm and not alarm.drift.alarm:
            alarm.chain_done(chain)
            message = alarm.drift.message(job.calibration is not None)
            if observer and message:
                observer.warned(message)

    if observer and only is None:
        observer.started(len(job.problems) * job.config.samples, len(done))
    clock = Clock(max((chain.done for chain in store.chains.values()), default=0.0))
    stop = job.config.stop
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(collected_seldom())
        stopping = None
        if stop.when != "never" and job.stream == "run":  # a calibration needs every score
            stopping = stack.enter_context(Stopping(stop, job.config.samples))
            await stopping.chains_done(done.values())
        warn = observer.warned if observer else None
        room = await stack.enter_async_context(adapting_room(job.config, engines, warn))
        await run_chains(
            _missing(job, method, models, done, only), method, room, clock, finished, stopping
        )


def _missing(
    job: Job,
    method: Method,
    models: Models,
    done: Mapping[ChainKey, Chain],
    only: Collection[ChainKey] | None,
) -> Iterator[Sequence[Callable[[], OpenChain]]]:
    """The chains that are to be made, in groups that start together; see ``run_chains``."""
    for problem in job.problems:
        keys = [ChainKey(problem.id, sample) for sample in range(job.config.samples)]
        samples = [key.sample for key in keys if key not in done and (only is None or key in only)]
        decider = None
        if method.decider:
            others = [done[key] for key in keys if key in done]
            siblings = Siblings(problem.id, job.config, job.control, samples, others)
            decider = method.decider(siblings)
        chains = [
            partial(OpenChain, problem, sample, models, job.config, decider, job.stream)
            for sample in samples
        ]
        if method.together:
            yield chains
        else:
            yield from ([chain] for chain in chains)


@asynccontextmanager
async def open_models(
    config: Config, authors: Collection[Author] | None = None
) -> AsyncIterator[Models]:
    """Load the models that the method needs, or those of ``authors``; close them at the end.

    Raises:
        ConfigError: a model or its tokenizer cannot be loaded.
        EngineError: a model's server does not answer.
    """
    limits = config.limits
    in_flight = {"draft": limits.draft_requests, "target": limits.target_requests}
    options = {"draft": config.draft, "target": config.target}
    authors = authors or authors_of(config)
    in_process = sum(options[author].engine == "inprocess" for author in authors)
    models: Models = {}
    try:
        for author in authors:
            engine = LimitedEngine(
                await load_engine(options[author], neighbours=in_process - 1),
                in_flight[author],
                limits.attempts,
                limits.backoff_seconds,
            )
            models[author] = Model(engine, Tokenizer.load(options[author]))
        yield models
    finally:
        for model in models.values():
            await model.engine.aclose()
