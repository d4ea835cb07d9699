"""No method asks for ever: not where a model writes nothing, and not where a chain gets nowhere."""

import asyncio
from collections.abc import Sequence
from itertools import cycle

import pytest
from fakes import NOW, FakeEngine, byte_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from atts.config import parse_config
from atts.engines.base import Completion, GenerateRequest, Scored, ScoreRequest
from atts.methods import METHODS
from atts.methods.chain import Model
from atts.runs.pool import Clock, run_chains
from atts.runs.setup import set_up
from atts.types import Chain, FinishReason, Problem

Reply = tuple[str, FinishReason]

TOKENS = 24
"""That a chain may have, by any method."""
CHAINS = 2
PROBLEM = Problem(id="p", question="1+1?", answer="2")

EMPTY: tuple[Reply, ...] = (("", "length"), ("", "stop"))
REPLIES: tuple[Reply, ...] = (
    *EMPTY,
    (" ", "length"),
    ("\n\n", "stop"),  # where a method has its models stop for a while
    ("wait", "length"),
    ("check\n\n", "stop"),
    ("</think>", "length"),
)


class RepeatingEngine(FakeEngine):
    """Gives the same replies over and over, and refuses to be asked without end."""

    def __init__(self, replies: Sequence[Reply], most: int) -> None:
        super().__init__()
        self.replies = cycle(replies)
        self.most = most
        self.requests = 0

    def count(self) -> None:
        self.requests += 1
        if self.requests > self.most:
            raise RuntimeError("asked without end")

    async def generate(self, request: GenerateRequest) -> Completion:
        self.count()
        await asyncio.sleep(0)
        text, finish = next(self.replies)
        ids = tuple(text.encode()[: request.sampling.max_tokens])
        return Completion(ids, finish, 0, NOW)

    async def score(self, request: ScoreRequest) -> Scored:
        self.count()
        return await super().score(request)


async def requests_of(
    method: str, draft: Sequence[Reply], target: Sequence[Reply], most: int
) -> int:
    """What the chains of a problem ask for by a method, given what the models reply."""
    config = parse_config(
        {
            "method": method,
            "samples": CHAINS,
            "turns": {"max_turns": 3, "draft_tokens": 4, "target_tokens": 4},
            "specreason": {"token_budget": TOKENS},
            "speculative_thinking": {
                "always_ask": True,
                "think_words": "So ",
                "recap_after": 1,
            },
        },
        "a test",
    )
    engines = {"draft": RepeatingEngine(draft, most), "target": RepeatingEngine(target, most)}
    models = {
        author: Model(engines[author], byte_tokenizer()) for author in METHODS[method].authors
    }
    setup = set_up(config, [PROBLEM])
    done: list[Chain] = []
    groups = setup.groups(lambda *_: models)
    await run_chains(groups, setup.method, CHAINS, Clock(), done.append)
    assert [chain.error for chain in done] == [None] * CHAINS
    return sum(engine.requests for engine in engines.values())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("draft", EMPTY)
@pytest.mark.parametrize("target", EMPTY)
async def test_a_chain_ends_where_the_models_write_nothing(
    method: str, draft: Reply, target: Reply
) -> None:
    assert await requests_of(method, [draft], [target], most=100) <= 4 * CHAINS


@pytest.mark.parametrize("method", METHODS)
@given(
    draft=st.lists(st.sampled_from(REPLIES), min_size=1, max_size=4),
    target=st.lists(st.sampled_from(REPLIES), min_size=1, max_size=4),
)
@settings(max_examples=15)
def test_a_chain_ends_whatever_the_models_write(
    method: str, draft: list[Reply], target: list[Reply]
) -> None:
    # At most so many requests for a token of the chain, of which it may have so many.
    most = 6 * (TOKENS + 1) * CHAINS
    assert asyncio.run(requests_of(method, draft, target, most)) <= most
