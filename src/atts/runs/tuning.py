"""Tuning: the cheapest take-over rate whose accuracy loss is certified."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from atts.config import Config, ProblemsOptions, StopOptions
from atts.conformal.calibration import Calibration
from atts.conformal.risk import (
    Certificate,
    binomial_p_value,
    calibration_digest,
    certificate_fingerprint,
    fixed_sequence,
    problems_needed,
)
from atts.errors import ConfigError, EngineError
from atts.files import atomic_write, to_jsonl
from atts.grading.chains import GradedChains, grade_chains
from atts.grading.grader import Grader, VerdictCache
from atts.grading.metrics import Interval, majority_by_problem, majority_vote
from atts.methods import METHODS
from atts.methods.chain import Models
from atts.problems import calibration_problems, load_problems
from atts.runs import jobs
from atts.runs.jobs import Observer
from atts.store.run_directory import CALIBRATION, CERTIFICATE, read_run
from atts.types import Chain, Problem, Record

TUNING = "tuning.json"


class Point(Record):
    """One take-over rate on the frontier. Intervals are 95 %, clustered by problem."""

    rate: float | None
    """None is the target alone."""
    majority_vote: Interval
    target_tokens: Interval
    """Tokens that the target wrote, mean per chain."""
    losses: int
    """Problems that the target alone got right by majority vote, and this rate not."""
    p_value: float
    """Of the hypothesis that the true loss exceeds the limit."""
    certified: bool


class Tuning(Record):
    """What ``atts tune`` found: the content of ``tuning.json``."""

    limit: float
    confidence: float
    problems: int
    """That the losses are counted on."""
    target: Point
    points: tuple[Point, ...]
    """From the safest rate, the highest, down."""

    @property
    def chosen(self) -> Point | None:
        """The cheapest rate that is certified."""
        return next((point for point in reversed(self.points) if point.certified), None)


Stage = Callable[[str], Observer | None]
"""The observer of a run of the tuning, by the run's name."""


class Plan(NamedTuple):
    """A tuning whose inputs are known to be good."""

    config: Config
    calibrating: Sequence[Problem]
    certifying: Sequence[Problem]


def prepare_tuning(config: Config, rates: Sequence[float], limit: float, confidence: float) -> Plan:
    """Check everything that tuning needs, before any model is loaded.

    Marginal control is calibrated on every second of the labelled problems and certified on the
    others, so that the losses are independent of the calibration. Conditional control is calibrated
    on other chains of the problems themselves.

    Raises:
        ProblemError: the problems cannot be read.
        ConfigError: the control or the stop options cannot be certified, or the problems are too
            few.
    """
    options = config.take_over
    decides = METHODS[config.method].needs_calibration
    if not decides or options.control != "split" or options.budget.in_flight:
        raise ConfigError(
            "only method=atts with take_over.control=split, and no take_over.budget.in_flight, can "
            "be certified: with the others, what happens to a problem depends on the other "
            "problems, so that their losses are not independent"
        )
    if config.stop != StopOptions(repeating=False):
        raise ConfigError(
            f"stop.when={config.stop.when} and stop.repeating={str(config.stop.repeating).lower()} "
            "cannot be certified: a certificate is about the votes of all chains, each to its end, "
            "and a run with other stop options is refused under it. Leave out all of stop "
            "here, and set stop.repeating=false in the run"
        )
    if not rates or not all(0.0 < rate <= 1.0 for rate in rates):
        raise ConfigError("the take-over rates to try must lie in (0, 1]")
    if not 0.0 < limit < 1.0 or not 0.0 < confidence < 1.0:
        raise ConfigError("the loss and the confidence must lie in (0, 1)")
    problems = load_problems(calibration_problems(config))
    marginal = options.coverage == "marginal"
    certifying = problems[1::2] if marginal else problems
    needed = problems_needed(limit, 1.0 - confidence)
    if needed is None or len(certifying) < needed:
        raise ConfigError(
            f"{len(certifying)} problems are too few to certify a loss of at most {limit:g} with "
            f"confidence {confidence:g}: even without a single loss it takes {needed}"
            + (
                f", and as many to calibrate on, so {2 * needed} in calibration.problems"
                if needed and marginal
                else " in calibration.problems"
            )
            + "; use more problems, a larger --loss, or a smaller --confidence"
        )
    return Plan(config, problems[::2] if marginal else problems, certifying)


async def tune(
    plan: Plan,
    models: Models,
    directory: Path,
    rates: Sequence[float],
    limit: float,
    confidence: float,
    stage: Stage,
) -> tuple[Tuning, Certificate | None]:
    """Run the target alone and each rate, those that ``directory`` still lacks; then certify.

    Raises:
        StoreError, ConfigError: see ``atts.runs.jobs.run``.
        EngineError: chains failed, so losses cannot be counted.
    """
    halves = {}
    for name, problems in (("calibrating", plan.calibrating), ("certifying", plan.certifying)):
        atomic_write(directory / f"{name}.jsonl", to_jsonl(problems))
        halves[name] = ProblemsOptions(source=str(directory / f"{name}.jsonl"), count=None)
    base = plan.config.model_copy(
        update={
            "problems": halves["certifying"],
            "calibration": plan.config.calibration.model_copy(
                update={"problems": halves["calibrating"]}
            ),
        }
    )
    alone = base.model_copy(update={"method": "target-only"})
    reference = await _chains(alone, models, directory / "target-only", stage)
    ordered = sorted(set(rates), reverse=True)
    tried, calibrations, configs = [], [], []
    for rate in ordered:
        folder = directory / f"calibration-{rate:g}"
        take_over = base.take_over.model_copy(
            update={"rate": rate, "calibration": folder / CALIBRATION, "certificate": None}
        )
        config = base.model_copy(update={"take_over": take_over})
        calibrations.append(
            await jobs.calibrate(config, models, folder, stage(f"calibration {rate:g}"))
        )
        tried.append(await _chains(config, models, directory / f"rate-{rate:g}", stage))
        configs.append(config)
    tuning = certify(
        plan.certifying, reference, dict(zip(ordered, tried, strict=True)), limit, confidence
    )
    atomic_write(directory / TUNING, tuning.model_dump_json(indent=2) + "\n")
    if tuning.chosen is None:
        (directory / CERTIFICATE).unlink(missing_ok=True)
        return tuning, None
    index = ordered.index(tuning.chosen.rate or 0.0)
    certificate = _certificate(configs[index], calibrations[index], plan, tuning, tuning.chosen)
    atomic_write(directory / CERTIFICATE, certificate.to_json())
    return tuning, certificate


def certify(
    problems: Sequence[Problem],
    reference: Sequence[Chain],
    tried: Mapping[float, Sequence[Chain]],
    limit: float,
    confidence: float,
) -> Tuning:
    """Count the losses of each rate, from the highest down, and test them in this order.

    A problem is lost where the majority vote of the target alone is right and that of the rate is
    not; where a vote is tied, what counts as a loss is what makes more of them. The accuracy falls
    by no more than the share of lost problems: problems that are won do not count against it.
    """
    rates = sorted(tried, reverse=True)
    alone = _votes(problems, reference)
    losses = []
    for rate in rates:
        votes = _votes(problems, tried[rate])
        losses.append(sum(alone[name] > 0.0 and votes[name] < 1.0 for name in alone))
    certified = fixed_sequence(losses, len(alone), limit, 1.0 - confidence)
    points = tuple(
        _point(problems, tried[rate], rate, lost, limit, index < certified)
        for index, (rate, lost) in enumerate(zip(rates, losses, strict=True))
    )
    return Tuning(
        limit=limit,
        confidence=confidence,
        problems=len(alone),
        target=_point(problems, reference, None, 0, limit, certified=True),
        points=points,
    )


async def _chains(config: Config, models: Models, directory: Path, stage: Stage) -> Sequence[Chain]:
    summary = await jobs.run(config, models, directory, stage(directory.name), retry_failed=True)
    if summary.failed:
        raise EngineError(
            f"{summary.failed} of {summary.chains} chains of {directory} failed, so losses cannot "
            "be counted; their errors are in its chains.jsonl. The same command tries them again"
        )
    return read_run(directory).chains


def _votes(problems: Sequence[Problem], chains: Sequence[Chain]) -> dict[str, float]:
    """Problem id -> 1 if the majority vote is right, 0 if not, between where it is tied."""
    graded = _graded(problems, chains)
    return majority_by_problem(graded.grades, graded.same)


def _graded(problems: Sequence[Problem], chains: Sequence[Chain]) -> GradedChains:
    with Grader(cache=VerdictCache()) as grader:
        return grade_chains(problems, chains, grader)


def _point(
    problems: Sequence[Problem],
    chains: Sequence[Chain],
    rate: float | None,
    losses: int,
    limit: float,
    certified: bool,
) -> Point:
    graded = _graded(problems, chains)
    grades = graded.grades
    written = dict.fromkeys(grades, 0)
    for chain in chains:
        written[chain.problem_id] += chain.written("target")
    tokens = np.array(list(written.values()))
    return Point(
        rate=rate,
        majority_vote=majority_vote(grades, graded.same),
        target_tokens=_mean_interval(tokens, [len(grades[name]) for name in written]),
        losses=losses,
        p_value=binomial_p_value(losses, len(grades), limit),
        certified=certified,
    )


def _mean_interval(totals: ArrayLike, counts: ArrayLike) -> Interval:
    """A mean with its percentile bootstrap over problems: 2,000 draws, 95 %, fixed seed."""
    tops, bottoms = np.asarray(totals), np.asarray(counts)
    draws = np.random.default_rng(0).multinomial(
        len(tops), np.full(len(tops), 1.0 / len(tops)), size=2000
    )
    low, high = np.quantile((draws @ tops) / (draws @ bottoms), [0.025, 0.975])
    return Interval(estimate=float(tops.sum() / bottoms.sum()), low=float(low), high=float(high))


def _certificate(
    config: Config, calibration: Calibration, plan: Plan, tuning: Tuning, point: Point
) -> Certificate:
    return Certificate(
        version=1,
        fingerprint=certificate_fingerprint(config),
        calibration=calibration_digest(calibration),
        rate=config.take_over.rate,
        limit=tuning.limit,
        confidence=tuning.confidence,
        losses=point.losses,
        problem_ids=tuple(problem.id for problem in plan.certifying),
    )
