"""Puts the shards of a run together: a whole run directory, as one process would have left it."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from atts.analysis.graded_run import grade_run
from atts.analysis.summary import Summary, summarise
from atts.config import differing_keys
from atts.errors import ConfigError, StoreError
from atts.files import atomic_write, to_jsonl
from atts.grading.grader import Grader
from atts.grading.replies import append_reply, read_ledger
from atts.store.contents import CONFIG
from atts.store.environment import read_environments, write_environments
from atts.store.grades import GRADES, LEDGER
from atts.store.run_directory import RecordedRun, RunStore, lock_run, read_run
from atts.store.shards import Shard, Share, read_shard
from atts.types import ChainKey, Problem


class RecordedShard(NamedTuple):
    """A shard as it stands in its directory."""

    directory: Path
    shard: Shard
    run: RecordedRun

    @property
    def missing(self) -> list[ChainKey]:
        """Its chains that are not there."""
        done = {chain.key for chain in self.run.chains}
        samples = range(self.run.config.samples)
        keys = (ChainKey(problem.id, each) for problem in self.run.problems for each in samples)
        return [key for key in keys if key not in done]


class Merged(NamedTuple):
    """What came together."""

    run: RecordedRun
    shards: Sequence[RecordedShard]
    absent: Sequence[Share]
    """The shares that nobody gave."""
    summary: Summary | None
    """None unless every chain is there."""


def merge(directories: Sequence[Path], target: Path, grader: Grader) -> Merged:
    """Write the run of which these are the shards, as a whole or not at all.

    The chains stand in the order in which they ended, as if all shards had begun at once. What is
    missing is no error: ``atts run`` makes it in ``target``.

    Args:
        directories: of the shards.
        target: of the run, which is not there yet.
        grader: compares the answers, if the run is complete.

    Raises:
        ConfigError: they are not shards of one run; what differs is named.
        StoreError: one is no shard, is still being written, or cannot be read; or ``target`` is
            there, or cannot be written.
    """
    if target.is_symlink() or (target.exists() and not _is_empty_folder(target)):
        raise StoreError(f"{target} is there already; remove it, or choose another --to")
    shards = sorted((_read(each) for each in directories), key=lambda each: each.shard.number)
    _check_together(shards)
    run = _together(shards)
    shares = [Share(number + 1, shards[0].shard.of) for number in range(shards[0].shard.of)]
    absent = [share for share in shares if all(share != each.shard.share for each in shards)]
    summary = None
    if not absent and not any(each.missing for each in shards):
        summary = summarise(grade_run(run, grader))
    with _made_as_a_whole(target) as directory:
        with RunStore.open(directory, run.config, run.problems, run.calibration) as store:
            for chain in run.chains:
                store.append(chain)
            if run.certificate:
                store.write_certificate(run.certificate)
            if summary:
                store.write_summary(summary)
        _write_beside(shards, run, directory)
    return Merged(run, shards, absent, summary)


def _read(directory: Path) -> RecordedShard:
    if not (directory / CONFIG).is_file():
        raise StoreError(f"{directory} is not a run directory: it holds no {CONFIG}")
    shard = read_shard(directory)
    if shard is None:
        raise ConfigError(
            f"{directory} holds a whole run, not a shard of one; atts run --shard makes shards"
        )
    lock = lock_run(directory, "stop it")
    try:
        run = read_run(directory)
    finally:
        lock.release()
    if len(run.problems) != len(shard.share.positions(shard.problems)):
        raise StoreError(
            f"{directory} is not what shard {shard.share} of {shard.problems} problems must be: it "
            f"has {len(run.problems)} of them; the same atts run mends it"
        )
    return RecordedShard(directory, shard, run)


def _check_together(shards: Sequence[RecordedShard]) -> None:
    first = shards[0]
    before: dict[Share, Path] = {}
    for each in shards:
        pair = f"{first.directory} and {each.directory}"
        theirs, ours = (run.config.what_results_depend_on() for run in (first.run, each.run))
        if keys := differing_keys(theirs, ours):
            lines = [
                f"\n  {key}: {theirs.get(key)!r} there, {ours.get(key)!r} here" for key in keys
            ]
            raise ConfigError(f"{pair} are shards of different runs:{''.join(lines)}")
        if each.shard.of != first.shard.of:
            raise ConfigError(
                f"{pair} are shards {first.shard.share} and {each.shard.share}: only shares of one "
                "division can be put together"
            )
        if (each.shard.problems, each.shard.digest) != (first.shard.problems, first.shard.digest):
            raise ConfigError(
                f"{pair} are shards of runs over different problems ({first.shard.problems} there, "
                f"{each.shard.problems} here): the source changed in between; run the older of "
                "them again, which takes up problems that were added"
            )
        for what in ("calibration", "certificate"):
            if getattr(each.run, what) != getattr(first.run, what):
                raise ConfigError(f"{pair} decided by another {what} each; run one of them anew")
        if other := before.get(each.shard.share):
            raise ConfigError(
                f"{other} and {each.directory} are both shard {each.shard.share}; name one of them"
            )
        before[each.shard.share] = each.directory
    ids: dict[str, Path] = {}
    for each in shards:
        for problem in each.run.problems:
            if (other := ids.setdefault(problem.id, each.directory)) != each.directory:
                raise StoreError(f"the problem {problem.id!r} is in {other} and {each.directory}")


def _together(shards: Sequence[RecordedShard]) -> RecordedRun:
    first = shards[0]
    count = first.shard.problems
    placed: dict[int, Problem] = {}
    for each in shards:
        placed |= zip(each.shard.share.positions(count), each.run.problems, strict=True)
    chains = [chain for each in shards for chain in each.run.chains]
    grades = {key: grade for each in shards for key, grade in each.run.grades.items()}
    return first.run._replace(
        problems=tuple(placed[place] for place in sorted(placed)),
        chains=tuple(sorted(chains, key=lambda chain: chain.done)),
        grades=grades,
    )


def _write_beside(shards: Sequence[RecordedShard], run: RecordedRun, directory: Path) -> None:
    """Write what shards have beside their chains: where they ran, and what regrading found."""
    entries = [entry for each in shards for entry in read_environments(each.directory)]
    write_environments(directory, entries)
    if run.grades:
        atomic_write(directory / GRADES, to_jsonl(run.grades.values()))
    for each in shards:
        for reply in read_ledger(each.directory / LEDGER).values():
            append_reply(directory / LEDGER, reply)


def _is_empty_folder(path: Path) -> bool:
    try:
        return next(path.iterdir(), None) is None
    except OSError:
        return False


@contextmanager
def _made_as_a_whole(target: Path) -> Iterator[Path]:
    """A folder that takes the name of ``target`` at the end, or is gone."""
    temporary = target.resolve().with_name(f".{target.resolve().name}.{os.getpid()}.tmp")
    try:
        try:
            yield temporary
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror or error}") from error
