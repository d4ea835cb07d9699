"""The two ends of the scale: the target alone and the draft alone."""

from atts.methods.chain import OpenChain
from atts.methods.method import Method
from atts.types import Author, ChainEnd


async def target_only(chain: OpenChain) -> ChainEnd:
    """The target writes the whole chain."""
    return await write_alone(chain, "target")


async def draft_only(chain: OpenChain) -> ChainEnd:
    """The draft writes the whole chain."""
    return await write_alone(chain, "draft")


async def write_alone(chain: OpenChain, author: Author) -> ChainEnd:
    """One request, as long as all turns of ``atts`` together may get."""
    written = await chain.generate(author, chain.tokens_left)
    chain.append(written)
    if chain.has_concluded:
        return "answer"
    return chain.stopped() if written.is_last else "turns"


TARGET_ONLY = Method(
    name="target-only",
    solve=target_only,
    authors=("target",),
    is_reference=True,
    can_follow=True,
)
DRAFT_ONLY = Method(name="draft-only", solve=draft_only, authors=("draft",), can_follow=True)
