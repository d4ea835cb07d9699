"""The figures of one run, computed from its recorded chains alone."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean

from atts.config import Config, MethodName
from atts.conformal.adaptive import AdaptiveControl, Tracked
from atts.conformal.calibration import Calibration
from atts.conformal.drift import Drift, DriftAlarm
from atts.conformal.online import OnlineControl
from atts.conformal.risk import Certificate
from atts.errors import GradingError
from atts.grading.cache import VerdictCache
from atts.grading.chains import grade_chains
from atts.grading.grader import Grader
from atts.grading.metrics import (
    Grades,
    Interval,
    accuracy,
    accuracy_by_problem,
    clustered_interval,
    majority_by_problem,
    mean_over_problems,
    pass_at_k,
)
from atts.methods import METHODS
from atts.seeds import tie_breaker
from atts.types import Author, Chain, ChainEnd, ChainKey, Discarded, Problem, Record


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
    by_turn: tuple[TurnRate, ...]
    tracked: tuple[Tracked, ...] = ()
    """With adaptive control: where all decisions and each group stand against the guarantee."""


class Tokens(Record):
    """Tokens of all chains, each in the vocabulary of the model that handled them."""

    draft_written: int = 0
    """Segments that the target replaced are counted: they were written."""
    draft_discarded: int = 0
    """What the draft wrote ahead of a decision that then went the other way; not among those
    written. Of an aborted request: the seconds that it ran, or waited to, times the mean speed of
    the draft's requests, so rather too many than too few."""
    target_written: int = 0
    target_scored: int = 0
    """Read in order to decide or to rate; a rating that is asked for in words counts its request
    too."""
    draft_cached: int = 0
    """Prefix tokens that a request found in the key-value cache, summed over requests."""
    target_cached: int = 0


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
    accuracy: Interval
    """Per chain; a failed chain or one without an answer is wrong, and an ungraded one is not
    right. Where chains were not needed, the mean of the problems' shares."""
    accuracy_by_problem: dict[str, float]
    majority_vote: Interval
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
    certificate: Certificate | None = None
    """What vouches for the accuracy, if the run was given anything."""
    drift: Drift | None = None
    """Whether the scores look like those of the calibration; None where nothing was decided
    by p-values."""
    tokens: Tokens
    tokens_per_chain: float
    """Mean of the tokens written, by either model."""
    wall_seconds: float
    """From the start of the run to the end of its last chain, pauses between resumptions left
    out."""


def summarise(
    config: Config,
    problems: Sequence[Problem],
    chains: Iterable[Chain],
    calibration: Calibration | None = None,
    certificate: Certificate | None = None,
    grader: Grader | None = None,
    judged: Mapping[ChainKey, bool | None] | None = None,
) -> Summary:
    """Grade the chains and count everything.

    ``calibration`` is what the run decided by and ``certificate`` what vouches for it, if any.
    ``grader`` compares the answers (none: one that lasts for this call and uses the user's cache);
    ``judged`` holds verdicts that stand in place of its own, by chain.

    Raises:
        GradingError: there are no chains.
    """
    # In a fixed order, so that the order in which chains finished leaves no trace.
    chains = sorted(chains, key=lambda chain: chain.key)
    if not any(chain.is_needed for chain in chains):
        raise GradingError("the run has no finished chain yet; start it, or let it go on")
    if grader is None:
        with Grader(cache=VerdictCache()) as own:
            graded = grade_chains(problems, chains, own, judged)
    else:
        graded = grade_chains(problems, chains, grader, judged)
    grades = graded.grades
    needed = [chain for chain in chains if chain.is_needed]
    not_needed = len(chains) - len(needed)
    right = accuracy_by_problem(grades)
    every = [grade for of_problem in grades.values() for grade in of_problem]
    fewest = min(map(len, grades.values()))
    majority = majority_by_problem(grades, graded.same)
    selected = _selected(config, needed, grades, majority)
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
        tokens_saved=_tokens_saved(chains),
        ends={end: count / len(chains) for end, count in sorted(ends.items())},
        # Where easy problems were ended early, each problem counts alike all the same.
        accuracy=clustered_interval(list(right.values()), [1] * len(right))
        if not_needed
        else accuracy(grades),
        accuracy_by_problem=right,
        majority_vote=mean_over_problems(majority),
        majority_by_problem=majority,
        selected=None if selected is None else mean_over_problems(selected),
        selected_by_problem=selected,
        pass_at_k={} if not_needed else {k: pass_at_k(grades, k) for k in range(1, fewest + 1)},
        invalid=sum(grade.answer is None for grade in every) / len(every),
        ungraded=sum(not grade.graded for grade in every) / len(every),
        take_over=_take_over(config, chains),
        certificate=certificate,
        drift=_drift(config, problems, chains, calibration),
        tokens=tokens,
        tokens_per_chain=(tokens.draft_written + tokens.target_written) / len(chains),
        wall_seconds=max(chain.done for chain in chains),
    )


def _selected(
    config: Config, chains: Sequence[Chain], grades: Grades, majority: dict[str, float]
) -> dict[str, float] | None:
    """Whether each problem's selected answer is right: 1 or 0, or between where a vote is tied."""
    if config.method == "self-consistency":
        return majority
    if config.method != "best-of-n":
        return None
    # A problem of which no chain has an answer counts as wrong.
    best = dict.fromkeys(sorted(grades), (-math.inf, False))
    in_order = {problem_id: iter(of_problem) for problem_id, of_problem in grades.items()}
    for chain in chains:
        grade = next(in_order[chain.problem_id])
        rating = chain.turns[-1].rating if chain.turns else None
        if rating and grade.answer is not None and rating.value > best[chain.problem_id][0]:
            best[chain.problem_id] = (rating.value, grade.correct)
    return {problem_id: float(correct) for problem_id, (_, correct) in best.items()}


def _take_over(config: Config, chains: Sequence[Chain]) -> TakeOver | None:
    if not METHODS[config.method].takes_over:
        return None
    aims = config.method in ("atts", "sync-ranking")
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
        by_turn=tuple(
            TurnRate(turn=turn, decisions=len(decisions), rate=sum(decisions) / len(decisions))
            for turn, decisions in sorted(by_turn.items())
        ),
        tracked=_tracked(config, chains),
    )


def _tracked(config: Config, chains: Sequence[Chain]) -> tuple[Tracked, ...]:
    options = config.take_over
    if config.method != "atts" or options.control != "adaptive":
        return ()
    # Only its own state counts, which follows from the recorded p-values: any ranks will do.
    ranks = OnlineControl(options.rate, options.coverage, options.by_turn)
    control = AdaptiveControl(ranks, options.rate, options.adaptive)
    control.restore_all(chains)
    return tuple(control.tracked())


def drift_alarm(
    config: Config, problems: Sequence[Problem], calibration: Calibration | None
) -> DriftAlarm:
    """The alarm of a run, which has seen no chain yet."""
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
    if config.method != "atts":  # ranks among a problem's chains are no p-values of their scores
        return None
    alarm = drift_alarm(config, problems, calibration)
    if not any(turn.decision for chain in chains for turn in chain.turns):
        return None
    for chain in chains:
        alarm.chain_done(chain)
    return alarm.drift


def count_tokens(config: Config, chains: Iterable[Chain]) -> Tokens:
    """Everything that was written and scored for these chains of a run."""
    written: Counter[Author] = Counter()
    cached: Counter[Author] = Counter()
    seconds: dict[Author, float] = {"draft": 0.0, "target": 0.0}
    discarded: list[Discarded] = []
    scored = 0
    for chain in chains:
        for turn in chain.turns:
            for segment in turn.segments:
                written[segment.author] += segment.tokens
                cached[segment.author] += segment.cached_tokens
                seconds[segment.author] += segment.timings.done - segment.timings.started
            if turn.discarded:
                discarded.append(turn.discarded)
            if turn.decision:
                scored += turn.decision.scored_tokens
                cached["target"] += turn.decision.cached_tokens
            if turn.rating:
                scored += turn.rating.read_tokens
                written["target"] += turn.rating.written_tokens
                cached["target"] += turn.rating.cached_tokens
    speed = written["draft"] / seconds["draft"] if seconds["draft"] > 0 else 0.0
    longest = config.turns.draft_tokens
    return Tokens(
        draft_written=written["draft"],
        draft_discarded=round(
            sum(
                min(speed * each.seconds, longest) if each.tokens is None else each.tokens
                for each in discarded
            )
        ),
        target_written=written["target"],
        target_scored=scored,
        draft_cached=cached["draft"],
        target_cached=cached["target"],
    )


def _tokens_saved(chains: Sequence[Chain]) -> int:
    whole: dict[str, list[int]] = defaultdict(list)
    for chain in chains:
        if chain.is_needed:
            whole[chain.problem_id].append(_written(chain))
    every = [written for of_problem in whole.values() for written in of_problem]
    return round(
        sum(
            max(mean(whole[chain.problem_id] or every) - _written(chain), 0.0)
            for chain in chains
            if not chain.is_needed
        )
    )


def _written(chain: Chain) -> int:
    return sum(segment.tokens for turn in chain.turns for segment in turn.segments)


def _digest(problems: Sequence[Problem]) -> str:
    lines = sorted(problem.model_dump_json() for problem in problems)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
