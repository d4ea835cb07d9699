"""ATTS where it is faster than the target alone, and the target alone where it is not.

Each chain begins by one or the other, as ``atts.methods.balance`` says, and a chain of ATTS may
go on by the target alone from any of its turns. What a chain went by is told by its turns: those of
ATTS have a decision.
"""

import asyncio
from weakref import WeakKeyDictionary

from pydantic import Field, field_validator

from atts.config import Options
from atts.engines.base import Engine
from atts.methods.atts import METHOD as ATTS
from atts.methods.atts import turns_while
from atts.methods.balance import Arm, Balance, Begun, Move
from atts.methods.chain import OpenChain
from atts.methods.method import Method
from atts.methods.single_model import write_alone
from atts.types import ChainEnd


class AutoOptions(Options):
    """``method=auto``; all keys of ATTS hold for its chains."""

    advised: dict[int, float] = Field(default={})
    """Speedup of these settings over the target alone, by chains in flight, as ``atts advise --auto
    --write`` found it: from 1.15 on all chains begin by ATTS, and below 0.95 none is tried. Empty:
    all begin by the target."""
    alone: dict[int, float] = Field(default={})
    """Tokens a second of the target alone, by chains in flight, as that foretells them; with these
    ATTS ends where it is slower, before the target alone has been measured."""

    @field_validator("advised", "alone")
    @classmethod
    def _positive(cls, given: dict[int, float]) -> dict[int, float]:
        if any(n < 1 or value <= 0.0 for n, value in given.items()):
            raise ValueError("takes numbers in flight, 1 or more, with positive numbers")
        return given


_BALANCES: "WeakKeyDictionary[Engine, Balance]" = WeakKeyDictionary()
"""By the target's engine, which all chains of a run, or of a solver, have in common."""


async def solve(chain: OpenChain) -> ChainEnd:
    """Take turns while that is faster, else have the target write."""
    clock, balance = asyncio.get_running_loop().time, _balance(chain)
    begun = balance.begin(clock())
    arm: Arm = "atts" if begun == "atts" else "target"
    move: Move | None = "rest" if begun == "target" else None
    arms = {arm}
    try:
        while True:
            move = move or balance.move(begun)
            arms.add("atts" if move == "atts" else "target")
            if move == "atts":
                balance.goes(arm, "atts")
                arm, watch = "atts", _Watch(chain, balance, begun)
                end, move = await turns_while(chain, watch.goes_on), watch.next
            else:
                balance.goes(arm, "target")
                arm, began, before = "target", clock(), chain.tokens
                written = write_alone(chain, "target") if move == "rest" else _piece(chain)
                end, move = await written, None
                balance.told("target", chain.tokens - before, began, clock())
            if end is not None:
                if len(arms) == 1:
                    balance.end(arm, chain.tokens)
                return end
    finally:
        balance.leave(arm, begun)


class _Watch:
    """Tells how long the turns of a chain take, and asks what comes next."""

    def __init__(self, chain: OpenChain, balance: Balance, begun: Begun) -> None:
        self._chain, self._balance, self._begun = chain, balance, begun
        self._clock = asyncio.get_running_loop().time
        self._began, self._tokens = self._clock(), chain.tokens
        self.next: Move | None = "atts"

    def goes_on(self) -> bool:
        """Whether another turn follows; asked before each."""
        now, tokens = self._clock(), self._chain.tokens
        if tokens > self._tokens:
            self._balance.told("atts", tokens - self._tokens, self._began, now)
            self._began, self._tokens = now, tokens
            self.next = self._balance.move(self._begun)
        return self.next == "atts"


async def _piece(chain: OpenChain) -> ChainEnd | None:
    """Have the target write as much as a turn may; how the chain ends, if so."""
    turns = chain.config.turns
    most = min(turns.draft_tokens + turns.target_tokens, chain.tokens_left)
    if not most:
        return "turns"
    written = await chain.generate("target", most)
    chain.append(written)
    chain.end_turn()
    if chain.has_concluded:
        return "answer"
    return chain.stopped() if written.finish_reason == "stop" else None


def _balance(chain: OpenChain) -> Balance:
    engine, config = chain.models["target"].engine, chain.config
    if engine not in _BALANCES:
        options, limits, turns = config.of(AutoOptions), config.limits, config.turns
        _BALANCES[engine] = Balance(
            options.advised,
            options.alone,
            min(limits.chains, limits.chains_min),
            turns.draft_tokens + turns.target_tokens,
        )
    return _BALANCES[engine]


METHOD = Method(
    name="auto",
    solve=solve,
    options=AutoOptions,
    scores=True,
    decider=ATTS.decider,
    needs_calibration=True,
    takes_over=True,
    can_follow=True,
)
