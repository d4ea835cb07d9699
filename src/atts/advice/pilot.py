"""What a pair does: short runs on calibration problems, and what each tells of its chains."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from atts.advice.model import Circle, Work
from atts.analysis.comparison import ComparedRun, NamedRun, compare
from atts.analysis.tokens import count_tokens
from atts.config import (
    Config,
    ProblemsOptions,
    StopOptions,
    apply_setting,
    method_and_settings,
    parse_config,
)
from atts.errors import ConfigError, EngineError
from atts.files import atomic_write, to_jsonl
from atts.grading.grader import Grader
from atts.methods import METHODS
from atts.problems import calibration_problems, load_problems
from atts.runs.candidates import Candidate, named_runs, prepare, run_missing
from atts.runs.observer import Observe
from atts.store.run_directory import RecordedRun
from atts.types import Author, Chain, Problem

TARGET, DRAFT = "target-only", "draft-only"
RATES = (0.2, 0.4, 0.7)
SHORT = (16, 4)
"""Tokens of the draft's and the target's segments where they are short: few of the target's, at the
right place, were worth most on real models (docs/real.md)."""
PROBLEMS = "problems.jsonl"


class Pilot(NamedTuple):
    """Ways to make chains whose inputs are known to be good."""

    directory: Path
    problems: Sequence[Problem]
    ways: Sequence[tuple[str, Config]]
    """Each as ``atts compare`` takes it, and its configuration."""

    @property
    def chains(self) -> int:
        """Of each way, all of them in flight together."""
        return len(self.problems) * self.ways[0][1].samples


class Found(NamedTuple):
    """What a run tells of one way."""

    name: str
    settings: tuple[str, ...]
    """``key=value``: what makes it of the configuration."""
    config: Config
    figures: ComparedRun
    circle: Circle | None
    """None where one model writes alone, in one request."""
    chains: list[list[Chain]]
    """By problem, those that came to an end."""

    @property
    def author(self) -> Author:
        """Who writes, where one does alone."""
        return "draft" if METHODS[self.config.method].authors == ("draft",) else "target"

    @property
    def kept(self) -> float:
        """Tokens of a chain, in the mean."""
        kept = [one.kept("draft") + one.kept("target") for some in self.chains for one in some]
        return sum(kept) / max(1, len(kept))

    @property
    def in_order(self) -> list[Work]:
        """The work of all chains, in the order in which they began."""
        every = sorted((one for some in self.chains for one in some), key=lambda one: one.started)
        return [Work.of(one) for one in every]


def usual_ways(config: Config) -> list[str]:
    """What is tried unless the user says otherwise: several rates, modes and lengths."""
    mode, turns = config.take_over.mode, config.turns
    other = "replace" if mode == "rewind" else "rewind"
    names = [f"atts:take_over.rate={rate:g}" for rate in RATES]
    if turns.draft_tokens > SHORT[0] and mode != "continue":
        draft, target = SHORT
        most = turns.max_turns * (turns.draft_tokens + turns.target_tokens) // (draft + target)
        names.append(
            f"atts:take_over.rate=0.7,turns.draft_tokens={draft},turns.target_tokens={target},"
            f"turns.max_turns={most}"
        )
    elif config.take_over.score.kind not in ("mean", "draft-surprise") or other != "rewind":
        names.append(f"atts:take_over.rate=0.4,take_over.mode={other}")
    return [TARGET, DRAFT, *names]


def prepare_pilot(
    config: Config, names: Sequence[str], directory: Path, count: int, samples: int
) -> Pilot:
    """Check everything that a pilot needs, before any model is loaded.

    Args:
        config: that is advised on; its evaluation problems are not touched.
        names: ways to try, each as ``atts compare`` takes them; target-only comes by itself.
        directory: where its runs are kept.
        count: calibration problems, from the first.
        samples: chains of each.

    Raises:
        ConfigError, ProblemError: a way is wrong, or there are no such problems.
    """
    problems = load_problems(calibration_problems(config))[:count]
    if bare := [problem.id for problem in problems if not problem.is_graded]:
        raise ConfigError(
            f"the calibration problem {bare[0]} has no gold answer, and without one no loss can be "
            "told: leave it out, or give the directories of runs"
        )
    path = directory / PROBLEMS
    atomic_write(path, to_jsonl(problems))
    tree = config.model_dump() | {
        "problems": ProblemsOptions(source=str(path), count=None).model_dump(),
        "samples": samples,
        "stop": StopOptions(repeating=config.stop.repeating).model_dump(),
    }
    # All chains together: of how many a time is, must be known.
    tree["limits"] |= dict.fromkeys(("chains", "chains_min"), len(problems) * samples)
    tree["take_over"] |= {"certificate": None}
    ways = []
    for name in dict.fromkeys([TARGET, *names]):
        method, settings = method_and_settings(name)
        if method not in METHODS:
            raise ConfigError(f"{name} is no method: choose from {', '.join(METHODS)}")
        changed = parse_config(tree, name).model_dump()
        for setting in (f"method={method}", *settings):
            apply_setting(changed, setting)
        ways.append((name, parse_config(changed, name)))
    return Pilot(directory, problems, ways)


async def fly(
    pilot: Pilot, grader: Grader, observe: Observe, say: Callable[[str], None]
) -> list[NamedRun]:
    """Make the runs that the directory still lacks; all of them.

    Each opens its own models, so that one that has a single model has the machine to itself.

    Raises:
        EngineError: one could not be made.
        ConfigError, StoreError: see ``atts.runs.jobs.run``.
    """
    candidates = [
        Candidate(name, pilot.directory / f"{config.method}-{config.digest()}", config)
        for name, config in pilot.ways
    ]
    plan = prepare(candidates, pilot.directory)
    if failed := await run_missing(plan, grader, observe, say):
        raise EngineError(f"the pilot's runs of {', '.join(failed)} could not be made")
    return named_runs(candidates, plan)


def findings(runs: Sequence[NamedRun], grader: Grader) -> tuple[list[Found], int]:
    """What runs tell of their ways, and over how many problems; the target alone comes first.

    Raises:
        ConfigError: none of them is of the target alone.
        GradingError: they have no problem in common.
    """
    alone = [run for run in runs if METHODS[run.run.config.method].is_reference]
    if not alone:
        raise ConfigError(
            "none of these runs is of the target alone, with which the others are compared: add "
            "one (atts run --set method=target-only)"
        )
    ordered = [alone[0], *(run for run in runs if run is not alone[0])]
    comparison = compare(ordered, alone[0].name, grader)
    found = [
        _found(named, figures) for named, figures in zip(ordered, comparison.runs, strict=True)
    ]
    if not all(any(each.chains) for each in found):
        raise EngineError("chains of the pilot failed, all of one run: its chains.jsonl says why")
    return found, comparison.problems


def _found(named: NamedRun, figures: ComparedRun) -> Found:
    run: RecordedRun = named.run
    by_problem: dict[str, list[Chain]] = {problem.id: [] for problem in run.problems}
    for chain in run.chains:
        if chain.is_finished:
            by_problem[chain.problem_id].append(chain)
    chains = [some for some in by_problem.values() if some]
    tokens = count_tokens(run.config, (chain for some in chains for chain in some))
    return Found(
        name=named.name,
        settings=_settings(named),
        config=run.config,
        figures=figures,
        circle=Circle.of(tokens, run.config.overlaps),
        chains=chains,
    )


def _settings(named: NamedRun) -> tuple[str, ...]:
    """What makes a run's way of a configuration: its name says, or else its own keys."""
    method, settings = method_and_settings(named.name)
    if method in METHODS:
        return (f"method={method}", *settings)
    config = named.run.config
    turns, take_over = config.turns, config.take_over
    return (
        f"method={config.method}",
        f"take_over.rate={take_over.rate:g}",
        f"take_over.mode={take_over.mode}",
        f"turns.max_turns={turns.max_turns}",
        f"turns.draft_tokens={turns.draft_tokens}",
        f"turns.target_tokens={turns.target_tokens}",
        f"turns.draft_segments={turns.draft_segments}",
    )


def segments_of(found: Sequence[Found]) -> tuple[int, int]:
    """Tokens of the shortest and the longest segments that are scored, in the mean of a way."""
    lengths = [each.circle.score_tokens for each in found if each.circle and each.circle.scores]
    if not lengths:
        return SHORT[0], 3 * SHORT[0]
    short, long = max(2, round(min(lengths))), round(max(lengths))
    return (short, long) if long >= 2 * short else (max(2, long // 3), max(long, 6))
