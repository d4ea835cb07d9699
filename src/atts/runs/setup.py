"""What is prepared once for a run: its checked inputs, its models, its groups of chains."""

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from atts.config import IN_THIS_PROCESS, Config, LimitsOptions
from atts.conformal.calibration import Calibration
from atts.conformal.control import Control
from atts.conformal.factory import calibrating_control, make_control
from atts.conformal.risk import Certificate
from atts.engines.base import Engine
from atts.engines.limits import LimitedEngine
from atts.engines.loading import load_engine
from atts.errors import CalibrationError, ConfigError
from atts.files import read_plain
from atts.methods import METHODS, Method, authors_of
from atts.methods.chain import Model, Models, OpenChain
from atts.methods.decider import Decider, Siblings
from atts.models.prompts import Tokenizer
from atts.problems import calibration_problems, load_problems
from atts.store.contents import SUMMARY
from atts.store.run_directory import RecordedRun, check_run, read_run
from atts.store.shards import Shard, Share
from atts.types import Author, Chain, ChainKey, Problem

ModelsOf = Callable[[Problem, int], Models]
"""The models of a problem's sample: those of the run, unless every chain has its own."""


class PlannedChain(NamedTuple):
    """A chain that is to be made."""

    key: ChainKey
    open: Callable[[], OpenChain]


class MissingCalibration(NamedTuple):
    """A calibration that is to be made for a run."""

    setup: "Setup"
    directory: Path
    """Where it is kept; what is there of it is not made again."""


@dataclass(frozen=True)
class Setup:
    """A run, or a calibration, all of whose inputs are known to be good.

    For one run: its control remembers what it has decided.
    """

    config: Config
    problems: Sequence[Problem]
    stream: str = "run"
    """See ``OpenChain``."""
    calibration: Calibration | None = None
    certificate: Certificate | None = None
    control: Control | None = None
    deciding: Callable[[str], Decider] | None = None
    """Gives what decides for a problem's chains in place of the control, which is elsewhere."""
    lacking: "MissingCalibration | None" = None
    """The calibration that is to be made before; see ``calibrated``."""
    shard: Shard | None = None
    """What the problems are a share of, if they are not all of the run's."""

    @property
    def method(self) -> Method:
        """How the chains are solved."""
        return METHODS[self.config.method]

    @property
    def keys(self) -> list[ChainKey]:
        """All chains, problem by problem."""
        samples = range(self.config.samples)
        return [ChainKey(problem.id, sample) for problem in self.problems for sample in samples]

    def calibrated(self, calibration: Calibration, path: Path) -> "Setup":
        """The run with the calibration that it lacked, which now is at ``path``.

        Raises:
            CalibrationError, ConfigError: see ``prepare_run``.
        """
        take_over = self.config.take_over.model_copy(update={"calibration": path})
        config = self.config.model_copy(update={"take_over": take_over})
        return set_up(config, self.problems, calibration, self.certificate)

    def check_directory(self, directory: Path) -> None:
        """Check that a directory can take the chains, before any model is loaded.

        Raises:
            ConfigError: it holds another run; the differing keys are named.
            StoreError: it is no run directory, another process works in it, or it cannot be read.
        """
        is_run = self.stream == "run"
        parts = (self.config, self.problems, self.calibration)
        check_run(directory, *parts, may_grow=is_run, shard=self.shard)

    def share_of(self, share: Share) -> "Setup":
        """A share of the run, to be made in a directory of its own.

        Raises:
            ConfigError: there are fewer problems than shares.
        """
        problems = [self.problems[place] for place in share.positions(len(self.problems))]
        return replace(self, problems=problems, shard=Shard.of_run(share, self.problems))

    def of_problems(self, problems: Sequence[Problem]) -> "Setup":
        """A part of it: with the same control, which goes on from one part to the next."""
        return replace(self, problems=problems)

    def deciding_by(self, control: Control) -> "Setup":
        """The same with another control."""
        return replace(self, control=control)

    def groups(
        self,
        models: ModelsOf,
        done: Mapping[ChainKey, Chain] = MappingProxyType({}),
        only: Collection[ChainKey] | None = None,
    ) -> Iterator[Sequence[PlannedChain]]:
        """The chains that are to be made, in groups that start together; see ``run_chains``.

        Args:
            models: what the chains are solved with.
            done: chains that are there, by key.
            only: the chains to be made, if not all that are missing.
        """
        for problem in self.problems:
            keys = [ChainKey(problem.id, sample) for sample in range(self.config.samples)]
            missing = [key for key in keys if key not in done and (only is None or key in only)]
            decider = None
            if self.method.decider:
                others = [done[key] for key in keys if key in done]
                samples = [key.sample for key in missing]
                siblings = Siblings(
                    problem.id, self.config, self.control, samples, others, self.deciding
                )
                decider = self.method.decider(siblings)
            planned = [
                PlannedChain(key, partial(self._open, problem, key.sample, models, decider))
                for key in missing
            ]
            if self.method.together:
                yield planned
            else:
                yield from ([chain] for chain in planned)

    def _open(
        self, problem: Problem, sample: int, models: ModelsOf, decider: Decider | None
    ) -> OpenChain:
        try:
            found = models(problem, sample)
            return OpenChain(problem, sample, found, self.config, decider, self.stream)
        except BaseException:
            if decider:  # the others must not wait for it
                decider.leave(sample)
            raise


def prepare_run(config: Config, calibrations: Path | None = None) -> Setup:
    """Check everything that a run needs, before any model is loaded.

    Args:
        config: of the run.
        calibrations: a folder in which a calibration that the configuration lacks is kept, or will
            be; see ``Setup.lacking``.

    Raises:
        ProblemError: the problems cannot be read.
        CalibrationError: the calibration is missing, corrupt, or was made for something else.
        ConfigError: the control's options exclude each other, a problem's chains must be under
            way together and may not, or chains may be ended that the method needs.
    """
    check_options(config)
    problems = load_problems(config.problems)
    if calibrations is not None and lacks_calibration(config):
        conditional = config.take_over.coverage == "conditional"
        made = prepare_calibration(config, problems if conditional else None)
        lacking = MissingCalibration(made, calibrations / calibration_name(made))
        return Setup(config, problems, certificate=_read_certificate(config), lacking=lacking)
    return set_up(config, problems, read_calibration(config), _read_certificate(config))


def set_up(
    config: Config,
    problems: Sequence[Problem],
    calibration: Calibration | None = None,
    certificate: Certificate | None = None,
) -> Setup:
    """A run whose inputs are loaded; see ``prepare_run``, also for what is raised."""
    check_options(config)
    if not METHODS[config.method].needs_calibration:
        return Setup(config, problems)
    problem_ids = [problem.id for problem in problems]
    if calibration:
        calibration.check(config, problem_ids)
    if certificate:
        certificate.check(config, calibration, problem_ids)
    control = make_control(config.take_over, calibration)
    return Setup(
        config, problems, calibration=calibration, certificate=certificate, control=control
    )


def prepare_calibration(config: Config, problems: Sequence[Problem] | None = None) -> Setup:
    """Check everything that a calibration needs, before any model is loaded.

    Marginal calibration takes the configuration's calibration problems; conditional takes the
    run's own problems, but other chains, and never their answers.

    Args:
        config: of the run.
        problems: those to calibrate on, if they are loaded already.

    Raises:
        ProblemError: the problems cannot be read.
    """
    conditional = config.take_over.coverage == "conditional"
    options = config.problems if conditional else calibration_problems(config)
    config = config.model_copy(
        update={"method": "atts", "problems": options, "samples": config.calibration.samples}
    )
    control = calibrating_control(config.take_over, None)
    loaded = load_problems(options) if problems is None else problems
    return Setup(config, loaded, "calibration", control=control)


def lacks_calibration(config: Config) -> bool:
    """Whether a run decides by a calibration and none is named."""
    options = config.take_over
    return (
        METHODS[config.method].needs_calibration
        and options.control == "split"
        and not options.calibration
    )


def calibration_name(setup: Setup) -> str:
    """The name of a calibration's folder, which tells it from all others."""
    return f"calibration-{setup.config.take_over.coverage}-{setup.config.digest()}"


def finished_run(directory: Path, config: Config) -> RecordedRun | None:
    """The run in a directory, if it is that of ``config`` and needs nothing more.

    Raises:
        StoreError: the run cannot be read.
    """
    if not (directory / SUMMARY).is_file():
        return None
    run = read_run(directory)
    same = run.config.what_results_depend_on() == config.what_results_depend_on()
    if same and config.take_over.calibration:
        try:
            same = run.calibration == read_calibration(config)
        except CalibrationError:  # to be told by whoever makes the run
            return None
    complete = len(run.chains) == len(run.problems) * run.config.samples
    failed = any(chain.end == "failed" for chain in run.chains)
    return run if same and complete and not failed else None


def read_calibration(config: Config) -> Calibration | None:
    """The calibration that a run decides by, if it takes one.

    Raises:
        CalibrationError: it is missing or corrupt.
    """
    path = config.take_over.calibration
    if path is None or not METHODS[config.method].needs_calibration:
        return None
    return Calibration.from_json(_read_text(path, "calibration"), str(path))


def _read_certificate(config: Config) -> Certificate | None:
    path = config.take_over.certificate
    if path is None or not METHODS[config.method].needs_calibration:
        return None
    return Certificate.from_json(_read_text(path, "certificate"), str(path))


def _read_text(path: Path, what: str) -> str:
    try:
        return read_plain(path).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"cannot read the {what} {path}: {error}") from error


def check_options(config: Config) -> None:
    """Refuse options that exclude each other.

    Raises:
        ConfigError: they do.
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


@asynccontextmanager
async def open_models(
    config: Config, authors: Collection[Author] | None = None
) -> AsyncIterator[Models]:
    """Load the models that the method needs, or those of ``authors``; close them at the end.

    Raises:
        ConfigError: a model or its tokenizer cannot be loaded.
        EngineError: a model's server does not answer.
    """
    options = {"draft": config.draft, "target": config.target}
    authors = authors or authors_of(config)
    in_process = sum(options[author].engine in IN_THIS_PROCESS for author in authors)
    scores = METHODS[config.method].scores
    models: Models = {}
    async with AsyncExitStack() as stack:
        for author in authors:
            engine = await load_engine(
                options[author], in_process - 1, scores and author == "target"
            )
            stack.push_async_callback(engine.aclose)
            tokenizer = Tokenizer.load(options[author])
            models[author] = Model(limited(engine, author, config.limits), tokenizer)
        yield models


def limited(engine: Engine, author: Author, limits: LimitsOptions) -> Engine:
    """An engine of a run, with its limits and retries."""
    in_flight = {"draft": limits.draft_requests, "target": limits.target_requests}
    return LimitedEngine(
        engine,
        in_flight[author],
        limits.attempts,
        limits.backoff_seconds,
        limits.patience_seconds,
        author,
    )
