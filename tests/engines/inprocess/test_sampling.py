"""Sampling: the right frequencies, the right nucleus, and never an impossible token."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atts.engines.base import Sampling
from atts.engines.inprocess.sampling import _keep_nucleus, sample

ALMOST_ONE = float(np.nextafter(1.0, 0.0))


def sampling(temperature: float = 1.0, top_p: float = 1.0) -> Sampling:
    return Sampling(max_tokens=1, temperature=temperature, top_p=top_p, seed=0)


def counts(logits: torch.Tensor, how: Sampling, draws: int) -> np.ndarray:
    """How often each token is drawn by numbers that are spread evenly over [0, 1)."""
    uniforms = ((np.arange(draws) + 0.5) / draws).tolist()
    tokens = sample(logits.expand(draws, -1), [how] * draws, uniforms)
    return np.bincount(tokens, minlength=logits.shape[-1])


@pytest.mark.parametrize("temperature", [0.3, 0.8, 1.0, 2.5])
def test_frequencies_follow_the_softmax(temperature: float) -> None:
    logits = torch.randn(40, generator=torch.Generator().manual_seed(1))
    draws = 5000
    expected = torch.softmax(logits.double() / temperature, dim=-1).numpy() * draws
    # Each token owns one interval of [0, 1), which holds its share of an even grid to within one.
    assert np.abs(counts(logits, sampling(temperature), draws) - expected).max() < 1.01


def test_top_p_keeps_the_likeliest_tokens_that_reach_it_in_their_proportions() -> None:
    logits = torch.tensor([0.05, 0.4, 0.15, 0.3, 0.1]).log()
    # 0.4 + 0.3 falls short of 0.8, so 0.15 is the last token that is kept.
    drawn = counts(logits, sampling(top_p=0.8), 8500)
    assert drawn.tolist() == pytest.approx([0, 4000, 1500, 3000, 0], abs=1.01)


def test_a_tiny_top_p_keeps_the_likeliest_token() -> None:
    logits = torch.tensor([0.0, 0.1, -1.0])
    assert counts(logits, sampling(top_p=1e-6), 100).tolist() == [0, 100, 0]


@given(
    seed=st.integers(0, 2**31),
    u=st.sampled_from([0.0, 0.5, 1 - 2.0**-24, 1 - 2.0**-25, ALMOST_ONE]),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
    top_p=st.sampled_from([0.3, 0.9, 1.0]),
)
def test_a_token_of_no_probability_is_never_drawn(
    seed: int, u: float, temperature: float, top_p: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(300, generator=generator)
    possible = torch.rand(300, generator=generator) < 0.3
    possible[0], possible[7], possible[-1] = False, True, False
    logits[~possible] = -torch.inf
    [token] = sample(logits[None], [sampling(temperature, top_p)], [u])
    assert possible[token]


def test_the_largest_uniform_number_stays_inside_the_nucleus() -> None:
    # As float32 this number is 1: an unguarded draw would pass the sum and take the last token.
    logits = torch.tensor([[3.0, 2.0, 1.0, -5.0]])
    assert sample(logits, [sampling(top_p=0.5)], [ALMOST_ONE]) == [0]


@pytest.mark.parametrize("temperature", [0.0, 2e-38, 1e-300])
def test_a_temperature_of_nothing_takes_the_likeliest_token(temperature: float) -> None:
    logits = torch.tensor([[50.0, 60.0, 59.0], [3.0, 1.0, 2.0]])
    assert sample(logits, [sampling(temperature)] * 2, [0.999, 0.999]) == [1, 0]


def test_rows_of_one_batch_are_sampled_each_in_its_own_way() -> None:
    logits = torch.randn(12, 50, generator=torch.Generator().manual_seed(3))
    ways = [sampling(0.0), sampling(0.7, 0.5), sampling(1.0), sampling(2.0, 0.95)] * 3
    uniforms = np.random.default_rng(0).random(12).tolist()
    alone = [sample(logits[i : i + 1], [ways[i]], [uniforms[i]])[0] for i in range(12)]
    assert sample(logits, ways, uniforms) == alone


def test_a_row_that_keeps_all_is_left_as_it_is_beside_one_that_does_not() -> None:
    # In a large vocabulary the sum of the likelier tokens reaches 1 by rounding before its end.
    generator = torch.Generator().manual_seed(3)
    probabilities = (3 * torch.randn(2, 32_000, generator=generator)).softmax(dim=-1)
    kept = _keep_nucleus(probabilities, torch.tensor([1.0, 0.5]))
    assert torch.equal(kept[0], probabilities[0])
    assert 0.5 <= kept[1].sum() < 0.51


def test_logits_that_are_not_numbers_give_no_token() -> None:
    logits = torch.zeros(4, 3)
    logits[1, 2] = torch.nan
    logits[2, 0] = torch.inf
    logits[3, :] = torch.nan
    ways = [sampling(), sampling(), sampling(), sampling(0.0)]
    assert sample(logits, ways, [0.5] * 4) == [1, -1, -1, -1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"seed": -1},
    ],
)
def test_impossible_ways_to_sample_are_refused(wrong: dict[str, float]) -> None:
    fields = {"max_tokens": 1, "temperature": 1.0, "top_p": 1.0, "seed": 0} | wrong
    with pytest.raises(ValueError, match="not a way to sample"):
        Sampling(**fields)  # type: ignore[arg-type]
