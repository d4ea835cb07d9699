"""What models cost on GPUs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atts.errors import ConfigError
from atts.simulation.hardware import GPUS, NO_COSTS, Costs, Efficiency, Proposing, cache_tokens
from atts.simulation.shapes import BF16, FP8, SHAPES


def test_a_roofline_has_a_flat_and_a_steep_part() -> None:
    costs = Costs.of(SHAPES["qwq-32b"], GPUS["h200"], 1, Efficiency(row_seconds=0.0))
    assert costs.decode(64) == costs.decode(1)  # bound by reading the weights
    assert costs.decode(2_048) - costs.step == pytest.approx(2 * (costs.decode(1_024) - costs.step))


@given(
    st.sampled_from(sorted(SHAPES)),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(1, 2_000),
    st.integers(0, 10**6),
)
def test_more_gpus_are_not_slower_but_for_their_talk(
    name: str, parallel: int, rows: int, context: int
) -> None:
    def seconds(gpus: int) -> float:
        costs = Costs.of(SHAPES[name], GPUS["h200"], gpus, Efficiency())
        return costs.decode(rows) + context * costs.context

    talk = 2 * SHAPES[name].layers * 10e-6
    talk += rows * 2 * SHAPES[name].layers * 4 * SHAPES[name].hidden / GPUS["h200"].link * 2
    assert seconds(2 * parallel) <= seconds(parallel) + talk


def test_a_mixture_reads_the_experts_that_its_tokens_go_to() -> None:
    shape = SHAPES["qwen3-30b-a3b"]
    even = Efficiency(experts=1.0)
    costs = Costs.of(shape, GPUS["h200"], 1, even)
    bandwidth = GPUS["h200"].bandwidth * Efficiency().bandwidth
    one = shape.active_weights - shape.head_weights  # the input embedding is not read
    reading = BF16 * one / bandwidth
    assert costs._replace(least=0.0).reading(1) == pytest.approx(reading)
    assert costs.reading(1) == costs.least == 48 * even.layer_seconds > reading
    everything = BF16 * (shape.weights - shape.head_weights) / bandwidth
    assert costs.reading(1_000) == pytest.approx(everything)
    half = costs.weights + costs.experts * (1 - (120 / 128) ** 11)
    assert costs.reading(11) == pytest.approx(half)
    assert costs_of("qwq-32b").reading(1) == costs_of("qwq-32b").reading(1_000)
    # Arithmetic is that of the experts a token goes to.
    token = 2 * (one - shape.head_weights) / (GPUS["h200"].flops * Efficiency().compute)
    assert costs.token == pytest.approx(token)
    # Whose small multiplications reach less.
    usual = costs_of("qwen3-30b-a3b")
    assert usual.experts == pytest.approx(costs.experts / Efficiency().experts)
    assert usual.weights == costs.weights
    assert costs.token < usual.token < costs.token / Efficiency().experts


def test_a_mixture_stays_bound_by_reading_for_longer() -> None:
    """Up to (F / W) (bytes / 2) (total / active) requests, by the data sheet."""
    exact = Efficiency(compute=1.0, bandwidth=1.0, row_seconds=0.0, experts=1.0, layer_seconds=0.0)

    def bound(name: str) -> int:
        costs = Costs.of(SHAPES[name], GPUS["h200"], 1, exact)
        return next(n for n in range(1, 10**5) if n * costs.token > costs.reading(n))

    assert bound("qwen3-32b") == pytest.approx(206, rel=0.05)
    assert bound("qwen3-235b-a22b") == pytest.approx(206 * 234 / 21.5, rel=0.05)


def test_numbers_of_eight_bits_halve_what_is_read_and_multiplied() -> None:
    shape, gpu = SHAPES["qwq-32b"], GPUS["h200"]
    wide = Costs.of(shape, gpu, 1, Efficiency())
    narrow = Costs.of(shape.with_bytes(FP8, FP8), gpu, 1, Efficiency())
    assert narrow.token == pytest.approx(wide.token / 2)
    assert narrow.context == pytest.approx(wide.context / 2)
    assert narrow.logits == wide.logits  # the output matrix has 16 bits
    assert wide.weights / 2 < narrow.weights < 0.52 * wide.weights
    on_old = Costs.of(shape.with_bytes(FP8), GPUS["a100"], 1, Efficiency())
    assert on_old.token == Costs.of(shape, GPUS["a100"], 1, Efficiency()).token


def test_latent_attention_keeps_one_vector_a_token_on_every_gpu() -> None:
    shape = SHAPES["deepseek-v3.2"]
    assert shape.token_bytes == 61 * (512 + 64) * BF16
    assert shape.kept_copies(8) == 8
    assert SHAPES["qwen3-235b-a22b"].kept_copies(8) == 2  # four heads on eight GPUs
    assert SHAPES["qwq-32b"].kept_copies(8) == 1
    one, eight = (costs_of("deepseek-v3.2", gpus) for gpus in (1, 8))
    assert eight.context == pytest.approx(one.context, rel=0.5)  # no GPU reads less of it
    assert one.context < costs_of("glm-4.6").context / 3


def test_speculative_decoding_writes_several_tokens_a_pass() -> None:
    alone, small = costs_of("qwq-32b"), costs_of("qwen3-0.6b")
    for acceptance, written in ((0.0, 1.0), (0.5, 1.9375), (1.0, 5.0)):
        free = alone._replace(proposing=Proposing(NO_COSTS, 4, acceptance))
        # While reading the weights takes longest, five tokens take as long as one.
        assert free.decode(1) == pytest.approx(alone.decode(1) / written)
        assert free.attending == pytest.approx(alone.context / written)
    speculating = alone._replace(proposing=Proposing(small, 4, 0.8))
    one = (alone.decode(1) + 4 * small.decode(1)) / 3.3616
    assert speculating.decode(1) == pytest.approx(one)
    assert speculating.decode(1) < alone.decode(1)
    assert speculating.decode(512) > alone.decode(512)  # checking in vain is arithmetic
    assert speculating.prefill(1, 100, 1, 0.0, 0) > alone.prefill(1, 100, 1, 0.0, 0)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 10**6))
def test_steps_within_their_own_time_are_as_many(steps: int, rows: int, context: int) -> None:
    costs = costs_of("qwen3-30b-a3b")._replace(proposing=Proposing(NO_COSTS, 4, 0.7))
    seconds = costs.decoding(steps, rows, context)
    assert costs.steps_within(seconds, rows, context) == steps


def costs_of(name: str, gpus: int = 1) -> Costs:
    return Costs.of(SHAPES[name], GPUS["h200"], gpus, Efficiency())


def test_the_cache_is_what_the_weights_leave() -> None:
    shape, gpu = SHAPES["qwq-32b"], GPUS["h200"]
    room = cache_tokens(shape, gpu, 1, 0.88, None)
    assert room * shape.token_bytes + shape.bytes <= 0.88 * gpu.memory
    assert (room + 1) * shape.token_bytes + shape.bytes > 0.88 * gpu.memory
    assert cache_tokens(shape.with_bytes(cache=FP8), gpu, 1, 0.88, None) // 2 == room
    assert cache_tokens(shape, gpu, 1, 0.88, SHAPES["qwen3-0.6b"]) < 0.7 * room
    with pytest.raises(ConfigError, match="more GPUs for each copy"):
        cache_tokens(SHAPES["deepseek-r1-distill-llama-70b"], GPUS["h100"], 1, 0.88, None)
