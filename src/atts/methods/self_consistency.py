"""Self-consistency (arXiv 2203.11171): independent chains, of whose answers a vote selects one."""

from collections.abc import Sequence

from atts.config import Config, Options
from atts.methods.chain import OpenChain
from atts.methods.method import GradedChain, Method
from atts.methods.single_model import write_alone
from atts.types import Author, ChainEnd


class SelfConsistencyOptions(Options):
    """``method=self-consistency``."""

    author: Author = "target"
    """Who writes the chains; the other model is not needed."""


async def self_consistency(chain: OpenChain) -> ChainEnd:
    """One model writes the whole chain; the most frequent answer is selected."""
    end = await write_alone(chain, chain.config.of(SelfConsistencyOptions).author)
    chain.end_turn()
    return end


def most_frequent(chains: Sequence[GradedChain], majority: float) -> float:  # noqa: ARG001
    """Whether the most frequent answer is right, or the share by which it is where votes tie."""
    return majority


def _needs(config: Config) -> tuple[Author, ...]:
    return (config.of(SelfConsistencyOptions).author,)


METHOD = Method(
    name="self-consistency",
    solve=self_consistency,
    needs=_needs,
    options=SelfConsistencyOptions,
    select=most_frequent,
)
