"""Making the runs that a comparison lacks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from atts.analysis.comparison import NamedRun, shared_problems
from atts.analysis.labels import run_names
from atts.config import Config, load_config, method_and_settings
from atts.errors import AttsError, ConfigError
from atts.grading.grader import Grader
from atts.methods import METHODS
from atts.runs.jobs import complete
from atts.runs.making import Opening
from atts.runs.observer import Observe
from atts.runs.setup import Setup, finished_run, open_models, prepare_run
from atts.store.run_directory import RecordedRun, read_run
from atts.types import Problem


class Candidate(NamedTuple):
    """A run to compare, which may have to be made first."""

    name: str
    directory: Path
    config: Config | None
    """None for a run that is compared as it stands."""


class ComparisonPlan(NamedTuple):
    """Candidates whose inputs are known to be good."""

    recorded: dict[str, RecordedRun]
    """Name -> the run of each candidate that is there; those that are made come to it."""
    missing: dict[str, tuple[Path, Setup]]
    """Name -> the directory and the set-up of each run that is to be made."""


def parse_candidates(
    texts: Sequence[str], config_file: Path | None, settings: Sequence[str], folder: Path
) -> list[Candidate]:
    """Each is ``METHOD``, ``METHOD:key=value,...`` (keys as of ``--set``), or a run directory.

    A method is named as it is given, a directory after its folder if that tells it from the others.

    Args:
        texts: what the user wrote.
        config_file: the configuration that a method changes.
        settings: further settings of that configuration.
        folder: in which runs are kept under the names that ``atts run`` gives them.

    Raises:
        ConfigError: a text is none of these, or a configuration is wrong.
    """
    candidates = [_parse(text, config_file, settings, folder) for text in dict.fromkeys(texts)]
    names = run_names([candidate.directory for candidate in candidates if not candidate.config])
    if not {candidate.name for candidate in candidates if candidate.config}.isdisjoint(names):
        return candidates
    short = iter(names)
    return [each if each.config else each._replace(name=next(short)) for each in candidates]


def is_method(text: str) -> bool:
    """Whether a text names a method, perhaps with settings, and so no run directory."""
    return method_and_settings(text)[0] in METHODS


def _parse(text: str, config_file: Path | None, settings: Sequence[str], folder: Path) -> Candidate:
    method, own = method_and_settings(text)
    if method in METHODS:
        config = load_config(config_file, [*settings, f"method={method}", *own])
        return Candidate(text, folder / f"{config.method}-{config.digest()}", config)
    if not Path(text).is_dir():
        raise ConfigError(
            f"{text} is neither a method ({', '.join(METHODS)}), alone or as "
            "METHOD:key=value,..., nor a run directory"
        )
    return Candidate(text, Path(text), None)


def prepare(candidates: Sequence[Candidate], folder: Path) -> ComparisonPlan:
    """Check everything that the missing runs need, before any model is loaded.

    Args:
        candidates: with different names.
        folder: in which calibrations are kept.

    Raises:
        ConfigError: candidates are one and the same, or share no problem.
        StoreError: a run cannot be read.
        ProblemError, CalibrationError: see ``prepare_run``.
    """
    directories: dict[Path, str] = {}
    for candidate in candidates:
        other = directories.setdefault(candidate.directory.resolve(), candidate.name)
        if other is not candidate.name:
            raise ConfigError(f"{other} and {candidate.name} are both {candidate.directory}")
    plan = ComparisonPlan({}, {})
    problems: list[Sequence[Problem]] = []
    for name, directory, config in candidates:
        run = finished_run(directory, config) if config else read_run(directory)
        if run:
            plan.recorded[name] = run
            problems.append(run.problems)
        elif config:
            setup = prepare_run(config, folder)
            plan.missing[name] = (directory, setup)
            problems.append(setup.problems)
    if not shared_problems(problems):
        raise ConfigError("these runs share no problem, so there is nothing to compare")
    return plan


def reference_name(candidates: Sequence[Candidate], plan: ComparisonPlan, asked: str | None) -> str:
    """The name of the run that the others are compared with: by default the target alone, if it is
    there, else the first.

    Raises:
        ConfigError: there is no such run.
    """
    names = [candidate.name for candidate in candidates]
    if asked is not None:
        for candidate in candidates:
            if asked == candidate.name or Path(asked) == candidate.directory:
                return candidate.name
        raise ConfigError(f"the reference {asked} is none of the runs: {', '.join(names)}")
    for name, _, config in candidates:
        if METHODS[(config or plan.recorded[name].config).method].is_reference:
            return name
    return names[0]


async def run_missing(
    plan: ComparisonPlan,
    grader: Grader,
    observe: Observe,
    say: Callable[[str], None],
    opening: Opening | None = None,
) -> list[str]:
    """Make the runs that are missing, one after the other; names those that could not be made.

    Each run loads its own models, so that a method with one model has the machine to itself.

    Args:
        plan: as ``prepare`` gives it; what is made is recorded in it.
        grader: compares the answers of all runs.
        observe: gives an observer for a named job.
        say: is told what goes wrong; the others go on.
        opening: opens the models of a run, or what makes its chains elsewhere; None: opens them in
            this process.
    """
    failed = []
    for name, (directory, setup) in plan.missing.items():
        try:
            async with (opening or open_models)(setup.config, None) as models:
                made = await complete(setup, models, directory, grader, observe, name)
                plan.recorded[name] = made.graded.run
        except AttsError as error:
            say(f"{name}: {error}")
            failed.append(name)
    return failed


def named_runs(candidates: Sequence[Candidate], plan: ComparisonPlan) -> list[NamedRun]:
    """The runs that are there, those that were made now included."""
    return [
        NamedRun(name, str(directory), plan.recorded[name])
        for name, directory, _ in candidates
        if name in plan.recorded
    ]
