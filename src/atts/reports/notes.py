"""What must be said about the figures of runs, each thing once."""

from collections.abc import Iterator, Sequence

from atts.analysis.report import RunReport


def notes(runs: Sequence[RunReport]) -> list[str]:
    """All that is to be said, each with the names of the runs that it is about."""
    return said_once([(run.name, note) for run in runs for note in _notes(run)], len(runs))


def guarantees(runs: Sequence[RunReport]) -> list[str]:
    """Certificates and alarms alone."""
    return said_once([(run.name, note) for run in runs for note in _guarantees(run)], len(runs))


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


def _guarantees(run: RunReport) -> Iterator[str]:
    summary = run.summary
    if summary.certificate:
        yield summary.certificate.quote
    holds = run.run.config.take_over.control != "split"
    calibrated = run.run.calibration is not None
    if summary.drift and (message := summary.drift.message(calibrated, holds)):
        yield message


def _notes(run: RunReport) -> Iterator[str]:
    summary, found = run.summary, run.profile
    yield from _guarantees(run)
    if summary.chains < summary.expected_chains:
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
