"""Methods of independent chains, of whose answers one is selected: by a score, or by a vote."""

from atts.methods.chain import OpenChain
from atts.methods.single_model import write_alone
from atts.types import ChainEnd


async def best_of_n(chain: OpenChain) -> ChainEnd:
    """One model writes the whole chain, and the target rates it by its mean log-likelihood.

    Of a problem's N = ``samples`` chains that have an answer, that of the best rated is selected.
    """
    end = await write_alone(chain, chain.config.best_of_n.author)
    await chain.rate_likelihood()
    chain.end_turn()
    return end


async def self_consistency(chain: OpenChain) -> ChainEnd:
    """One model writes the whole chain; the most frequent answer is selected (arXiv 2203.11171)."""
    end = await write_alone(chain, chain.config.self_consistency.author)
    chain.end_turn()
    return end
