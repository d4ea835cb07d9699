"""A suite: a matrix of model pairs, problem sets, methods and coverages, run one after the other.

Each axis gives fragments of a configuration, which are merged over one another: ``base``, the
pair, the problem set, ``changes``, then method and coverage. The servers of a pair are up while
its entries run. Every entry is a run directory of its own, so a suite resumes like a run.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from pydantic import ConfigDict, Field, ValidationError

from atts.analysis.graded_run import grade_run
from atts.analysis.summary import Summary, summarise
from atts.config import IN_THIS_PROCESS, Config, Coverage, MethodName, Options, parse_config
from atts.config.reading import read_yaml
from atts.engines.loading import server_urls
from atts.engines.servers.lifecycle import (
    AUTHORS,
    FOLDER,
    answers,
    down,
    is_running,
    up,
    warm_up,
)
from atts.engines.servers.placed import DEFAULT, with_urls
from atts.errors import AttsError, ConfigError, EngineGoneError
from atts.grading.grader import Grader, VerdictCache
from atts.methods import METHODS, authors_of
from atts.methods.chain import Models
from atts.runs.jobs import complete
from atts.runs.making import Maker, Opening
from atts.runs.observer import Observe
from atts.runs.setup import Setup, finished_run, open_models, prepare_run
from atts.store.run_directory import former_defaults, lock_run
from atts.types import Author

Fragment = dict[str, Any]
Say = Callable[[str], None]


class Suite(Options):
    """What stands in a suite's file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    base: Fragment = Field(default_factory=dict)
    """Part of the configuration of every entry."""
    pairs: dict[str, Fragment | str] = Field(min_length=1)
    """Name -> part of a configuration, or the path of a file with one, from the suite's own."""
    problems: dict[str, Fragment] = Field(min_length=1)
    """Name -> part of a configuration: ``problems`` and, if needed, ``calibration``."""
    methods: tuple[MethodName, ...] = Field(default=("target-only", "atts"), min_length=1)
    coverages: tuple[Coverage, ...] = Field(default=("marginal",), min_length=1)
    """For the methods that decide by a calibration."""
    changes: Fragment = Field(default_factory=dict)
    """Laid over the configuration of every entry."""


class Entry(NamedTuple):
    """One run of a suite."""

    pair: str
    name: str
    """Problem set, method and coverage: the folder of the run below that of the pair."""
    config: Config


class PairServers(Protocol):
    """Starts and ends the servers of a suite's pairs."""

    async def up(
        self, pair: str, config: Config, authors: Sequence[Author], folder: Path, say: Say
    ) -> Config:
        """Start the servers that a configuration describes and that do not answer yet, and warm
        them.

        Those that an earlier start of the suite has left in ``folder`` are taken over.

        Returns:
            The configuration with which they are reached.

        Raises:
            AttsError: one could not be started, and none of these is left.
        """
        ...

    def down(self, folder: Path, say: Say | None = None) -> object:
        """End those that were started in a folder."""
        ...


class EntryOutcome(NamedTuple):
    """What became of an entry."""

    entry: Entry
    summary: Summary | None
    error: str | None
    status: Literal["done", "done before", "failed"]


def load_suite(path: Path, directory: Path | None = None) -> list[Entry]:
    """Read a suite's file; every entry's configuration is checked.

    Entries that ``directory`` already holds keep the defaults that they were made with.

    Raises:
        ConfigError: the file or a configuration cannot be read, or a key or value is wrong.
    """
    try:
        suite = Suite.model_validate(read_yaml(path, ""))
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"wrong suite in {path}:\n  " + "\n  ".join(faults)) from None
    return list(_entries(suite, path, directory))


def _entries(suite: Suite, path: Path, directory: Path | None) -> Iterator[Entry]:
    for pair, pair_fragment in suite.pairs.items():
        if isinstance(pair_fragment, str):
            pair_fragment = read_yaml(path.parent / pair_fragment, "")
        for problems, problems_fragment in suite.problems.items():
            for method in suite.methods:
                decides = METHODS[method].needs_calibration
                for coverage in suite.coverages if decides else suite.coverages[:1]:
                    name = f"{problems}/{method}" + (f"-{coverage}" if decides else "")
                    last = {"method": method, "take_over": {"coverage": coverage}}
                    tree: Fragment = {}
                    for fragment in (
                        suite.base,
                        pair_fragment,
                        problems_fragment,
                        suite.changes,
                        last,
                    ):
                        tree = _merged(tree, fragment)
                    former = former_defaults(directory / pair / name if directory else None)
                    config = parse_config(tree, f"{path}, {pair}/{name}", former)
                    yield Entry(pair, name, config)


async def run_suite(
    entries: Sequence[Entry],
    directory: Path,
    say: Say,
    observe: Observe,
    opening: Opening | None = None,
    servers: PairServers | None = None,
) -> list[EntryOutcome]:
    """Run all entries, pair by pair; what is finished is not done again.

    An entry that fails is reported, and the others go on. The servers that an earlier start of the
    suite has left, however that ended, are this one's.

    Args:
        entries: as ``load_suite`` gives them.
        directory: where to: ``PAIR/PROBLEMS/METHOD`` is a run directory.
        say: is told what happens, in a line.
        observe: gives an observer for a named job.
        opening: opens the models of a pair, or what makes its chains elsewhere; None: opens them in
            this process.
        servers: of the pairs; None: they are on this machine.

    Raises:
        StoreError: another process runs a suite there.
    """
    servers = servers or ServersHere()
    outcomes: list[EntryOutcome] = []
    pairs = list(dict.fromkeys(entry.pair for entry in entries))
    # Two starts would take each other's servers for left ones.
    lock = lock_run(directory)
    with ExitStack() as stack:
        stack.callback(lock.release)
        grader = stack.enter_context(Grader(cache=VerdictCache()))
        for pair in pairs:
            folder = directory / pair
            setups: dict[str, tuple[Entry, Setup]] = {}
            for entry in (entry for entry in entries if entry.pair == pair):
                found = _prepare(entry, folder, grader, say)
                if isinstance(found, Setup):
                    setups[entry.name] = (entry, found)
                else:
                    outcomes.append(found)
            if setups:
                await asyncio.to_thread(_end_left, servers, directory, folder, say)
                outcomes += await _run_pair(
                    list(setups.values()),
                    folder,
                    grader,
                    say,
                    observe,
                    opening or open_models,
                    servers,
                )
        await asyncio.to_thread(_end_left, servers, directory, None, say)
    return outcomes


def _end_left(servers: PairServers, directory: Path, needed: Path | None, say: Say) -> None:
    """End the servers that are left of other pairs, whose place those of this one may need."""
    for folder in sorted(directory.glob(f"*/{FOLDER}")):
        if folder.parent != needed:
            try:
                servers.down(folder, say)
            except AttsError as error:
                say(f"{folder}: {error}")


def _prepare(entry: Entry, folder: Path, grader: Grader, say: Say) -> "Setup | EntryOutcome":
    """What is to be done for an entry; its outcome, if nothing is, or if it cannot be done."""
    try:
        if run := finished_run(folder / entry.name, entry.config):
            return EntryOutcome(entry, summarise(grade_run(run, grader)), None, "done before")
        return prepare_run(entry.config, folder)
    except AttsError as error:
        return _failed(entry, error, say)


def _failed(entry: Entry, error: AttsError, say: Say) -> EntryOutcome:
    say(f"{entry.pair}/{entry.name}: {error}")
    return EntryOutcome(entry, None, str(error), "failed")


async def _run_pair(
    setups: Sequence[tuple[Entry, Setup]],
    folder: Path,
    grader: Grader,
    say: Say,
    observe: Observe,
    opening: Opening,
    servers: PairServers,
) -> list[EntryOutcome]:
    entries = [entry for entry, _ in setups]
    pair, config = entries[0].pair, entries[0].config
    authors: list[Author] = sorted(
        {author for entry in entries for author in authors_of(entry.config)}
    )
    outcomes: list[EntryOutcome] = []
    try:
        reached = await servers.up(pair, config, authors, folder / FOLDER, say)
        urls = {author: reached.options_of(author).urls for author in AUTHORS}
        async with opening(reached, authors) as models:
            for entry, setup in setups:
                setup = replace(setup, config=with_urls(setup.config, urls))
                outcomes.append(
                    await _run_entry(entry, setup, models, folder, grader, say, observe)
                )
    except AttsError as error:  # without models, none of the entries can be run
        say(f"{pair}: {error}")
        done = len(outcomes)
        outcomes += [EntryOutcome(entry, None, str(error), "failed") for entry in entries[done:]]
    finally:
        # In a thread: what ends the suite now does not end this.
        await asyncio.to_thread(servers.down, folder / FOLDER)
    return outcomes


def described(config: Config, authors: Sequence[Author]) -> list[Author]:
    """The models that are served, and not at addresses that were given."""
    return [
        author
        for author in authors
        if not (options := config.options_of(author)).urls and options.engine not in IN_THIS_PROCESS
    ]


async def warm(pair: str, config: Config, authors: Sequence[Author], say: Say) -> None:
    """Have servers compile what a run needs, so that no entry pays for it before the others."""
    for author in authors:
        try:
            seconds = await warm_up(config.options_of(author), config.limits.chains)
            say(f"{pair}: the {author}'s servers are warm after {seconds:.0f} s")
        except AttsError as error:  # the entries try again, and say what fails
            say(f"{pair}: the {author}'s servers could not be warmed: {error}")


class ServersHere:
    """Servers on this machine; see ``PairServers``."""

    async def up(
        self, pair: str, config: Config, authors: Sequence[Author], folder: Path, say: Say
    ) -> Config:
        """Start them; the configuration says already where they are."""
        ours: list[Author] = []
        for author in described(config, authors):
            options = config.options_of(author)
            url = server_urls(options)[0]
            if is_running(folder, author):
                say(f"{pair}: the {author}'s server still runs, which this suite started before")
                ours.append(author)
            elif await answers(url, options.model, options.api_key_env):
                say(f"{pair}: the {author}'s server already answers at {url}")
            else:
                ours.append(author)
        if ours:
            began = time.monotonic()
            say(f"{pair}: starting the servers of {' and '.join(ours)}, logs in {folder}")
            await up(config, ours, folder, lambda *_: None, go_on=True)
            say(f"{pair}: they answer after {time.monotonic() - began:.0f} s")
        await warm(pair, config, ours, say)
        return config

    def down(self, folder: Path, say: Say | None = None) -> object:
        """End them."""
        return down(folder, tell=say)


async def _run_entry(
    entry: Entry,
    setup: Setup,
    models: Models | Maker,
    folder: Path,
    grader: Grader,
    say: Say,
    observe: Observe,
) -> EntryOutcome:
    name = f"{entry.pair}/{entry.name}"
    try:
        made = await complete(
            setup,
            models,
            folder / entry.name,
            grader,
            observe,
            name,
            folders=(folder / FOLDER, DEFAULT),
        )
    except EngineGoneError:  # the pair's other entries need not try it again
        raise
    except AttsError as error:
        return _failed(entry, error, say)
    failed = made.summary.failed
    error_text = f"{failed} chains failed" if failed else None
    return EntryOutcome(entry, made.summary, error_text, "failed" if failed else "done")


def _merged(under: Fragment, over: Fragment) -> Fragment:
    return under | {
        key: _merged(under[key], value)
        if isinstance(value, dict) and isinstance(under.get(key), dict)
        else value
        for key, value in over.items()
    }
