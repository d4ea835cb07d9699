"""Replay a control over recorded scores, and measure how it holds its rate.

What is replayed are scores, not chains: had a control taken over elsewhere, later scores of the
chain would have been others. So a replay shows how well a rate holds, and nothing of accuracy.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from atts.analysis.recording import Recording, ScoreArrival, load_calibration
from atts.config import Config, Coverage, TakeOverOptions, parse_config
from atts.conformal.calibration import Calibration
from atts.conformal.control import Control, Verdict
from atts.conformal.factory import make_control
from atts.errors import ConfigError
from atts.grading.intervals import (
    Interval,
    auroc_within_problems,
    clustered_auroc,
    clustered_interval,
)
from atts.seeds import tie_breaker
from atts.types import Record

ENOUGH_FOR_A_TURN = 75
ENOUGH_FOR_A_PROBLEM = 30
"""Decisions below which a turn's or a problem's rate is not counted: it is mostly noise."""
WINDOWS = 20
"""Into how many equal parts the decisions are cut, in their order, to see the rate over time."""


class ControlSpec(NamedTuple):
    """A control to replay, as the command line names it."""

    name: str
    options: TakeOverOptions
    names_score: bool = False
    """Whether it says by which kind of score; else by that which the recording was decided by."""

    @classmethod
    def parse(cls, name: str) -> "ControlSpec":
        """``split``, ``online`` or ``adaptive``, and keys of ``take_over`` after commas.

        Raises:
            ConfigError: a key or a value is wrong.

        >>> ControlSpec.parse("online,coverage=conditional").options.coverage
        'conditional'
        """
        control, *settings = name.split(",")
        tree: dict[str, object] = {"control": control}
        for setting in settings:
            key, equals, value = setting.partition("=")
            if not equals or not key:
                raise ConfigError(f"--control {name}: {setting!r} is not key=value")
            *parents, leaf = key.split(".")
            group = tree
            for parent in parents:
                group = group.setdefault(parent, {})  # type: ignore[assignment]
            group[leaf] = value
        options = parse_config({"take_over": tree}, f"--control {name}").take_over
        if options.calibration:  # of a path the file's name will do
            name = name.replace(str(options.calibration), options.calibration.name)
        score = tree.get("score")
        return cls(name, options, isinstance(score, dict) and "kind" in score)


class GroupRate(Record):
    """The realised rate of a turn, a problem or a stretch of time."""

    group: str
    decisions: int
    realised: Interval


class Replayed(Record):
    """How a control held a rate. Intervals are 95 %, clustered by problem."""

    control: str
    nominal: float
    realised: Interval
    decisions: int
    by_turn: tuple[GroupRate, ...]
    by_problem: tuple[GroupRate, ...]
    over_time: tuple[GroupRate, ...]
    mean_turn_deviation: float | None
    """Mean of |rate - nominal| over turns with at least 75 decisions."""
    largest_turn_deviation: float | None
    problem_spread: float | None
    """Standard deviation of the rate over problems with at least 30 decisions."""


def replay(
    recording: Recording,
    arrivals: Sequence[ScoreArrival],
    spec: ControlSpec,
    rate: float,
    folds: int,
) -> Replayed:
    """Let a control decide on recorded scores, of the kind recorded unless it names another.

    ``split`` control without a calibration file is calibrated on the other folds: on the other
    problems if marginal, on other chains of the same problems if conditional.

    Raises:
        ConfigError: the recording lacks the kind of score, or the folds are too many.
        CalibrationError: the calibration file cannot be used.
    """
    options = spec.options.model_copy(update={"rate": rate})
    if not spec.names_score:
        score = options.score.model_copy(update={"kind": recording.kind})
        options = options.model_copy(update={"score": score})
    kind = options.score.kind
    lacking = next((a.step for a in arrivals if kind not in a.step.scores), None)
    if lacking:
        raise ConfigError(
            f"--control {spec.name}: the recording has no {kind} scores, only "
            f"{', '.join(sorted(lacking.scores))}"
        )
    controls, fold_of = _controls(recording, options, folds)
    verdicts: list[Verdict] = []
    for chain, step in arrivals:
        control = controls[fold_of[chain.problem_id, chain.sample]]
        u = tie_breaker(recording.seed, "run", chain.problem_id, chain.sample, step.turn)
        verdict = control.decide(chain.problem_id, step.turn, step.scores[kind], u)
        if verdict.take_over:
            control.take_over_done()  # a recording does not say how long the target would take
        verdicts.append(verdict)
    taken = np.array([verdict.take_over for verdict in verdicts])
    return measure(spec.name, rate, arrivals, taken)


def replay_all(
    recording: Recording,
    arrivals: Sequence[ScoreArrival],
    controls: Sequence[ControlSpec],
    rates: Sequence[float],
    folds: int,
) -> list[Replayed]:
    """Each control at each rate; before them, of a single rate, what was decided in the recording.

    Raises:
        ConfigError, CalibrationError: see ``replay``.
    """
    replays = []
    if len(rates) == 1:  # what was recorded had one nominal rate
        replays.append(as_recorded(arrivals, rates[0]))
    for rate in rates:
        replays += [replay(recording, arrivals, each, rate, folds) for each in controls]
    return replays


def as_recorded(arrivals: Sequence[ScoreArrival], nominal: float) -> Replayed:
    """The decisions that the recorded run itself made."""
    taken = np.array([arrival.step.take_over for arrival in arrivals])
    return measure("as recorded", nominal, arrivals, taken)


def measure(
    name: str, nominal: float, arrivals: Sequence[ScoreArrival], taken: NDArray[np.bool_]
) -> Replayed:
    """The figures of decisions, ``taken`` of shape (arrivals,)."""
    problems = np.array([arrival.chain.problem_id for arrival in arrivals])
    turns = np.array([arrival.step.turn for arrival in arrivals])
    by_turn = [
        _rate(f"turn {turn}", problems[turns == turn], taken[turns == turn])
        for turn in np.unique(turns)
    ]
    by_problem = [
        _rate(str(problem), problems[problems == problem], taken[problems == problem])
        for problem in np.unique(problems)
    ]
    windows = np.array_split(np.arange(len(taken)), min(WINDOWS, len(taken)))
    over_time = [
        _rate(f"decisions {part[0]} to {part[-1]}", problems[part], taken[part]) for part in windows
    ]
    deviations = [
        abs(each.realised.estimate - nominal)
        for each in by_turn
        if each.decisions >= ENOUGH_FOR_A_TURN
    ]
    rates = [
        each.realised.estimate for each in by_problem if each.decisions >= ENOUGH_FOR_A_PROBLEM
    ]
    return Replayed(
        control=name,
        nominal=nominal,
        realised=_rate("", problems, taken).realised,
        decisions=len(taken),
        by_turn=tuple(by_turn),
        by_problem=tuple(by_problem),
        over_time=tuple(over_time),
        mean_turn_deviation=float(np.mean(deviations)) if deviations else None,
        largest_turn_deviation=max(deviations, default=None),
        problem_spread=float(np.std(rates)) if len(rates) > 1 else None,
    )


def _rate(group: str, problems: NDArray[np.str_], taken: NDArray[np.bool_]) -> GroupRate:
    _, index = np.unique(problems, return_inverse=True)
    interval = clustered_interval(np.bincount(index, weights=taken), np.bincount(index))
    return GroupRate(group=group, decisions=len(taken), realised=interval)


class Separation(Record):
    """The AUROC of one kind of score: the chance that a wrong chain has a higher mean score than a
    right one. Intervals are 95 %, clustered by problem.
    """

    kind: str
    auroc: Interval
    """Over all pairs: a score that only tells hard problems from easy ones separates too."""
    auroc_within: Interval | None
    """Over pairs of chains of one problem; None where no problem has both kinds."""
    right: int
    """Right chains, each with the mean of its segments' scores."""
    wrong: int


def separations(recording: Recording) -> list[Separation]:
    """Each kind of score that all segments have; none unless right and wrong chains are known."""
    chains = [chain for chain in recording.chains if chain.steps and chain.right is not None]
    wrong = np.array([not chain.right for chain in chains], dtype=bool)
    if wrong.all() or not wrong.any():
        return []
    kinds = sorted(set.intersection(*(set(step.scores) for c in chains for step in c.steps)))
    problems = [chain.problem_id for chain in chains]
    found = []
    for kind in kinds:
        scores = [np.mean([step.scores[kind] for step in chain.steps]) for chain in chains]
        found.append(
            Separation(
                kind=kind,
                auroc=clustered_auroc(scores, wrong, problems),
                auroc_within=auroc_within_problems(scores, wrong, problems),
                right=int((~wrong).sum()),
                wrong=int(wrong.sum()),
            )
        )
    return found


FoldOf = dict[tuple[str, int], int]


def _controls(
    recording: Recording, options: TakeOverOptions, folds: int
) -> tuple[list[Control], FoldOf]:
    """A control for each fold, and the fold of each chain."""
    chains = recording.chains
    everything = dict.fromkeys([(chain.problem_id, chain.sample) for chain in chains], 0)
    if options.calibration is not None:
        problem_ids = list(dict.fromkeys(chain.problem_id for chain in chains))
        calibration = load_calibration(options.calibration, problem_ids)
        return [make_control(options, calibration)], everything
    if options.control != "split":
        return [make_control(options, None)], everything
    fold_of = {
        (chain.problem_id, chain.sample): _fold(chain.problem_id, folds)
        if options.coverage == "marginal"
        else chain.sample % folds
        for chain in chains
    }
    return [
        make_control(options, _others(recording, options, fold_of, fold)) for fold in range(folds)
    ], fold_of


def _fold(problem_id: str, folds: int) -> int:
    # By a hash, because the problems of a file may be sorted by subject or by difficulty.
    return int.from_bytes(hashlib.blake2b(problem_id.encode(), digest_size=8).digest()) % folds


def _others(
    recording: Recording, options: TakeOverOptions, fold_of: FoldOf, fold: int
) -> Calibration:
    """A calibration of all chains that are not in a fold."""
    scores: dict[str, list[tuple[float | None, ...]]] = defaultdict(list)
    for chain in recording.chains:
        if chain.steps and fold_of[chain.problem_id, chain.sample] != fold:
            by_turn = {step.turn: step.scores[options.score.kind] for step in chain.steps}
            scores[chain.problem_id].append(tuple(map(by_turn.get, range(max(by_turn) + 1))))
    if not scores:
        raise ConfigError(f"{recording.name} has too few problems or chains to calibrate on others")
    coverage: Coverage = options.coverage
    return Calibration(
        version=2,
        fingerprint=Config().calibration_fingerprint(),
        coverage=coverage,
        scores={problem: tuple(turns) for problem, turns in scores.items()},
    )
