"""Sizes of models, and what they cost."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atts.errors import ConfigError
from atts.simulation.hardware import GPUS, SHAPES, Costs, Efficiency, cache_tokens, shape_of


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        # As their authors say.
        ("deepseek-r1-distill-qwen-1.5b", 1.78),
        ("qwen2.5-7b-instruct", 7.62),
        ("deepseek-r1-distill-llama-8b", 8.03),
        ("qwq-32b", 32.8),
        ("deepseek-r1-distill-llama-70b", 70.6),
    ],
)
def test_weights_add_up(name: str, billions: float) -> None:
    assert SHAPES[name].weights / 1e9 == pytest.approx(billions, rel=0.005)


def test_a_shape_is_read_from_a_config_file() -> None:
    shape = shape_of("bundled/target")
    assert (shape.layers, shape.hidden, shape.kv_heads, shape.head_size) == (8, 256, 4, 32)
    assert shape.tied


def test_models_of_unknown_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"some-model are not known.*qwq-32b"):
        shape_of("someone/some-model")
    with pytest.raises(ConfigError, match=r"config\.json"):
        shape_of(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"num_experts": 8}))
    with pytest.raises(ConfigError, match="mixture of experts"):
        shape_of(str(tmp_path))


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


def test_the_cache_is_what_the_weights_leave() -> None:
    shape, gpu = SHAPES["qwq-32b"], GPUS["h200"]
    room = cache_tokens(shape, gpu, 1, 0.88)
    assert room * shape.token_bytes + 2 * shape.weights <= 0.88 * gpu.memory
    assert (room + 1) * shape.token_bytes + 2 * shape.weights > 0.88 * gpu.memory
    with pytest.raises(ConfigError, match="more GPUs for each copy"):
        cache_tokens(SHAPES["deepseek-r1-distill-llama-70b"], GPUS["h100"], 1, 0.88)
