"""Runs that complete themselves: what is finished is not done again, what is missing is made."""

from collections.abc import Callable
from pathlib import Path

from atts.analysis.summary import Summary
from atts.config import Config
from atts.errors import CalibrationError
from atts.methods import METHODS
from atts.methods.chain import Models
from atts.runs import jobs
from atts.store.run_directory import CALIBRATION, SUMMARY, RecordedRun, read_run


def finished(directory: Path, config: Config) -> RecordedRun | None:
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
            same = run.calibration == jobs.prepare_run(config).calibration
        except CalibrationError:  # to be told by whoever makes the run
            return None
    complete = len(run.chains) == len(run.problems) * run.config.samples
    failed = any(chain.end == "failed" for chain in run.chains)
    return run if same and complete and not failed else None


def calibration_directory(config: Config, folder: Path) -> Path | None:
    """Where below ``folder`` the calibration that a run lacks is kept; None if it lacks none.

    Raises:
        ProblemError: the problems to calibrate on cannot be read.
    """
    options = config.take_over
    if (
        not METHODS[config.method].needs_calibration
        or options.control != "split"
        or options.calibration
    ):
        return None
    digest = jobs.prepare_calibration(config).config.digest()
    return folder / f"calibration-{options.coverage}-{digest}"


async def complete(
    config: Config,
    models: Models,
    directory: Path,
    calibrations: Path,
    observe: Callable[[str], jobs.Observer],
    name: str,
) -> Summary:
    """Make the calibration that a run needs and that is not there yet, then the run's chains.

    Chains that failed are tried again.

    Args:
        config: of the run.
        models: those that its method needs.
        directory: of the run.
        calibrations: the folder in which calibrations are kept.
        observe: gives an observer for a named job.
        name: of the run, to be shown.

    Raises:
        ProblemError, CalibrationError, ConfigError, StoreError: see ``jobs``.
    """
    if made := calibration_directory(config, calibrations):
        # One that is complete does nothing here but give the scores again.
        await jobs.calibrate(config, models, made, observe(f"{name}: calibration"))
        options = config.take_over.model_copy(update={"calibration": made / CALIBRATION})
        config = config.model_copy(update={"take_over": options})
    return await jobs.run(config, models, directory, observe(name), retry_failed=True)
