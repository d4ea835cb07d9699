"""Tokens of recorded chains: written, scored, accepted, saved, and what they cost."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from statistics import mean

from atts.config import Config
from atts.types import Author, Chain, Discarded, Record


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
    _, longest = config.turns.draft_bounds
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


def accepted_tokens(chains: Iterable[Chain]) -> dict[Author, int]:
    """Tokens that are part of finished chains."""
    accepted: dict[Author, int] = {"draft": 0, "target": 0}
    for chain in chains:
        for segment in chain.segments if chain.is_finished else ():
            accepted[segment.author] += segment.kept_tokens
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
