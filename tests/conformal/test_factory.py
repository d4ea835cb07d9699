"""Controls as a configuration asks for them: what each holds, from the first score on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atts.config import parse_config
from atts.conformal.control import Control
from atts.conformal.factory import make_control


def control(**settings: object) -> Control:
    return make_control(parse_config({"take_over": settings}, "a test").take_over, None)


def long_segments_last(rng: np.random.Generator, chains: int) -> list[float]:
    """Scores of a turn of chains that all begin at once: the longer, the higher, and the later."""
    lengths = rng.exponential(size=chains)
    scores = lengths + rng.normal(scale=0.5, size=chains)
    return [float(score) for _, score in sorted(zip(lengths, scores, strict=True))]


@pytest.mark.parametrize("settings", [{"control": "online"}, {}])
@pytest.mark.parametrize("rate", [0.2, 0.4, 0.7])
def test_the_rate_holds_from_the_first_chain_on_when_all_begin_at_once(
    settings: dict[str, object], rate: float
) -> None:
    rng = np.random.default_rng(3)
    ranks = control(rate=rate, **settings)
    for turn in range(3):
        taken = [
            ranks.decide(f"p{n % 50}", turn, score, rng.random()).take_over
            for n, score in enumerate(long_segments_last(rng, 800))
        ]
        for part in (taken[:100], taken[:400], taken[400:], taken):
            assert np.mean(part) == pytest.approx(rate, abs=0.06)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.floats(-9, 9)), min_size=1, max_size=60),
    st.floats(0.05, 0.95),
    st.booleans(),
)
def test_online_is_off_by_no_more_than_its_bound_whatever_comes(
    stream: list[tuple[int, float]], rate: float, by_turn: bool
) -> None:
    ranks = control(control="online", rate=rate, by_turn=by_turn)
    taken: dict[int, list[bool]] = {}
    for n, (turn, score) in enumerate(stream):
        verdict = ranks.decide("a", turn, score, (n * 0.61803) % 1.0)
        taken.setdefault(turn if by_turn else 0, []).append(verdict.take_over)
    for decisions in taken.values():
        assert abs(np.mean(decisions) - rate) <= 2 / np.sqrt(len(decisions)) + 1e-9
