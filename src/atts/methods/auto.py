"""ATTS where it is faster than the target alone, and the target alone where it is not.

Each chain begins by one or the other, as ``atts.methods.balance`` says, and a chain of ATTS may
go on by the target alone from any of its turns. What a chain went by is told by its turns: those of
ATTS have a decision.
"""

import asyncio
from weakref import WeakKeyDictionary

from pydantic import Field, field_validator

from atts.config import Config, Options
from atts.engines.base import Engine
from atts.methods.atts import METHOD as ATTS
from atts.methods.atts import turns_while
from atts.methods.balance import Arm, Balance, Begun, Move
from atts.methods.chain import OpenChain
from atts.methods.decider import Decider, Siblings
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
    whole_problems: bool = False
    """All chains of a problem go by ATTS to their ends, or all by the target alone, as is chosen
    when its first begins: the certificate of ``atts tune`` then holds, and less is switched."""

    @field_validator("advised", "alone")
    @classmethod
    def _positive(cls, given: dict[int, float]) -> dict[int, float]:
        if any(n < 1 or value <= 0.0 for n, value in given.items()):
            raise ValueError("takes numbers in flight, 1 or more, with positive numbers")
        return given


_BALANCES: "WeakKeyDictionary[Engine, Balance]" = WeakKeyDictionary()
"""By the target's engine, which all chains of a run, or of a solver, have in common."""
_WENT: "WeakKeyDictionary[Decider, Arm]" = WeakKeyDictionary()
"""What the chains of a problem go by, by what decides for them; with ``whole_problems`` alone."""


async def solve(chain: OpenChain) -> ChainEnd:
    """Take turns while that is faster, else have the target write."""
    clock, balance = asyncio.get_running_loop().time, _balance(chain)
    begun = balance.begin(clock(), _WENT.get(chain.decider) if chain.decider else None)
    arm: Arm = "atts" if begun == "atts" else "target"
    if chain.decider and _by_problem(chain.config):
        _WENT[chain.decider] = arm
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
            options.whole_problems,
        )
    return _BALANCES[engine]


def _by_problem(config: Config) -> bool:
    return config.of(AutoOptions).whole_problems


def _decider(siblings: Siblings) -> Decider:
    """That of ATTS; the rest of a problem's chains go by what those on record went by."""
    if ATTS.decider is None:
        raise ValueError("there is nothing to decide by")
    decider = ATTS.decider(siblings)
    ended = [chain for chain in siblings.finished if chain.end != "failed"]
    if ended and _by_problem(siblings.config):
        # One that ended in an opening by the target tells nothing.
        drafted = any(chain.written("draft") for chain in ended)
        _WENT[decider] = "atts" if drafted else "target"
    return decider


METHOD = Method(
    name="auto",
    solve=solve,
    options=AutoOptions,
    scores=True,
    decider=_decider,
    needs_calibration=True,
    whole_problems=_by_problem,
    takes_over=True,
    can_follow=True,
)
