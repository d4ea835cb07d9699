"""Tokens of recorded chains: written, scored, accepted, saved, held, and what they cost."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import mean
from typing import NamedTuple

import numpy as np

from atts.config import Config
from atts.types import Author, Chain, Decision, Discarded, Rating, Record, Segment


class Tokens(Record):
    """Tokens of all chains, each in the vocabulary of the model that handled them."""

    draft_written: int = 0
    """Segments that the target replaced are counted: they were written."""
    draft_cut: int = 0
    """Of those written, what mode ``rewind`` took back: ends of segments, and whole ones."""
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
    draft_requests: int = 0
    """Texts that the draft was asked for; those thrown away before their time are not counted."""
    score_requests: int = 0
    """Scores, and ratings, that the target was asked for."""
    target_requests: int = 0
    """Texts that the target was asked for."""


class TokenBudget(Record):
    """What each run may spend on a problem, on average over the problems.

    Costs are in target-equivalent tokens: one for each token that the target writes, and less, or
    as much, for the others.
    """

    tokens: float
    draft_cost: float
    """Of a token that the draft writes: about the ratio of the two models' sizes."""
    score_cost: float
    """Of a token that the target scores. In arithmetic it is 1; in time on a GPU far less."""

    def of(self, tokens: Tokens) -> float:
        """What tokens cost.

        >>> budget = TokenBudget(tokens=100, draft_cost=0.1, score_cost=0.5)
        >>> budget.of(Tokens(draft_written=10, target_written=3, target_scored=4))
        6.0
        """
        return (
            tokens.target_written
            + self.draft_cost * (tokens.draft_written + tokens.draft_discarded)
            + self.score_cost * tokens.target_scored
        )


def count_tokens(config: Config, chains: Iterable[Chain]) -> Tokens:
    """Everything that was written and scored for these chains of a run."""
    written: Counter[Author] = Counter()
    cached: Counter[Author] = Counter()
    requests: Counter[str] = Counter()
    seconds: dict[Author, float] = {"draft": 0.0, "target": 0.0}
    discarded: list[Discarded] = []
    scored = cut = 0
    rewinds = config.take_over.mode == "rewind"
    for chain in chains:
        for turn in chain.turns:
            for segment in turn.segments:
                written[segment.author] += segment.tokens
                cached[segment.author] += segment.cached_tokens
                if not segment.with_former:
                    requests[segment.author] += 1
                    seconds[segment.author] += segment.timings.done - segment.timings.started
                if rewinds and segment.author == "draft":
                    cut += segment.tokens - segment.kept_tokens
            if turn.discarded:
                discarded.append(turn.discarded)
            if turn.decision:
                scored += turn.decision.scored_tokens
                requests["score"] += turn.decision.is_request
                cached["target"] += turn.decision.cached_tokens
            if turn.rating:
                scored += turn.rating.read_tokens
                requests["score"] += 1
                written["target"] += turn.rating.written_tokens
                cached["target"] += turn.rating.cached_tokens
    speed = written["draft"] / seconds["draft"] if seconds["draft"] > 0 else 0.0
    longest = config.turns.draft_bounds[1] * config.turns.draft_segments
    return Tokens(
        draft_written=written["draft"],
        draft_cut=cut,
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
        draft_requests=requests["draft"],
        score_requests=requests["score"],
        target_requests=requests["target"],
    )


def accepted_tokens(chains: Iterable[Chain]) -> dict[Author, int]:
    """Tokens that are part of finished chains."""
    accepted: dict[Author, int] = {"draft": 0, "target": 0}
    for chain in chains:
        if chain.is_finished:
            for author in accepted:
                accepted[author] += chain.kept(author)
    return accepted


def tokens_saved(chains: Sequence[Chain]) -> int:
    """What chains that were not needed would have written; see ``Summary.tokens_saved``."""
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
    return chain.written("draft") + chain.written("target")


class Jump(NamedTuple):
    """Tokens that are there from one moment on; fewer, if negative."""

    time: float
    tokens: float


class Growth(NamedTuple):
    """Tokens that come evenly between two moments."""

    begin: float
    end: float
    tokens: float


def peak_target_tokens(chains: Iterable[Chain]) -> int:
    """The most tokens that the target holds at any time; 0 where it serves no chain.

    The target holds a chain from the moment when it begins to work on the chain's first request
    until the chain ends: between two of its requests too, because it is then that a prefix cache
    must keep the chain, or compute it again. A chain counts with the tokens that the target has of
    it, in the target's own vocabulary:

    - a scored segment from when its scoring begins; what is replaced or cut off until
      it ends (of a cut, the share that it is of the draft's tokens);
    - a text that is rated like one that is scored, and the request for it while it is rated;
    - other text of the draft, from the target's next request (in the draft's tokens);
    - what the target writes as it grows, evenly between its first token and its last.

    Prompts are left out: they are not recorded, and a server keeps one for all chains of a problem.
    All times are put on the run's clock: that of a process starts elsewhere when a run is resumed.
    """
    steps: list[Jump] = []
    growths: list[Growth] = []
    for chain in chains:
        of_chain, grows = _held(chain)
        steps += of_chain
        growths += grows
    if not steps:
        return 0
    return round(_peak(steps, growths))


def _held(chain: Chain) -> tuple[list[Jump], list[Growth]]:
    """What the target comes to hold of a chain, and loses when the chain ends."""
    requests = _requests(chain)
    if not requests:
        return [], []
    # The run's clock is that of the process, moved; a chain makes its first request at once.
    moved = chain.started - requests[0].timings.queued
    steps: list[Jump] = []
    growths: list[Growth] = []
    unseen = 0.0  # tokens of the draft that the target was not sent yet
    last: Segment | None = None
    for request in requests:
        times = request.timings
        begin, first = moved + times.started, moved + times.first_token
        end = max(first, moved + times.done)
        replaced = last is not None and last.author == "draft" and not last.kept
        if isinstance(request, Segment):
            last = request
            if request.author == "draft":
                unseen += request.kept_tokens
                continue
            steps.append(Jump(begin, unseen))
            growths.append(Growth(first, end, request.tokens))
            leaves = 0.0 if request.kept else float(request.tokens)
        elif isinstance(request, Decision):
            steps.append(Jump(begin, request.scored_tokens))
            leaves = request.scored_tokens * _taken_back(last)
        else:
            # What the target has just written itself it has already.
            known = last.tokens if last is not None and last.author == "target" else 0
            new = float(max(0, request.read_tokens - known))
            steps.append(Jump(begin, new))
            leaves = new if replaced else max(0.0, new - unseen)
        steps.append(Jump(end, -leaves))
        unseen = 0.0
    held = sum(step.tokens for step in steps) + sum(growth.tokens for growth in growths)
    if steps:
        # Not before its last request ended: the two clocks are not read at the same instant.
        end = max(chain.done, moved + max(request.timings.done for request in requests))
        steps.append(Jump(end, -held))
    return steps, growths


def _taken_back(segment: Segment | None) -> float:
    """The share of a draft segment that is not in the chain; cuts are told in its own tokens."""
    if segment is None or segment.author == "target":
        return 0.0
    if not segment.kept:
        return 1.0
    return min(1.0, segment.cut_tokens / max(1, segment.tokens))


def _requests(chain: Chain) -> list[Segment | Decision | Rating]:
    """Everything that was asked of a model for a chain: by turn, and by time in a turn."""
    requests: list[Segment | Decision | Rating] = []
    for turn in chain.turns:
        of_turn: list[Segment | Decision | Rating] = [*turn.segments]
        scored = turn.decision if turn.decision and turn.decision.scored_tokens else None
        of_turn += [each for each in (scored, turn.rating) if each]
        requests += sorted(of_turn, key=lambda request: request.timings.started)
    return requests


def _peak(steps: Sequence[Jump], growths: Sequence[Growth]) -> float:
    """The highest value of a sum of steps and ramps: it lies at the end of a ramp or at a step."""
    sudden = np.array(
        [*steps, *((g.end, g.tokens) for g in growths if g.end == g.begin)], dtype=np.float64
    )
    ramps = np.array([g for g in growths if g.end > g.begin], dtype=np.float64).reshape(-1, 3)
    begins, ends, sizes = ramps.T
    slopes = sizes / (ends - begins)
    # At one moment what grows is counted before what leaves.
    times = np.concatenate([sudden[:, 0], begins, ends])
    jumps = np.concatenate([sudden[:, 1], np.zeros(2 * len(ramps))])
    bends = np.concatenate([np.zeros(len(sudden)), slopes, -slopes])
    order = np.lexsort((-jumps, times))
    times, jumps, bends = times[order], jumps[order], bends[order]
    grown = np.concatenate([[0.0], np.cumsum(np.cumsum(bends)[:-1] * np.diff(times))])
    stepped = np.cumsum(jumps)
    # Just before each event, and just after it.
    before = np.concatenate([[0.0], stepped[:-1]])
    return float(np.max(grown + np.maximum(before, stepped)))
