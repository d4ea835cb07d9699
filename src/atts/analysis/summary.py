"""The figures of one run, computed from its recorded chains alone."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

from pydantic import Field

from atts.analysis.graded_run import GradedRun
from atts.analysis.tokens import Tokens, count_tokens, tokens_saved
from atts.config import Config, MethodName, TakeOverOptions
from atts.conformal.adaptive import AdaptiveControl, Tracked
from atts.conformal.calibration import Calibration
from atts.conformal.drift import Drift, DriftAlarm
from atts.conformal.factory import tracking_of
from atts.conformal.online import OnlineControl
from atts.conformal.risk import Certificate
from atts.conformal.split import taken_over
from atts.errors import GradingError
from atts.grading.chains import (
    Grades,
    accuracy,
    accuracy_by_problem,
    majority_by_problem,
    mean_over_problems,
    pass_at_k,
)
from atts.grading.intervals import Interval, clustered_interval
from atts.methods import METHODS
from atts.methods.method import GradedChain
from atts.seeds import tie_breaker
from atts.types import Author, Chain, ChainEnd, Problem, Record, Speculation


class TurnRate(Record):
    """How often the target took over in one turn, over all chains."""

    turn: int
    """From 0."""
    decisions: int
    rate: float


class TakeOver(Record):
    """The take-over rate: what was asked for, and what came of it."""

    nominal: float | None
    """None where the method aims at no rate."""
    realised: Interval
    """Take-overs as a share of all decisions, clustered by problem. Where nothing is decided by a
    score: turns in which the target wrote on, as a share of those in which the draft wrote."""
    decisions: int
    passed: int = 0
    """Decisions on segments that passed the gate, unscored."""
    by_turn: tuple[TurnRate, ...]
    tracked: tuple[Tracked, ...] = ()
    """With adaptive and online control: where all decisions and each group stand against the
    guarantee."""


class Summary(Record):
    """The content of ``summary.json``. Intervals are 95 %, clustered by problem."""

    method: MethodName
    digest: str
    """``Config.digest()`` of the run."""
    problems: int
    problems_digest: str
    """The same for two runs over the same problems, whatever their order."""
    samples: int
    chains: int
    """How many are recorded; the figures are over these."""
    expected_chains: int
    failed: int
    not_needed: int = 0
    """Chains that were ended, or not begun, because their problem's answer was settled. They are
    neither right nor wrong: accuracy, votes and shares are over the others."""
    tokens_saved: int = 0
    """What those would have written: each the mean of its problem's other chains, less what it had
    written already. An estimate from below, as the chains that end first are the short ones."""
    ends: dict[ChainEnd, float]
    """Share of the chains by the reason why they ended."""
    not_graded: int = 0
    """Problems without a gold answer. The figures of what is right are over the others."""
    accuracy: Interval | None
    """None where no problem has a gold answer. Per chain; a failed chain or one without an answer
    is wrong, and an ungraded one is not right. Where chains were not needed, the mean of the
    problems' shares."""
    accuracy_by_problem: dict[str, float]
    majority_vote: Interval | None
    majority_by_problem: dict[str, float]
    selected: Interval | None = None
    """Share of the problems for which the answer that the method selects is right: that of the
    best rated chain (``best-of-n``), or the most frequent one (``self-consistency``). None for
    methods that select none."""
    selected_by_problem: dict[str, float] | None = None
    pass_at_k: dict[int, Interval]
    """For each k up to the number of chains that every begun problem has. Empty where chains were
    not needed: which ones ran then depends on what the others answered."""
    invalid: float
    """Share of the chains that gave no answer; failed ones are among them."""
    ungraded: float
    """Share of the chains whose answer could not be compared with the gold answer, mostly
    because it took too long. The accuracy may be higher by as much."""
    take_over: TakeOver | None
    """None where only one model writes to a chain."""
    promised_rate: Interval | None = None
    """With ``split`` control: where the realised rate lies, by what one calibration can know."""
    certificate: Certificate | None = None
    """What vouches for the accuracy, if the run was given anything."""
    drift: Drift | None = None
    """Whether the scores look like those of the calibration; None where nothing was decided
    by p-values."""
    tokens: Tokens
    speculation: dict[Author, Speculation] = Field(default_factory=dict)
    """How the servers' speculative decoding went, where there was any and they tell."""
    tokens_per_chain: float
    """Mean of the tokens written, by either model."""
    wall_seconds: float
    """From the start of the run to the end of its last chain, pauses between resumptions left
    out."""

    @property
    def is_whole(self) -> bool:
        """Whether all of its chains are recorded."""
        return self.chains == self.expected_chains


def summarise(graded_run: GradedRun) -> Summary:
    """Count everything.

    Raises:
        GradingError: there are no chains.
    """
    config, problems, chains, calibration, certificate, _, speculation = graded_run.run
    # In a fixed order, so that the order in which chains finished leaves no trace.
    chains = tuple(sorted(chains, key=lambda chain: chain.key))
    if not any(chain.is_needed for chain in chains):
        raise GradingError("the run has no finished chain yet; start it, or let it go on")
    grades, same = graded_run.graded.grades, graded_run.graded.same
    not_needed = sum(not chain.is_needed for chain in chains)
    every = [grade for of_problem in grades.values() for grade in of_problem]
    golds = {problem.id for problem in problems if problem.is_graded}
    grades = {name: of_problem for name, of_problem in grades.items() if name in golds}
    judged = [grade for of_problem in grades.values() for grade in of_problem]
    right = accuracy_by_problem(grades)
    fewest = min(map(len, grades.values()), default=0)
    majority = majority_by_problem(grades, same)
    selected = _selected(graded_run, majority)
    tokens = count_tokens(config, chains)
    ends = Counter(chain.end for chain in chains)
    return Summary(
        method=config.method,
        digest=config.digest(),
        problems=len(problems),
        problems_digest=_digest(problems),
        samples=config.samples,
        chains=len(chains),
        expected_chains=len(problems) * config.samples,
        failed=ends["failed"],
        not_needed=not_needed,
        tokens_saved=tokens_saved(chains),
        ends={end: count / len(chains) for end, count in sorted(ends.items())},
        not_graded=len(problems) - len(golds),
        accuracy=_accuracy(grades, right, not_needed) if grades else None,
        accuracy_by_problem=right,
        majority_vote=mean_over_problems(majority) if majority else None,
        majority_by_problem=majority,
        selected=mean_over_problems(selected) if selected else None,
        selected_by_problem=selected,
        pass_at_k={} if not_needed else {k: pass_at_k(grades, k) for k in range(1, fewest + 1)},
        invalid=sum(grade.answer is None for grade in every) / len(every),
        ungraded=sum(not grade.graded for grade in judged) / len(judged) if judged else 0.0,
        take_over=_take_over(config, chains),
        promised_rate=promised_rate(calibration, config.take_over, len(problems))
        if calibration and config.take_over.control == "split"
        else None,
        certificate=certificate,
        drift=_drift(config, problems, chains, calibration),
        tokens=tokens,
        speculation=dict(speculation),
        tokens_per_chain=(tokens.draft_written + tokens.target_written) / len(chains),
        wall_seconds=max(chain.done for chain in chains),
    )


def _accuracy(grades: Grades, right: dict[str, float], not_needed: int) -> Interval:
    # Where easy problems were ended early, each problem counts alike all the same.
    if not_needed:
        return clustered_interval(list(right.values()), [1] * len(right))
    return accuracy(grades)


def _selected(graded_run: GradedRun, majority: dict[str, float]) -> dict[str, float] | None:
    """Whether each problem's selected answer is right: 1 or 0, or between where a vote is tied."""
    select = METHODS[graded_run.run.config.method].select
    if select is None:
        return None
    candidates: dict[str, list[GradedChain]] = {name: [] for name in sorted(majority)}
    # By sample, so that of equally good ones the first counts.
    for chain in sorted(graded_run.run.chains, key=lambda chain: chain.key):
        if chain.problem_id not in candidates:  # is not graded
            continue
        answer, outcome, _ = graded_run.verdicts[chain.key]
        candidates[chain.problem_id].append(
            GradedChain(chain, answer is not None, outcome == "right")
        )
    return {
        problem_id: select(of_problem, majority[problem_id])
        for problem_id, of_problem in candidates.items()
    }


def _take_over(config: Config, chains: Sequence[Chain]) -> TakeOver | None:
    if not METHODS[config.method].takes_over:
        return None
    aims = METHODS[config.method].aims_at_rate
    by_problem: dict[str, list[bool]] = defaultdict(list)
    by_turn: dict[int, list[bool]] = defaultdict(list)
    for chain in chains:
        for number, turn in enumerate(chain.turns):
            # Where scores decide, a turn without one (of an imported run, say) decided nothing.
            if turn.take_over is not None and (turn.decision or not aims):
                by_problem[chain.problem_id].append(turn.take_over)
                by_turn[number].append(turn.take_over)
    if not by_problem:
        return None
    return TakeOver(
        nominal=config.take_over.rate if aims else None,
        realised=clustered_interval(
            [sum(decisions) for decisions in by_problem.values()],
            [len(decisions) for decisions in by_problem.values()],
        ),
        decisions=sum(map(len, by_turn.values())),
        passed=sum(each.passed for chain in chains for _, each in chain.decisions),
        by_turn=tuple(
            TurnRate(turn=turn, decisions=len(decisions), rate=sum(decisions) / len(decisions))
            for turn, decisions in sorted(by_turn.items())
        ),
        tracked=_tracked(config, chains),
    )


def _tracked(config: Config, chains: Sequence[Chain]) -> tuple[Tracked, ...]:
    options = config.take_over
    tracking = tracking_of(options)
    if not METHODS[config.method].needs_calibration or tracking is None:
        return ()
    # Only its own state counts, which follows from the recorded p-values: any ranks will do.
    ranks = OnlineControl(options.rate, options.coverage, options.by_turn)
    control = AdaptiveControl(ranks, options.rate, tracking)
    control.restore_all(chains)
    return tuple(control.tracked())


def drift_alarm(
    config: Config, problems: Sequence[Problem], calibration: Calibration | None
) -> DriftAlarm | None:
    """The alarm of a run, which has seen no chain yet; None where a gate lets only some segments be
    scored, and the calibration has the scores of all.
    """
    if calibration and config.take_over.gate.share:
        return None
    seed = config.seed
    return DriftAlarm(
        calibration,
        [problem.id for problem in problems],
        config.samples,
        lambda problem_id, sample, turn: tie_breaker(seed, "run", problem_id, sample, turn),
    )


def _drift(
    config: Config,
    problems: Sequence[Problem],
    chains: Sequence[Chain],
    calibration: Calibration | None,
) -> Drift | None:
    # Ranks among a problem's chains are no p-values of their scores.
    if not METHODS[config.method].needs_calibration:
        return None
    alarm = drift_alarm(config, problems, calibration)
    if alarm is None or not any(any(chain.decisions) for chain in chains):
        return None
    for chain in chains:
        alarm.chain_done(chain)
    return alarm.drift


def _digest(problems: Sequence[Problem]) -> str:
    lines = sorted(problem.model_dump_json() for problem in problems)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def promised_rate(
    calibration: Calibration, options: TakeOverOptions, problems: int | None = None
) -> Interval | None:
    """Where the rate lies that ``split`` control will realise by this calibration (95 %).

    The threshold of each group of turns is a quantile of the calibration's scores. To first order
    a run realises eps - sum_i (x_i - eps y_i) / sum_i y_i, with x_i of the y_i scores of problem i
    beyond their thresholds: what one calibration is off by varies as the share of a sample of as
    many problems does (Woodruff 1952, *Journal of the American Statistical Association* 47, for
    quantiles of clustered samples). So it has that share's interval, clustered by problem.

    Args:
        calibration: what would be decided by.
        options: rate and groups; a budget's refusals come on top.
        problems: how many a run evaluates, if it is known: its own variance is counted in. None:
            the rate over all problems like these.

    Returns:
        None if the calibration is conditional: its problems are those of the run, so that their
        number says nothing.
    """
    if calibration.coverage == "conditional":
        return None
    rate = options.rate
    if rate in (0.0, 1.0):
        return Interval(estimate=rate, low=rate, high=rate)
    taken, decisions = zip(*taken_over(calibration, rate, options.by_turn).values(), strict=True)
    return clustered_interval(taken, decisions, expected=problems)
