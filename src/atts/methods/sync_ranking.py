"""Synchronous ranking, the counterpart of ATTS (arXiv 2509.15148, section 3) with a barrier.

Every turn waits for all open chains of the problem, and the worst of them are taken over.
"""

from atts.methods.atts import take_turns
from atts.methods.chain import OpenChain
from atts.types import ChainEnd


async def sync_ranking(chain: OpenChain) -> ChainEnd:
    """The turns of ``atts``, with a wait for the others in place of a decision by itself."""
    with chain.waited_for():
        return await take_turns(chain, chain.rank)
