"""Tuning: the cheapest take-over rate whose accuracy loss is certified."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from atts.analysis.graded_run import GradedRun
from atts.config import Config, ProblemsOptions, StopOptions
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
from atts.grading.chains import majority_by_problem, majority_vote
from atts.grading.grader import Grader, VerdictCache
from atts.grading.intervals import Interval, ratio_interval
from atts.methods import METHODS
from atts.methods.chain import Models
from atts.problems import calibration_problems, load_problems
from atts.runs.jobs import calibrate, make_run
from atts.runs.observer import Observer
from atts.runs.setup import Setup, prepare_calibration, set_up
from atts.store.contents import CALIBRATION, CERTIFICATE
from atts.types import Problem, Record

TUNING = "tuning.json"


class RatePoint(Record):
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
    target: RatePoint
    points: tuple[RatePoint, ...]
    """From the safest rate, the highest, down."""

    @property
    def chosen(self) -> RatePoint | None:
        """The cheapest rate that is certified."""
        return next((point for point in reversed(self.points) if point.certified), None)


Stage = Callable[[str], Observer | None]
"""The observer of a run of the tuning, by the run's name."""


class TuningPlan(NamedTuple):
    """A tuning whose inputs are known to be good."""

    config: Config
    calibrating: Sequence[Problem]
    certifying: Sequence[Problem]


def prepare_tuning(
    config: Config, rates: Sequence[float], limit: float, confidence: float
) -> TuningPlan:
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
    if bare := [problem.id for problem in problems if not problem.is_graded]:
        raise ConfigError(
            f"{len(bare)} of the calibration problems, such as {bare[0]}, have no gold answer, and "
            "without one no loss can be counted: leave them out"
        )
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
    return TuningPlan(config, problems[::2] if marginal else problems, certifying)


async def tune(
    plan: TuningPlan,
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
    options, loaded = [], []
    for name, problems in (("calibrating", plan.calibrating), ("certifying", plan.certifying)):
        atomic_write(directory / f"{name}.jsonl", to_jsonl(problems))
        options.append(ProblemsOptions(source=str(directory / f"{name}.jsonl"), count=None))
        loaded.append(load_problems(options[-1]))
    calibration_options = plan.config.calibration.model_copy(update={"problems": options[0]})
    base = plan.config.model_copy(
        update={"problems": options[1], "calibration": calibration_options}
    )
    ordered = sorted(set(rates), reverse=True)
    tried: dict[float, GradedRun] = {}
    setups: dict[float, Setup] = {}
    with Grader(cache=VerdictCache()) as grader:

        async def made(setup: Setup, name: str) -> GradedRun:
            run = await make_run(setup, models, directory / name, grader, stage(name))
            if failed := run.summary.failed:
                raise EngineError(
                    f"{failed} of {run.summary.chains} chains of {directory / name} failed, so "
                    "losses cannot be counted; their errors are in its chains.jsonl. The same "
                    "command tries them again"
                )
            return run.graded

        alone = base.model_copy(update={"method": "target-only"})
        reference = await made(set_up(alone, loaded[1]), "target-only")
        for rate in ordered:
            folder = directory / f"calibration-{rate:g}"
            take_over = base.take_over.model_copy(
                update={"rate": rate, "calibration": folder / CALIBRATION, "certificate": None}
            )
            config = base.model_copy(update={"take_over": take_over})
            conditional = take_over.coverage == "conditional"
            calibrating = prepare_calibration(config, loaded[1] if conditional else loaded[0])
            calibration = await calibrate(
                calibrating, models, folder, stage(f"calibration {rate:g}")
            )
            setups[rate] = set_up(config, loaded[1], calibration)
            tried[rate] = await made(setups[rate], f"rate-{rate:g}")
    tuning = certify(reference, tried, limit, confidence)
    atomic_write(directory / TUNING, tuning.model_dump_json(indent=2) + "\n")
    if tuning.chosen is None:
        (directory / CERTIFICATE).unlink(missing_ok=True)
        return tuning, None
    certificate = _certificate(setups[tuning.chosen.rate or 0.0], tuning, tuning.chosen)
    atomic_write(directory / CERTIFICATE, certificate.to_json())
    return tuning, certificate


def certify(
    reference: GradedRun, tried: Mapping[float, GradedRun], limit: float, confidence: float
) -> Tuning:
    """Count the losses of each rate, from the highest down, and test them in this order.

    A problem is lost where the majority vote of the target alone is right and that of the rate is
    not; where a vote is tied, what counts as a loss is what makes more of them. The accuracy falls
    by no more than the share of lost problems: problems that are won do not count against it.

    Args:
        reference: the run of the target alone.
        tried: rate -> its run, over the same problems.
        limit: the largest share of problems that may be lost.
        confidence: of the certificate.
    """
    rates = sorted(tried, reverse=True)
    alone = _votes(reference)
    losses = []
    for rate in rates:
        votes = _votes(tried[rate])
        losses.append(sum(alone[name] > 0.0 and votes[name] < 1.0 for name in alone))
    certified = fixed_sequence(losses, len(alone), limit, 1.0 - confidence)
    points = tuple(
        _point(tried[rate], rate, lost, limit, index < certified)
        for index, (rate, lost) in enumerate(zip(rates, losses, strict=True))
    )
    return Tuning(
        limit=limit,
        confidence=confidence,
        problems=len(alone),
        target=_point(reference, None, 0, limit, certified=True),
        points=points,
    )


def _votes(run: GradedRun) -> dict[str, float]:
    """Problem id -> 1 if the majority vote is right, 0 if not, between where it is tied."""
    return majority_by_problem(run.graded.grades, run.graded.same)


def _point(
    run: GradedRun, rate: float | None, losses: int, limit: float, certified: bool
) -> RatePoint:
    grades = run.graded.grades
    written = dict.fromkeys(grades, 0)
    for chain in run.run.chains:
        written[chain.problem_id] += chain.written("target")
    return RatePoint(
        rate=rate,
        majority_vote=majority_vote(grades, run.graded.same),
        target_tokens=ratio_interval(
            list(written.values()), [len(grades[name]) for name in written]
        ),
        losses=losses,
        p_value=binomial_p_value(losses, len(grades), limit),
        certified=certified,
    )


def _certificate(setup: Setup, tuning: Tuning, point: RatePoint) -> Certificate:
    if setup.calibration is None:
        raise ValueError("only a rate that decides by a calibration is certified")
    return Certificate(
        version=1,
        fingerprint=certificate_fingerprint(setup.config),
        calibration=calibration_digest(setup.calibration),
        rate=setup.config.take_over.rate,
        limit=tuning.limit,
        confidence=tuning.confidence,
        losses=point.losses,
        problem_ids=tuple(problem.id for problem in setup.problems),
    )
