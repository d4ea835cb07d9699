"""Best of N: of a problem's independent chains, that which the target rates best is selected."""

import math
from collections.abc import Sequence

from atts.config import Config, Options
from atts.methods.chain import OpenChain
from atts.methods.method import GradedChain, Method
from atts.methods.single_model import write_alone
from atts.types import Author, ChainEnd, Rating


class BestOfNOptions(Options):
    """``method=best-of-n``."""

    author: Author = "draft"
    """Who writes the chains; the target rates them in either case."""


async def best_of_n(chain: OpenChain) -> ChainEnd:
    """One model writes the whole chain, and the target rates it by its mean log-likelihood.

    Of a problem's N = ``samples`` chains that have an answer, that of the best rated is selected.

    Raises:
        EngineError: the target gave no usable log-probabilities.
    """
    end = await write_alone(chain, chain.config.of(BestOfNOptions).author)
    ids, start = chain.token_ids["target"], chain.prompt_tokens["target"]
    if len(ids) > start:
        scored = await chain.score(ids, start, "rate")
        chain.rating = Rating(
            value=float(scored.logprobs.mean()),
            read_tokens=len(ids) - start,
            cached_tokens=scored.cached_tokens,
            timings=scored.timings,
        )
    chain.end_turn()
    return end


def best_rated(chains: Sequence[GradedChain], majority: float) -> float:  # noqa: ARG001
    """Whether the best rated answer is right; the first of several, and wrong where there is none.

    Nothing is drawn, and the majority does not matter.
    """
    best, right = -math.inf, False
    for chain, answered, correct in chains:
        rating = chain.turns[-1].rating if chain.turns else None
        if rating and answered and rating.value > best:
            best, right = rating.value, correct
    return float(right)


def _needs(config: Config) -> tuple[Author, ...]:
    alone = config.of(BestOfNOptions).author == "target"
    return ("target",) if alone else ("draft", "target")


METHOD = Method(
    name="best-of-n",
    solve=best_of_n,
    scores=True,
    needs=_needs,
    options=BestOfNOptions,
    select=best_rated,
    needs_all_chains=True,
)
