"""Which chains go by ATTS: a toy pool, in which speeds are known."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atts.methods.balance import REPORTS, SHARES, Balance, Mean

TURN = 100
LONG = 1_000
"""Tokens of a chain."""


class Pool:
    """So many chains in flight; tokens take what a function of the arm and the share says."""

    def __init__(self, balance: Balance, n: int, seconds: Callable[[str, float], float]) -> None:
        self.balance, self.n, self.seconds = balance, n, seconds
        self.now, self.begun, self.done = 0.0, {"atts": 0, "target": 0, "scout": 0}, 0
        self.chains: list[dict[str, float | str]] = []
        self.most = 0.0

    def run(self, chains: int) -> float:
        """The time to the end of the last."""
        left = chains
        while left or self.chains:
            while left and len(self.chains) < self.n:
                begun = self.balance.begin(self.now)
                self.begun[begun] += 1
                arm = "atts" if begun == "atts" else "target"
                move = "rest" if begun == "target" else self.balance.move(begun)
                self.chains.append({"begun": begun, "arm": arm, "move": move, "left": LONG,
                                    "began": self.now, "part": 0.0})  # fmt: skip
                left -= 1
            self._step()
        return self.now

    def _step(self) -> None:
        share = sum(c["arm"] == "atts" for c in self.chains) / len(self.chains)
        self.most = max(self.most, share)
        self.now += 1.0
        for chain in list(self.chains):
            arm = str(chain["arm"])
            wrote = 1.0 / self.seconds(arm, share)
            chain["left"] = float(chain["left"]) - wrote
            chain["part"] = float(chain["part"]) + wrote
            over = float(chain["left"]) <= 0.0
            if not over and (chain["move"] == "rest" or float(chain["part"]) < TURN):
                continue
            self.balance.told(arm, int(float(chain["part"])), float(chain["began"]), self.now)  # type: ignore[arg-type]
            chain |= {"part": 0.0, "began": self.now}
            begun = str(chain["begun"])
            if over:
                self.balance.end(arm, LONG)  # type: ignore[arg-type]
                self.balance.leave(arm, begun)  # type: ignore[arg-type]
                self.chains.remove(chain)
                continue
            chain["move"] = self.balance.move(begun)  # type: ignore[arg-type]
            after = "atts" if chain["move"] == "atts" else "target"
            self.balance.goes(arm, after)  # type: ignore[arg-type]
            chain["arm"] = after


def fresh(**advised: dict[int, float]) -> Balance:
    return Balance(advised.get("advised", {}), advised.get("alone", {}), 16, TURN)


def slow(arm: str, share: float) -> float:
    """ATTS is half as fast, and slows the target."""
    return 0.2 if arm == "atts" else 0.1 * (1.0 + share)


def fast(arm: str, share: float) -> float:
    return 0.05 if arm == "atts" else 0.1 * (1.0 - share / 2)


@pytest.mark.parametrize("n", [1, 4, 16, 64])
def test_where_atts_is_slow_it_costs_little(n: int) -> None:
    pool = Pool(fresh(), n, slow)
    took = pool.run(16 * n)
    alone = 16 * LONG * 0.1
    assert took <= alone / 0.95
    assert pool.most <= max(0.3, 1 / n)


@pytest.mark.parametrize("n", [1, 16, 64])
def test_where_atts_is_fast_all_chains_come_to_go_by_it(n: int) -> None:
    pool = Pool(fresh(), n, fast)
    took = pool.run(40 * n)
    assert pool.most == 1.0
    assert took < 0.8 * 40 * LONG * 0.1


def test_it_begins_as_advised() -> None:
    pool = Pool(fresh(advised={16: 2.0}, alone={16: 160.0}), 16, fast)
    assert pool.run(64) < 0.55 * 4 * LONG * 0.1
    assert pool.begun == {"atts": 64, "target": 0, "scout": 0}
    dull = Pool(fresh(advised={16: 0.9}), 16, fast)
    dull.run(640)
    assert dull.begun == {"atts": 0, "target": 640, "scout": 0}


def test_wrong_advice_is_seen_by_the_speed_that_it_foretold() -> None:
    pool = Pool(fresh(advised={16: 2.0}, alone={16: 160.0}), 16, slow)
    assert pool.run(160) < 10 * LONG * 0.1 / 0.95
    assert pool.balance.share == 0.0


def test_a_chain_that_is_slow_among_few_goes_on_by_the_target() -> None:
    """The last chains are looked at anew: one writes a piece by the target, and tells."""
    balance = fresh(advised={})
    for _ in range(8):
        balance.begin(0.0)
    balance.share = 1.0
    for _ in range(8):
        assert balance.move("atts") == "atts"
    for _ in range(5):
        balance.leave("target", "target")
    assert balance.move("atts") == "piece"
    assert balance.move("atts") == "atts", "one is enough"
    for _ in range(REPORTS):
        balance.told("atts", 10, 0.0, 5.0)
    balance.told("target", 10, 0.0, 1.0)
    assert balance.move("atts") == "rest"
    advised = fresh(advised={2: 0.5, 16: 2.0})
    for _ in range(16):
        assert advised.begin(0.0) == "atts"
    for _ in range(14):
        advised.leave("atts", "atts")
    assert advised.move("atts") == "rest"


def test_as_fast_is_no_reason() -> None:
    pool = Pool(fresh(), 16, lambda _arm, _share: 0.1)
    pool.run(320)
    assert pool.most < 0.5


def test_chains_that_are_longer_by_atts_count_for_less() -> None:
    balance = fresh()
    assert balance._longer == 1.0
    for _ in range(REPORTS):
        balance.end("target", 100)
        balance.end("atts", 150)
    assert balance._longer == 1.5


def test_what_fails_is_no_longer_counted() -> None:
    balance = fresh()
    begun = [balance.begin(0.0) for _ in range(4)]
    for each in begun:
        balance.leave("target", each)
    assert balance.in_flight == 0


@given(st.lists(st.tuples(st.integers(1, 100), st.floats(0.01, 10.0)), min_size=1, max_size=30))
def test_a_mean_lies_between_what_it_is_of(told: list[tuple[int, float]]) -> None:
    assert Mean().token is None
    mean = Mean()
    for tokens, seconds in told:
        mean.add(tokens, seconds)
    each = [seconds / tokens for tokens, seconds in told]
    assert mean.token is not None
    assert min(each) * (1 - 1e-9) <= mean.token <= max(each) * (1 + 1e-9)


def test_the_shares_rise_to_all() -> None:
    assert list(SHARES) == sorted(SHARES)
    assert SHARES[-1] == 1.0
