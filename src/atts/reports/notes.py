"""What must be said about the figures of runs, each thing once."""

from collections.abc import Iterator, Sequence

from atts.analysis.report import RunReport
from atts.analysis.summary import Summary
from atts.config import ControlName


def notes(runs: Sequence[RunReport]) -> list[str]:
    """All that is to be said, each with the names of the runs that it is about."""
    return said_once([(run.name, note) for run in runs for note in _notes(run)], len(runs))


def certificates(runs: Sequence[RunReport]) -> list[str]:
    """What vouches for accuracies."""
    found = [(run.name, run.summary.certificate) for run in runs]
    return said_once([(name, each.quote) for name, each in found if each], len(runs))


def alarms(runs: Sequence[RunReport]) -> list[str]:
    """What the drift alarms have found."""
    found = [(run.name, _alarm(run)) for run in runs]
    return said_once([(name, alarm) for name, alarm in found if alarm], len(runs))


def drift_alarm(summary: Summary, control: ControlName, calibrated: bool) -> str | None:
    """What the drift alarm of a run has found, if anything.

    Args:
        summary: of the run.
        control: ``take_over.control``.
        calibrated: whether the run decides by a calibration.
    """
    return summary.drift.message(calibrated, control != "split") if summary.drift else None


def said_once(said: Sequence[tuple[str, str]], runs: int) -> list[str]:
    """Notes on runs, (name, note), with one line for what concerns several.

    >>> said_once([("a", "late"), ("b", "late"), ("a", "odd")], 2)
    ['All runs: late', 'a: odd']
    """
    names: dict[str, list[str]] = {}
    for name, note in said:
        names.setdefault(note, []).append(name)
    return [
        f"{'All runs' if len(about) == runs > 1 else '; '.join(about)}: {note}"
        for note, about in names.items()
    ]


def _alarm(run: RunReport) -> str | None:
    control = run.run.config.take_over.control
    return drift_alarm(run.summary, control, run.run.calibration is not None)


def _notes(run: RunReport) -> Iterator[str]:
    summary, found = run.summary, run.profile
    if summary.certificate:
        yield summary.certificate.quote
    if alarm := _alarm(run):
        yield alarm
    if not summary.is_whole:
        missing = summary.expected_chains - summary.chains
        yield f"{missing:,} chains are not done yet."
    if summary.failed:
        yield f"{summary.failed:,} chains failed, and count as wrong."
    if found.untimed:
        yield (
            f"{found.untimed:,} chains have no times of their requests, and are left out where "
            "time is shown."
        )
    if found.undivided:
        yield (
            "an engine told of requests only when they ended, so the time in its queue counts as "
            "computing."
        )
